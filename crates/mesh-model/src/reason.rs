//! Why a connection or request ended: one stable code for log, metric and answer alike.

use std::fmt;

/// Whose fault an ending is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nobody's: the exchange ended as it should.
    None,
    /// The side that connected to us.
    Downstream,
    /// The side we connected to.
    Upstream,
    /// This proxy, or its configuration.
    Us,
}

/// The reason a connection or request ended. The code is stable: dashboards and alerts use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Ended as it should.
    Ok,
    /// Denied by an authorization policy.
    PolicyDenied,
    /// A policy that applies here is missing or invalid, so the answer is no (fails closed).
    PolicyUnavailable,
    /// The connection was cut because a policy change now denies it.
    PolicyRevoked,
    /// The upstream refused or could not be reached.
    ConnectFailed,
    /// The upstream did not answer within the connect timeout.
    ConnectTimeout,
    /// The TLS handshake failed or the peer's certificate is not acceptable.
    TlsFailure,
    /// The peer's certificate is on a revocation list.
    CertRevoked,
    /// The HTTP/2 handshake or the tunnel's framing failed.
    TunnelFailure,
    /// The far proxy refused the CONNECT.
    TunnelRefused,
    /// No certificate is held for the workload.
    NoIdentity,
    /// The service is known and has no usable endpoint.
    NoEndpoint,
    /// No route matched.
    NoRoute,
    /// The route's backend does not exist or may not be referred to.
    BackendInvalid,
    /// The waypoint the destination asks for is unknown or has no endpoint.
    NoWaypoint,
    /// The destination is on another network, and no usable gateway leads there.
    NoNetworkGateway,
    /// The destination is not one this proxy serves.
    WrongDestination,
    /// The local workload is not known to the control plane.
    UnknownWorkload,
    /// The request or tunnel header is malformed or passes a limit.
    BadRequest,
    /// The route's timeout passed.
    RequestTimeout,
    /// A limit of this proxy (connections, streams, buffers) was reached.
    Overloaded,
    /// The downstream went away.
    DownstreamReset,
    /// The upstream went away in the middle.
    UpstreamReset,
    /// This proxy was told to stop and the drain deadline passed.
    Drained,
    /// A fault inside this proxy.
    Internal,
}

impl Reason {
    /// The stable code: snake case.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::PolicyDenied => "policy_denied",
            Self::PolicyUnavailable => "policy_unavailable",
            Self::PolicyRevoked => "policy_revoked",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::TlsFailure => "tls_failure",
            Self::CertRevoked => "cert_revoked",
            Self::TunnelFailure => "tunnel_failure",
            Self::TunnelRefused => "tunnel_refused",
            Self::NoIdentity => "no_identity",
            Self::NoEndpoint => "no_endpoint",
            Self::NoRoute => "no_route",
            Self::BackendInvalid => "backend_invalid",
            Self::NoWaypoint => "no_waypoint",
            Self::NoNetworkGateway => "no_network_gateway",
            Self::WrongDestination => "wrong_destination",
            Self::UnknownWorkload => "unknown_workload",
            Self::BadRequest => "bad_request",
            Self::RequestTimeout => "request_timeout",
            Self::Overloaded => "overloaded",
            Self::DownstreamReset => "downstream_reset",
            Self::UpstreamReset => "upstream_reset",
            Self::Drained => "drained",
            Self::Internal => "internal",
        }
    }

    /// The `response_flags` label that dashboards made for Istio know (interop/telemetry.md 3 and 5).
    pub const fn response_flag(self) -> &'static str {
        match self {
            Self::Ok => "-",
            Self::PolicyDenied | Self::PolicyUnavailable | Self::PolicyRevoked => "DENY",
            Self::ConnectFailed => "CONNECT",
            Self::ConnectTimeout => "NETWORK_POLICY",
            Self::TlsFailure => "TLS_FAILURE",
            Self::CertRevoked => "CERT_REVOKED",
            Self::TunnelFailure | Self::TunnelRefused => "H2_HANDSHAKE_FAILURE",
            Self::NoIdentity => "IDENTITY_ERROR",
            Self::NoEndpoint | Self::NoWaypoint | Self::NoNetworkGateway => "UH",
            Self::NoRoute | Self::WrongDestination | Self::UnknownWorkload => "NR",
            Self::BackendInvalid => "NC",
            Self::BadRequest => "DPE",
            Self::RequestTimeout => "UT",
            Self::Overloaded => "UO",
            Self::DownstreamReset => "DC",
            Self::UpstreamReset => "UC",
            Self::Drained => "DT",
            Self::Internal => "IE",
        }
    }

    /// The HTTP status an L7 proxy answers with when it ends a request for this reason.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::PolicyDenied | Self::PolicyUnavailable | Self::PolicyRevoked => 403,
            Self::NoRoute | Self::WrongDestination => 404,
            Self::BackendInvalid | Self::Internal => 500,
            Self::BadRequest => 400,
            Self::RequestTimeout | Self::ConnectTimeout => 504,
            Self::UpstreamReset => 502,
            Self::ConnectFailed
            | Self::TlsFailure
            | Self::CertRevoked
            | Self::TunnelFailure
            | Self::TunnelRefused
            | Self::NoIdentity
            | Self::NoEndpoint
            | Self::NoWaypoint
            | Self::NoNetworkGateway
            | Self::UnknownWorkload
            | Self::Overloaded
            | Self::DownstreamReset
            | Self::Drained => 503,
        }
    }

    /// The status a tunnel server answers a CONNECT with (interop/hbone.md, CONNECT response).
    pub const fn connect_status(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::BadRequest | Self::WrongDestination => 400,
            Self::PolicyDenied | Self::PolicyUnavailable | Self::PolicyRevoked => 401,
            _ => 503,
        }
    }

    /// Whose fault it is.
    pub const fn fault(self) -> Fault {
        match self {
            Self::Ok => Fault::None,
            Self::PolicyDenied | Self::BadRequest | Self::DownstreamReset | Self::NoRoute => {
                Fault::Downstream
            }
            Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::TlsFailure
            | Self::CertRevoked
            | Self::TunnelFailure
            | Self::TunnelRefused
            | Self::NoEndpoint
            | Self::NoWaypoint
            | Self::NoNetworkGateway
            | Self::RequestTimeout
            | Self::UpstreamReset => Fault::Upstream,
            Self::PolicyUnavailable
            | Self::PolicyRevoked
            | Self::NoIdentity
            | Self::BackendInvalid
            | Self::WrongDestination
            | Self::UnknownWorkload
            | Self::Overloaded
            | Self::Drained
            | Self::Internal => Fault::Us,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
