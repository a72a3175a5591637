//! Identity, addresses, workload, service, route and policy types, and the immutable [`Snapshot`].
//!
//! Everything here is plain data: no runtime, no sockets, no clock. Types are made valid when they
//! are made ("parse, don't validate"), so the rooms above never check them again.

mod dice;
mod gateway;
mod identity;
mod net;
mod policy;
mod reason;
mod resource;
mod route;
mod service;
mod snapshot;
mod text;
mod workload;
mod workload_info;

pub use dice::Dice;
pub use gateway::{GatewayListener, ListenerKey, ListenerProtocol, TlsCertificatePem};
pub use identity::{IdentityError, ObjectName, ServiceName, SpiffeId};
pub use net::{Cidr, NetworkAddress, ParseCidrError};
pub use policy::{
    Action, AuthorizationPolicy, HeaderCondition, PolicyClause, PolicyCompatibility, PolicyMatch,
    PolicyRule, PolicyScope, PolicyTarget, ServiceAccountMatch, StringMatch, UnknownCompatibility,
};
pub use reason::{Fault, Reason};
pub use resource::{Resource, ResourceKey, ResourceKind};
pub use route::{
    Backend, Header, HeaderModifier, HttpFilter, HttpMatch, HttpRouteRule, ParentKey, ParentRef,
    PathMatch, PathModifier, Redirect, RouteRuleName, RouteTimeouts, TcpRouteRule, UrlRewrite,
    ValueMatch, ValueMatcher, WeightedBackend,
};
pub use service::{
    AppProtocol, HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, RoutingScope, Service,
    ServicePort, Visibility, WeightedWaypoint,
};
pub use snapshot::{PolicySet, Snapshot, SnapshotBuilder};
pub use text::{Host, HostError, Regex, RegexError};
pub use workload::{
    ApplicationTunnel, GatewayAddress, GatewayDestination, Health, Locality, NetworkMode,
    TunnelProtocol, Workload, WorkloadUid,
};
pub use workload_info::WorkloadInfo;

/// The trust domain of a mesh whose owner set none.
pub const TRUST_DOMAIN_DEFAULT: &str = "cluster.local";
/// Port on which a sidecar or ztunnel takes captured outbound connections.
pub const PORT_OUTBOUND: u16 = 15001;
/// Port on which captured plaintext inbound connections arrive.
pub const PORT_INBOUND_PLAINTEXT: u16 = 15006;
/// Port of HBONE (HTTP/2 CONNECT in mutual TLS), interop/hbone.md.
pub const PORT_HBONE: u16 = 15008;
/// Mark on every packet a proxy itself sends, interop/zds-cni.md section 1.
pub const PACKET_MARK: u32 = 0x539;
