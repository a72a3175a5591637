//! A place: one network namespace of the lab, and what can be done in it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};
use mesh_net::Netns;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use crate::command::output_of;
use crate::topology::v6_of;

/// A pod, a node or the outside. Clones stand for the same namespace.
#[derive(Debug, Clone)]
pub struct Place {
    name: String,
    path: PathBuf,
    netns: Netns,
    address: Ipv4Addr,
}

impl Place {
    pub(crate) fn new(name: String, path: PathBuf, address: Ipv4Addr) -> Result<Self> {
        let netns = Netns::open(&path).with_context(|| path.display().to_string())?;
        Ok(Self {
            name,
            path,
            netns,
            address,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// File of its network namespace, such as `/run/netns/frontend`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        self.address
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        v6_of(self.address)
    }

    /// Runs `work` with the calling thread inside.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn enter<R>(&self, work: impl FnOnce() -> R) -> io::Result<R> {
        self.netns.enter(work)
    }

    /// Runs a command inside to its end, with an input, and gives what it printed. It blocks.
    ///
    /// # Errors
    /// When it cannot be started or fails; the message holds its complaint.
    pub fn output(&self, command: &mut Command, input: &str) -> Result<String> {
        self.enter(|| output_of(command, input))?
            .with_context(|| format!("in {}", self.name))
    }

    /// Runs a future inside: on a thread of its own that stays in the namespace, with a runtime of
    /// its own, so that every socket it makes is the place's. The future need not be `Send`, and may
    /// spawn local tasks; they end with it. Dropping the answer does not stop the work.
    ///
    /// # Errors
    /// When the thread or the runtime cannot be made, the namespace not be entered, or the work
    /// panics.
    pub async fn run_in<F, Fut, T>(&self, make: F) -> Result<T>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T>,
        T: Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let netns = self.netns.clone();
        thread::Builder::new()
            .name(format!("in-{}", self.name))
            .spawn(move || {
                let outcome = netns.enter(|| block_on(make)).and_then(|outcome| outcome);
                // Nobody waits any more: then nobody misses the answer.
                drop(answer.send(outcome));
            })
            .context("cannot start a thread")?;
        let outcome = answered
            .await
            .with_context(|| format!("the work in {} panicked", self.name))?;
        outcome.with_context(|| format!("in {}", self.name))
    }
}

fn block_on<F, Fut, T>(make: F) -> io::Result<T>
where
    F: FnOnce() -> Fut,
    Fut: Future<Output = T>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(LocalSet::new().block_on(&runtime, async { make().await }))
}
