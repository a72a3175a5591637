//! The applications behind the proxies: an echo and a sink, of all server pods, on one thread.

use super::Shared;
use crate::net::{Poller, listen, would_wait};
use anyhow::{Context, Result};
use mesh_lab::Place;
use rustix::event::epoll::EventFlags;
use rustix::net::{RecvFlags, recv};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

/// Sends back what comes.
pub(crate) const ECHO: u16 = 9000;
/// Counts what comes.
pub(crate) const SINK: u16 = 9001;
/// Most that the echo takes with one read, bytes.
const ECHO_BYTES: usize = 16 << 10;
/// Most that the sink drops with one read, bytes.
const SINK_BYTES: usize = 1 << 20;

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Server {
    shared: Shared,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens in each place.
    ///
    /// # Errors
    /// When a port is taken or a place cannot be entered.
    pub(crate) fn start<'a>(places: impl Iterator<Item = &'a Place>) -> Result<Self> {
        let mut serving = Serving::new()?;
        for place in places {
            for port in [ECHO, SINK] {
                let listener = place
                    .enter(|| listen(port))?
                    .with_context(|| format!("{}:{port}", place.name()))?;
                serving.add(Peer::Listener(port, listener))?;
            }
        }
        let shared = Shared::default();
        serving.sunk = Arc::clone(&shared.done);
        let inner = shared.clone();
        let thread = thread::Builder::new()
            .name("server".to_owned())
            .spawn(move || {
                if let Err(error) = serving.run(&inner) {
                    eprintln!("bench l4: the server has ended: {error:#}");
                }
            })
            .context("cannot start a thread")?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Bytes that reached any sink so far.
    pub(crate) fn sunk(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has shown itself.
            drop(thread.join());
        }
    }
}

enum Peer {
    Listener(u16, TcpListener),
    Echo(TcpStream),
    Sink(TcpStream),
}

/// What became of a look at a peer.
enum Look {
    Stays,
    Ended,
}

struct Serving {
    poller: Poller,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    sunk: Arc<AtomicU64>,
    buffer: Vec<u8>,
}

impl Serving {
    fn new() -> Result<Self> {
        Ok(Self {
            poller: Poller::new()?,
            peers: Vec::new(),
            free: Vec::new(),
            sunk: Arc::default(),
            buffer: vec![0; SINK_BYTES],
        })
    }

    fn add(&mut self, peer: Peer) -> Result<()> {
        let key = self.free.pop().unwrap_or_else(|| {
            self.peers.push(None);
            self.peers.len() - 1
        });
        match &peer {
            Peer::Listener(_, listener) => self.poller.add(listener, key, EventFlags::IN)?,
            Peer::Echo(stream) | Peer::Sink(stream) => {
                self.poller.add(stream, key, EventFlags::IN)?;
            }
        }
        if let Some(slot) = self.peers.get_mut(key) {
            *slot = Some(peer);
        }
        Ok(())
    }

    fn run(mut self, shared: &Shared) -> Result<()> {
        let mut ready = Vec::new();
        while !shared.stopped() {
            self.poller.wait(&mut ready)?;
            for key in &ready {
                self.look(*key)?;
            }
        }
        Ok(())
    }

    fn look(&mut self, key: usize) -> Result<()> {
        let Some(slot) = self.peers.get_mut(key) else {
            return Ok(());
        };
        let Some(mut peer) = slot.take() else {
            return Ok(());
        };
        let look = match &mut peer {
            Peer::Listener(port, listener) => {
                let (port, accepted) = (*port, accepted(listener)?);
                if let Some(slot) = self.peers.get_mut(key) {
                    *slot = Some(peer);
                }
                for stream in accepted {
                    self.add(if port == SINK {
                        Peer::Sink(stream)
                    } else {
                        Peer::Echo(stream)
                    })?;
                }
                return Ok(());
            }
            Peer::Echo(stream) => echo(stream, &mut self.buffer),
            Peer::Sink(stream) => sink(stream, &mut self.buffer, &self.sunk),
        };
        match look {
            Look::Stays => {
                if let Some(slot) = self.peers.get_mut(key) {
                    *slot = Some(peer);
                }
            }
            Look::Ended => self.free.push(key),
        }
        Ok(())
    }
}

fn accepted(listener: &TcpListener) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::new();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                streams.push(stream);
            }
            Err(error) if would_wait(&error) => return Ok(streams),
            // The client has gone before it was taken.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error).context("accept"),
        }
    }
}

/// A client of the echo waits for its answer before it sends more, so the answer always has room.
fn echo(stream: &mut TcpStream, buffer: &mut [u8]) -> Look {
    let room = buffer.get_mut(..ECHO_BYTES).unwrap_or_default();
    match stream.read(room) {
        Ok(0) => Look::Ended,
        Ok(count) => match stream.write_all(room.get(..count).unwrap_or_default()) {
            Ok(()) => Look::Stays,
            Err(_) => Look::Ended,
        },
        Err(error) if would_wait(&error) => Look::Stays,
        Err(_) => Look::Ended,
    }
}

/// Dropped in the kernel, without a copy: what counts is that the proxy was rid of it.
fn sink(stream: &TcpStream, buffer: &mut [u8], sunk: &AtomicU64) -> Look {
    match recv(stream, buffer, RecvFlags::TRUNC) {
        Ok((_, 0)) => Look::Ended,
        Ok((_, count)) => {
            sunk.fetch_add(count as u64, Ordering::Relaxed);
            Look::Stays
        }
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Look::Stays,
        Err(_) => Look::Ended,
    }
}
