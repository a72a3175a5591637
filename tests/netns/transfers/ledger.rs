//! The far ends of transfers: they send back what comes, and write down what came.

use crate::bytes::{PIECE, at};
use anyhow::{Context, Result};
use mesh_lab::Place;
use mesh_net::{ListenOptions, listen};
use mesh_runtime::Scope;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Where they listen for small connections. Above it each transfer has a port of its own, by which
/// its records are known: the kernel may give a redirected connection another source port, when its own
/// is taken by one to elsewhere, but never another destination.
pub(super) const PORT: u16 = 7100;

/// Past the last of these ports.
pub(super) const PORT_END: u16 = PORT + 900;

/// The port of a transfer.
pub(super) fn port(number: u16) -> u16 {
    PORT + number
}

/// What came of one transfer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Received {
    /// Connections that brought it: more than one is a request sent twice.
    pub(super) connections: usize,
    /// Bytes, each of them compared.
    pub(super) bytes: u64,
    /// Some byte was another than its place in the stream says.
    pub(super) wrong: bool,
}

/// What came of every transfer, by number.
#[derive(Clone, Default)]
pub(super) struct Ledger {
    entries: Arc<Mutex<BTreeMap<u32, Received>>>,
    /// Ends with the ledger.
    scope: Scope,
}

impl Ledger {
    /// Serves on a port of a pod. Needs a tokio runtime around it.
    pub(super) fn serve(&self, place: &Place, port: u16) -> Result<()> {
        let options = ListenOptions {
            netns: Some(place.netns().clone()),
            ..ListenOptions::new((Ipv4Addr::UNSPECIFIED, port).into())
        };
        let listener = listen(&options).with_context(|| place.name().to_owned())?;
        self.scope.spawn("ledger", self.clone().accept(listener));
        Ok(())
    }

    /// What came of a transfer.
    pub(super) fn of(&self, number: u32) -> Received {
        self.with(number, |entry| *entry)
    }

    fn with<R>(&self, number: u32, work: impl FnOnce(&mut Received) -> R) -> R {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        work(entries.entry(number).or_default())
    }

    async fn accept(self, listener: TcpListener) {
        while let Ok((stream, _)) = mesh_net::accept(&listener).await {
            let ledger = self.clone();
            self.scope.spawn("ledger connection", async move {
                // How it ends is the other side's to judge.
                ledger.echo(stream).await.ok();
            });
        }
    }

    async fn echo(self, mut stream: TcpStream) -> Result<()> {
        let number = stream.read_u32().await?;
        self.with(number, |entry| entry.connections += 1);
        let mut buffer = vec![0; PIECE];
        let mut received = 0;
        loop {
            let count = stream.read(&mut buffer).await?;
            if count == 0 {
                stream.shutdown().await?;
                return Ok(());
            }
            let piece = &buffer[..count];
            let wrong = *piece != *at(start(number) + received, count);
            received += count as u64;
            self.with(number, |entry| {
                entry.bytes = received;
                entry.wrong |= wrong;
            });
            stream.write_all(piece).await?;
        }
    }
}

/// Where in the stream a transfer begins: no two alike, so that bytes of another one show.
pub(super) fn start(number: u32) -> u64 {
    u64::from(number) * 4099
}
