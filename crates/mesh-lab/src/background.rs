//! What of a lab goes on while nobody waits for it: applications, relays, on a thread of their own.

use anyhow::{Context, Result};
use mesh_runtime::Scope;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};

/// A thread with a runtime on it. Dropping it ends the thread and all it runs.
#[derive(Debug)]
pub struct Background {
    scope: Scope,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts one and returns when `start`, which it calls first, has. What is to go on is spawned in
    /// the scope that `start` is given.
    ///
    /// # Errors
    /// That of `start`, or when the thread cannot be made.
    pub fn start(
        name: &str,
        start: impl FnOnce(&Scope) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let scope = Scope::new();
        let owner = scope.clone();
        let (told, started) = sync_channel(1);
        let work = async move || {
            // Nobody waits any more: then nobody misses the answer.
            drop(told.send(start(&owner)));
            owner.cancelled().await;
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || runtime.block_on(work()))?;
        let background = Self {
            scope,
            thread: Some(thread),
        };
        let started = started.recv();
        started.with_context(|| format!("the thread '{name}' ended before it began"))??;
        Ok(background)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.scope.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic there has shown itself.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_runs_goes_on_by_itself_and_ends_with_it() {
        let (told, heard) = sync_channel(1);
        let background = Background::start("test", move |scope| {
            let ticking = scope.clone();
            scope.spawn("ticks", async move {
                while !ticking.is_cancelled() {
                    // A tick that is not heard yet is enough.
                    told.try_send(()).ok();
                    tokio::task::yield_now().await;
                }
            });
            Ok(())
        });
        let background = background.unwrap();
        heard.recv().unwrap();
        heard.recv().unwrap();
        drop(background);
        while heard.recv().is_ok() {}
    }

    #[test]
    fn what_keeps_it_from_starting_is_told() {
        let failed = Background::start("test", |_| anyhow::bail!("no"));
        assert_eq!(failed.unwrap_err().to_string(), "no");
    }
}
