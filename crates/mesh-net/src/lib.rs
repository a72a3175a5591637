//! Sockets: listen and connect with options, original destination, network namespaces, protocol
//! detection, and the byte pump.
//!
//! Every socket a proxy makes is made here, so that marks, keep-alive, congestion control, backlog and namespaces are
//! decided in one place. Nothing here knows of TLS, HTTP or the mesh.

mod addresses;
mod congestion;
mod connect;
mod detect;
mod keep_alive;
mod listen;
mod netns;
mod original;
mod prefixed;
mod pump;
mod seqpacket;
mod sni;
mod udp;

pub use addresses::is_interface_address;
pub use congestion::{
    Algorithm, Congestion, Link, NEAR, check_congestion, set_congestion, settle_tunnel,
};
pub use connect::{CONNECT_TIMEOUT_DEFAULT, ConnectError, ConnectOptions, connect};
pub use detect::{DETECT_TIMEOUT, FirstSpeaker, Protocol, detect, first_speaker};
pub use keep_alive::{KeepAlive, set_keep_alive};
pub use listen::{
    Accepted, LISTEN_BACKLOG, ListenOptions, accept, accept_or_refuse, accept_queued, bind, listen,
};
pub use netns::Netns;
pub use original::original_destination;
pub use prefixed::Prefixed;
pub use pump::{Counters, PUMP_BUFFER_BYTES, Pump, PumpEnd, Side, Unsent, pump};
pub use seqpacket::{Datagram, DatagramError, SeqPacket, SeqPacketListener};
pub use sni::{ClientHello, peek_server_name, server_name};
pub use udp::{bind_udp, connect_udp};
