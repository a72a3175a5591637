//! The pods of a node as they are told to its proxy: the ZDS protocol, both sides
//! (interop/zds-cni.md section 1), and the folder of pod files that stands in for it.
//!
//! [`Request`], [`Ack`] and [`Hello`] are the messages; [`ProxySession`] and [`Agent`] decide, without
//! sockets, what each side does; [`AgentConnection`] and [`Hub`] put them on a socket.

mod agent;
mod connection;
mod folder;
mod hub;
mod message;
mod proxy;

pub use agent::{Agent, AgentError, ConnectionId, Ended, Ticket};
pub use connection::{AgentConnection, ConnectionError};
pub use folder::{FolderError, PodFile, PodFiles};
pub use hub::{AddError, Hub, HubStatus};
pub use message::{
    Ack, ERROR_BYTES_MAX, Hello, MESSAGE_BYTES_MAX, MessageError, Pod, Request, decode_ack,
    decode_hello, decode_request, encode_ack, encode_hello, encode_request,
};
pub use proxy::{Command, ProtocolError, ProxySession};

/// Where agent and proxy meet when nobody says otherwise.
pub const SOCKET_DEFAULT: &str = "/var/run/ztunnel/ztunnel.sock";
/// Pods of one node; Kubernetes stays well below.
pub const PODS_MAX: usize = 1024;
