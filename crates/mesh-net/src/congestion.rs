//! Who paces what a connection sends (RFC 5681 and its successors).
//!
//! The kernel's choice for all connections (`net.ipv4.tcp_congestion_control`) is made for long ways.
//! BBR paces: without the `fq` queue that is a timer a packet, and on a way of microseconds, where it
//! has nothing to find out, half of the processor time of bulk (docs/performance.md). So it is not used
//! between the proxy and an application of its machine, nor in tunnels whose round trip is short. Other
//! choices of the kernel are left alone in tunnels: they do not pace, and may be made for that network.

mod round_trip;

use round_trip::round_trip;
use socket2::{Domain, SockRef, Socket, Type};
use std::io;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::net::TcpStream;

/// Longest name of an algorithm, with its closing zero (`TCP_CA_NAME_MAX` of the kernel).
const NAME_BYTES_MAX: usize = 16;
/// A tunnel with a round trip below this is within a site.
pub const NEAR: Duration = Duration::from_millis(1);
/// Algorithms that do not pace, the better first. The second is in every kernel and allowed to everyone.
const UNPACED: [&str; 2] = ["cubic", "reno"];

/// What lies between the two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Link {
    /// A network, or it is not known.
    #[default]
    Network,
    /// A network within the mesh, for bulk of many streams. Whoever takes such connections calls
    /// [`settle_tunnel`] on each.
    Tunnel,
    /// Nothing: the other end is on this machine.
    Machine,
}

/// How an algorithm is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// The kernel's choice, but none that paces where the way is short.
    #[default]
    Auto,
    /// The kernel's choice.
    Kernel,
    /// This one.
    Named(String),
}

/// The algorithms of every proxied connection of the process. Those of [`Link::Network`] are always
/// the kernel's choice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Congestion {
    /// Of [`Link::Machine`].
    pub machine: Algorithm,
    /// Of [`Link::Tunnel`].
    pub tunnel: Algorithm,
}

/// What is done to sockets.
#[derive(Debug, Default)]
struct Decided {
    machine: Option<String>,
    tunnel: Option<String>,
    /// What a tunnel gets that turns out to be long.
    far: Option<String>,
}

static OF_PROCESS: OnceLock<Decided> = OnceLock::new();

/// Sets the algorithms of the connections made and accepted from now on; the first call counts.
///
/// What the kernel's choice is, is asked once, here: in the network namespace of the caller.
pub fn set_congestion(congestion: &Congestion) {
    OF_PROCESS.get_or_init(|| decide(congestion));
}

/// Whether the kernel knows an algorithm by this name and lets this process have it.
///
/// # Errors
/// What the kernel says to it: no such algorithm, or not for this user.
pub fn check_congestion(name: &str) -> io::Result<()> {
    if name.is_empty() || name.len() >= NAME_BYTES_MAX {
        // The kernel would cut it off and find another.
        return Err(io::ErrorKind::InvalidInput.into());
    }
    probe()?.set_tcp_congestion(name.as_bytes())
}

fn decide(congestion: &Congestion) -> Decided {
    let kernels = kernels().inspect_err(|error| {
        tracing::warn!(%error, "the kernel's congestion control is not known and used for all");
    });
    let pacing = kernels.ok().filter(|name| paces(name));
    let unpaced = || UNPACED.into_iter().find(|n| check_congestion(n).is_ok());
    let unpaced = pacing.as_ref().and_then(|_| unpaced().map(str::to_owned));
    let named = |choice: &Algorithm| match choice {
        Algorithm::Auto => unpaced.clone(),
        Algorithm::Kernel => None,
        Algorithm::Named(name) => Some(name.clone()),
    };
    let decided = Decided {
        machine: named(&congestion.machine),
        tunnel: named(&congestion.tunnel),
        far: pacing.filter(|_| congestion.tunnel == Algorithm::Auto),
    };
    tracing::info!(
        machine = decided.machine.as_deref().unwrap_or("kernel"),
        tunnel = decided.tunnel.as_deref().unwrap_or("kernel"),
        tunnel_far = decided.far.as_deref().unwrap_or("same"),
        "congestion control"
    );
    decided
}

/// BBR is the only one of the kernel that does (`tcp_bbr.c`; its later versions have longer names).
fn paces(name: &str) -> bool {
    name.starts_with("bbr")
}

fn probe() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM, None)
}

fn kernels() -> io::Result<String> {
    let name = probe()?.tcp_congestion()?;
    let name = String::from_utf8_lossy(&name);
    Ok(name.trim_end_matches('\0').to_owned())
}

/// To be called before the socket connects or listens, as an algorithm that paces leaves the pacing
/// behind; what a listener accepts inherits it.
pub(crate) fn apply(link: Link, socket: &SockRef<'_>) {
    let decided = || OF_PROCESS.get_or_init(|| decide(&Congestion::default()));
    let name = match link {
        Link::Network => None,
        Link::Tunnel => decided().tunnel.as_deref(),
        Link::Machine => decided().machine.as_deref(),
    };
    set(socket, name);
}

/// Gives a tunnel that was just made its algorithm, by the round trip of the TCP handshake.
pub fn settle_tunnel(stream: &TcpStream) {
    let Some(far) = OF_PROCESS.get().and_then(|decided| decided.far.as_deref()) else {
        return;
    };
    match round_trip(stream) {
        Ok(time) if time < NEAR => {}
        Ok(_) => set(&SockRef::from(stream), Some(far)),
        Err(error) => tracing::debug!(%error, "the round trip of a tunnel is not known"),
    }
}

fn set(socket: &SockRef<'_>, name: Option<&str>) {
    let Some(name) = name else { return };
    if let Err(error) = socket.set_tcp_congestion(name.as_bytes()) {
        // It was there at the start. The connection works without, at a price.
        tracing::debug!(name, %error, "congestion control stays as it is");
    }
}

#[cfg(test)]
mod tests;
