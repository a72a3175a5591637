//! What is known of a connection or request when its record begins.

use mesh_model::{Service, SpiffeId, Workload};
use std::net::SocketAddr;
use std::sync::Arc;

/// From where a record is seen (interop/telemetry.md section 2, `reporter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's side.
    Source,
    /// The server's side.
    Destination,
    /// A waypoint, and only a waypoint.
    Waypoint,
}

impl Reporter {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Waypoint => "waypoint",
        }
    }
}

/// Which way a connection goes, as the local workload sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Towards the local workload.
    Inbound,
    /// From the local workload.
    Outbound,
}

impl Direction {
    /// The log field's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// How the connection between the two parties is protected (`connection_security_policy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// Mutual TLS between mesh identities.
    MutualTls,
    /// Not known to be protected: plaintext, or the application's own TLS.
    Unknown,
}

impl Security {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::Unknown => "unknown",
        }
    }
}

/// What a request speaks (`request_protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestProtocol {
    /// HTTP of any version.
    Http,
    /// gRPC: `content-type: application/grpc…`.
    Grpc,
}

impl RequestProtocol {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

/// One end of a connection. What is not known is left `None` and shown as `unknown`.
#[derive(Debug, Clone, Default)]
pub struct Party {
    /// The workload.
    pub workload: Option<Arc<Workload>>,
    /// Its identity as TLS proved it (or, for a peer not yet reached, as it is expected).
    pub identity: Option<SpiffeId>,
    /// Its address.
    pub address: Option<SocketAddr>,
}

/// What is known of a connection when it begins.
#[derive(Debug, Clone)]
pub struct ConnectionFacts {
    /// From where the record is seen.
    pub reporter: Reporter,
    /// Which way the connection goes.
    pub direction: Direction,
    /// Who connected.
    pub source: Party,
    /// Who is connected to. For a client whose traffic passes a waypoint: the waypoint.
    pub destination: Party,
    /// The service asked for, when one was.
    pub service: Option<Arc<Service>>,
    /// The authority of the tunnel, `dst.hbone_addr`.
    pub hbone_address: Option<String>,
    /// How the connection is protected.
    pub security: Security,
    /// The policy that allowed it, when known.
    pub policy: Option<String>,
    /// How the bytes travel.
    pub transport: Transport,
    /// The key exchange group of the TLS under it, such as `X25519MLKEM768`, when known.
    pub tls_group: Option<&'static str>,
}

/// How the bytes of a connection travel between the two proxies, or proxy and peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Transport {
    /// Plain TCP.
    #[default]
    Tcp,
    /// A tunnel in mutual TLS.
    Hbone,
    /// A tunnel in a tunnel, through the gateway of another network.
    DoubleHbone,
    /// Inside this process, without TLS: both ends are pods of its own. The metrics carry it as well,
    /// `transport="node"`.
    Node,
}

impl Transport {
    /// The value in log and admin pages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Hbone => "hbone",
            Self::DoubleHbone => "double_hbone",
            Self::Node => "node",
        }
    }
}

impl ConnectionFacts {
    /// Facts of a connection of which only the direction is known, to be filled in.
    pub fn new(reporter: Reporter, direction: Direction) -> Self {
        Self {
            reporter,
            direction,
            source: Party::default(),
            destination: Party::default(),
            service: None,
            hbone_address: None,
            security: Security::Unknown,
            policy: None,
            transport: Transport::Tcp,
            tls_group: None,
        }
    }

    /// The identity of a party as far as the connection proves it: none on plaintext, where it is
    /// who the party should be.
    pub(crate) fn proven<'a>(&self, party: &'a Party) -> Option<&'a SpiffeId> {
        match self.security {
            Security::MutualTls => party.identity.as_ref(),
            Security::Unknown => None,
        }
    }
}

/// What is known of a request when it begins. Texts are logged as given; bound them before.
#[derive(Debug, Clone)]
pub struct RequestFacts {
    /// From where the record is seen.
    pub reporter: Reporter,
    /// Who asks.
    pub source: Party,
    /// Who answers; often set later with [`crate::RequestRecord::set_destination`].
    pub destination: Party,
    /// The service asked for.
    pub service: Option<Arc<Service>>,
    /// How the connection it came on is protected.
    pub security: Security,
    /// What it speaks.
    pub protocol: RequestProtocol,
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `HTTP/1.1`, `HTTP/2`.
    pub http_version: http::Version,
    /// `:authority` or Host.
    pub authority: String,
    /// `x-request-id`.
    pub request_id: Option<String>,
    /// `user-agent`.
    pub user_agent: Option<String>,
    /// `x-forwarded-for`.
    pub forwarded_for: Option<String>,
    /// Server name of the TLS handshake at the edge.
    pub server_name: Option<String>,
    /// The rule that matched, `namespace/route/rule`.
    pub route: Option<String>,
    /// The proxy's own address on the connection the request came on.
    pub local_address: Option<SocketAddr>,
}

/// Longest text taken from a header into a record, in bytes; the rest is cut.
const TEXT_BYTES_MAX: usize = 1024;

impl RequestFacts {
    /// Facts of a request, with what its head tells filled in; the parties are the caller's part.
    pub fn of<B>(reporter: Reporter, request: &http::Request<B>) -> Self {
        let header = |name: &str| request.headers().get(name).map(|v| cut(v.as_bytes()));
        let uri = request.uri();
        let grpc = request
            .headers()
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
        let path = uri.path_and_query().map_or("", |p| p.as_str());
        Self {
            reporter,
            source: Party::default(),
            destination: Party::default(),
            service: None,
            security: Security::Unknown,
            protocol: if grpc {
                RequestProtocol::Grpc
            } else {
                RequestProtocol::Http
            },
            method: request.method().as_str().into(),
            path: cut(path.as_bytes()),
            http_version: request.version(),
            authority: uri
                .authority()
                .map(|a| cut(a.as_str().as_bytes()))
                .or_else(|| header("host"))
                .unwrap_or_default(),
            request_id: header("x-request-id"),
            user_agent: header("user-agent"),
            forwarded_for: header("x-forwarded-for"),
            server_name: None,
            route: None,
            local_address: None,
        }
    }
}

fn cut(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_BYTES_MAX)]).into_owned()
}
