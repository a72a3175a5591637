//! Bytes as fast as they go.

use super::Shared;
use crate::net::{LOOK, connect, would_wait};
use anyhow::{Context, Result, anyhow};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread;

/// Size of one write, bytes.
const BLOCK: usize = 256 << 10;

/// Sends on each connection from a thread of its own until it is stopped.
pub(super) fn run(shared: &Shared, to: SocketAddr, connections: usize) -> Result<()> {
    // All are made before any sends, and in the namespace of the calling thread.
    let streams: Vec<TcpStream> = (0..connections)
        .map(|_| connect(to))
        .collect::<Result<_>>()?;
    thread::scope(|scope| {
        let senders: Vec<_> = streams
            .into_iter()
            .map(|stream| scope.spawn(move || send(shared, stream)))
            .collect();
        for sender in senders {
            sender.join().map_err(|_| anyhow!("a sender panicked"))??;
        }
        Ok(())
    })
}

fn send(shared: &Shared, mut stream: TcpStream) -> Result<()> {
    let block = vec![0x5a; BLOCK];
    stream.set_write_timeout(Some(LOOK))?;
    while !shared.stopped() {
        match stream.write(&block) {
            Ok(count) => shared.count(count as u64),
            Err(error) if would_wait(&error) => {}
            Err(error) => return Err(error).context("the bulk connection broke"),
        }
    }
    Ok(())
}
