//! What the kernel measured of a connection.

use nix::libc;
use nix::sys::socket::{GetSockOpt, sockopt::GetStruct};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// `TCP_INFO` (tcp(7)).
#[derive(Debug, Clone, Copy)]
struct TcpInfo;

nix::getsockopt_impl!(
    TcpInfo,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    libc::tcp_info,
    GetStruct<libc::tcp_info>
);

/// The smoothed round trip of a connection, in microseconds of resolution: that of its TCP handshake
/// when nothing was sent yet.
pub(super) fn round_trip(socket: &impl AsFd) -> io::Result<Duration> {
    let info = TcpInfo.get(socket)?;
    Ok(Duration::from_micros(u64::from(info.tcpi_rtt)))
}
