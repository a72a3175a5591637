//! Plain connections made by others and not used yet.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Connections held at once; the oldest go first.
const OFFERED_MAX: usize = 64;
/// How long one is good: servers do not close a new connection sooner.
const OFFERED_FOR: Duration = Duration::from_secs(1);

/// The connections, oldest first.
#[derive(Default)]
pub(super) struct Offered {
    held: RefCell<VecDeque<(Instant, SocketAddr, TcpStream)>>,
}

impl Offered {
    pub(super) fn put(&self, address: SocketAddr, connection: TcpStream) {
        let mut held = self.held.borrow_mut();
        forget_old(&mut held);
        if held.len() >= OFFERED_MAX {
            held.pop_front();
        }
        held.push_back((Instant::now(), address, connection));
    }

    /// One to an address that neither side has used or closed.
    pub(super) fn take(&self, address: SocketAddr) -> Option<TcpStream> {
        let mut held = self.held.borrow_mut();
        forget_old(&mut held);
        while let Some(at) = held.iter().position(|(_, to, _)| *to == address) {
            let (_, _, connection) = held.remove(at)?;
            if is_fresh(&connection) {
                return Some(connection);
            }
        }
        None
    }
}

fn forget_old(held: &mut VecDeque<(Instant, SocketAddr, TcpStream)>) {
    let old = |since: &Instant| since.elapsed() >= OFFERED_FOR;
    while held.front().is_some_and(|(since, ..)| old(since)) {
        held.pop_front();
    }
}

/// Nothing was received, and no end.
fn is_fresh(connection: &TcpStream) -> bool {
    let read = connection.try_read(&mut [0]);
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
