//! New connections, and connections that do nothing.

use super::Shared;
use crate::net::{LOOK, PATIENCE, Poller, begin, begun, connect, would_wait};
use anyhow::{Context, Result, bail, ensure};
use rustix::event::epoll::EventFlags;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Instant;

/// Connections in flight while idle ones are being opened.
const OPENING: usize = 16;

/// One byte there and back.
pub(super) fn once(to: SocketAddr) -> Result<()> {
    let mut stream = connect(to)?;
    stream.write_all(b"?")?;
    let mut byte = [0];
    stream.read_exact(&mut byte).context("no echo")?;
    ensure!(byte == *b"?", "another byte came back");
    Ok(())
}

/// A connection on its way to its first byte back.
struct Attempt {
    stream: TcpStream,
    asked: bool,
}

impl Attempt {
    fn begin(to: SocketAddr, poller: &Poller, key: usize) -> Result<Self> {
        let stream = begin(to).with_context(|| format!("connect to {to}"))?;
        poller.add(&stream, key, EventFlags::OUT)?;
        Ok(Self {
            stream,
            asked: false,
        })
    }

    /// Goes on with what is ready; whether the byte is back.
    fn go_on(&mut self, poller: &Poller, key: usize) -> Result<bool> {
        if !self.asked {
            begun(&self.stream).context("no connection")?;
            self.stream.write_all(b"?").context("cannot send")?;
            self.asked = true;
            poller.change(&self.stream, key, EventFlags::IN)?;
            return Ok(false);
        }
        match self.stream.read(&mut [0]) {
            Ok(0) => bail!("the connection ended without an answer"),
            Ok(_) => Ok(true),
            Err(error) if would_wait(&error) => Ok(false),
            Err(error) => Err(error).context("the connection broke"),
        }
    }
}

/// Opens, asks, closes, so many at a time.
pub(super) fn run(shared: &Shared, to: SocketAddr, in_flight: usize) -> Result<()> {
    let poller = Poller::new()?;
    let mut attempts = (0..in_flight)
        .map(|key| Attempt::begin(to, &poller, key))
        .collect::<Result<Vec<_>>>()?;
    let mut ready = Vec::new();
    let mut last = Instant::now();
    while !shared.stopped() {
        poller.wait(&mut ready)?;
        for key in &ready {
            let Some(attempt) = attempts.get_mut(*key) else {
                continue;
            };
            if attempt.go_on(&poller, *key)? {
                // The old one closes here, and leaves the poller with it.
                *attempt = Attempt::begin(to, &poller, *key)?;
                shared.count(1);
                last = Instant::now();
            }
        }
        ensure!(
            last.elapsed() < PATIENCE,
            "no connection came about any more"
        );
    }
    Ok(())
}

/// Opens, asks, and keeps what it opened until it is stopped.
pub(super) fn hold(shared: &Shared, to: SocketAddr, count: usize) -> Result<()> {
    let poller = Poller::new()?;
    let mut attempts = Vec::with_capacity(count);
    let mut ready = Vec::new();
    let (mut done, mut last) = (0, Instant::now());
    while done < count && !shared.stopped() {
        while attempts.len() < count && attempts.len() - done < OPENING {
            let attempt = Attempt::begin(to, &poller, attempts.len())?;
            attempts.push(attempt);
        }
        poller.wait(&mut ready)?;
        for key in &ready {
            if let Some(attempt) = attempts.get_mut(*key)
                && attempt.go_on(&poller, *key)?
            {
                done += 1;
                shared.count(1);
                last = Instant::now();
            }
        }
        ensure!(
            last.elapsed() < PATIENCE,
            "no connection came about any more"
        );
    }
    while !shared.stopped() {
        thread::sleep(LOOK);
    }
    Ok(())
}
