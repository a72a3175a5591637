//! The applications in the server pods, and what they saw.

use crate::pattern;
use anyhow::{Context, Result};
use mesh_lab::Place;
use mesh_net::{ListenOptions, listen};
use mesh_runtime::Scope;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Sends back what comes, as it comes.
pub(crate) const ECHO: u16 = 9000;
/// Reads to the end, then sends everything back.
pub(crate) const MIRROR: u16 = 9001;
/// Sends [`BULK_BYTES`] and reads as many, both at once.
pub(crate) const BULK: u16 = 9002;
/// Sends a little, ends its own direction, and only then reads.
pub(crate) const SERVER_FIRST: u16 = 9003;
/// An echo that policy lets nobody reach.
pub(crate) const DENIED: u16 = 9004;
/// An echo that policy lets anyone reach.
pub(crate) const ANYONE: u16 = 9005;
/// An echo whose connections a policy will cut.
pub(crate) const CUT: u16 = 9006;
/// Every port.
const PORTS: [u16; 7] = [ECHO, MIRROR, BULK, SERVER_FIRST, DENIED, ANYONE, CUT];

/// Bytes of the bulk transfer, each way.
pub(crate) const BULK_BYTES: u64 = 100 << 20;
/// Bytes that [`SERVER_FIRST`] sends.
pub(crate) const SERVER_FIRST_BYTES: u64 = 70_000;
/// Most that [`MIRROR`] takes.
const MIRROR_BYTES_MAX: u64 = 16 << 20;

/// A connection that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Visit {
    /// Who the application took for its client.
    pub(crate) from: IpAddr,
    /// Once it ended: how many bytes of the pattern came, or what went wrong.
    pub(crate) outcome: Option<Result<u64, String>>,
}

type Visits = BTreeMap<(String, u16), Vec<Visit>>;

/// What the applications saw, by pod and port.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Visits>>);

impl Seen {
    fn with<R>(&self, work: impl FnOnce(&mut Visits) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many connections arrived.
    pub(crate) fn count(&self, pod: &str, port: u16) -> usize {
        self.with(|visits| {
            visits
                .get(&(pod.to_owned(), port))
                .map(Vec::len)
                .unwrap_or_default()
        })
    }

    /// The last connection that arrived.
    pub(crate) fn last(&self, pod: &str, port: u16) -> Option<Visit> {
        self.with(|visits| visits.get(&(pod.to_owned(), port))?.last().cloned())
    }

    /// Waits until the last connection has ended, and gives how many bytes of the pattern came.
    pub(crate) async fn outcome(&self, pod: &str, port: u16) -> Result<u64> {
        for _ in 0..1000 {
            if let Some(outcome) = self.last(pod, port).and_then(|visit| visit.outcome) {
                return outcome.map_err(anyhow::Error::msg);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::bail!("the server's connection did not end within 10 s")
    }

    fn arrived(&self, pod: &str, port: u16, from: SocketAddr) -> usize {
        self.with(|visits| {
            let list = visits.entry((pod.to_owned(), port)).or_default();
            list.push(Visit {
                from: from.ip().to_canonical(),
                outcome: None,
            });
            list.len() - 1
        })
    }

    fn ended(&self, pod: &str, port: u16, number: usize, outcome: Result<u64>) {
        self.with(|visits| {
            let visit = visits
                .get_mut(&(pod.to_owned(), port))
                .and_then(|list| list.get_mut(number));
            if let Some(visit) = visit {
                visit.outcome = Some(outcome.map_err(|error| format!("{error:#}")));
            }
        });
    }
}

/// Starts every application in a pod; they end with `scope`. Needs a tokio runtime around it.
pub(crate) fn start(scope: &Scope, place: &Place, seen: &Seen) -> Result<()> {
    for port in PORTS {
        let options = ListenOptions {
            netns: Some(place.netns().clone()),
            ..ListenOptions::new((Ipv6Addr::UNSPECIFIED, port).into())
        };
        let listener = listen(&options).with_context(|| format!("{}:{port}", place.name()))?;
        let (pod, seen) = (place.name().to_owned(), seen.clone());
        scope.spawn("app", serve(scope.clone(), listener, pod, port, seen));
    }
    Ok(())
}

async fn serve(scope: Scope, listener: TcpListener, pod: String, port: u16, seen: Seen) {
    while let Ok((stream, from)) = mesh_net::accept(&listener).await {
        let number = seen.arrived(&pod, port, from);
        let (pod, seen) = (pod.clone(), seen.clone());
        scope.spawn("app connection", async move {
            let outcome = answer(stream, port).await;
            seen.ended(&pod, port, number, outcome);
        });
    }
}

async fn answer(mut stream: TcpStream, port: u16) -> Result<u64> {
    match port {
        MIRROR => {
            let mut bytes = Vec::new();
            (&mut stream)
                .take(MIRROR_BYTES_MAX)
                .read_to_end(&mut bytes)
                .await?;
            stream.write_all(&bytes).await?;
            stream.shutdown().await?;
            Ok(bytes.len() as u64)
        }
        BULK => {
            let (mut read, mut write) = stream.split();
            let both = tokio::join!(
                pattern::receive(&mut read),
                pattern::send(&mut write, BULK_BYTES)
            );
            both.1.and(both.0)
        }
        SERVER_FIRST => {
            pattern::send(&mut stream, SERVER_FIRST_BYTES).await?;
            pattern::receive(&mut stream).await
        }
        _ => {
            let (mut read, mut write) = stream.split();
            let count = tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await?;
            Ok(count)
        }
    }
}
