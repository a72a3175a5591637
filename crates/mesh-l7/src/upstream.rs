//! Connections to endpoints, kept and shared by the requests of one worker.
//!
//! HTTP/1.1 connections carry one request at a time and wait here between requests; HTTP/2
//! connections carry many. A request whose first byte was not sent comes back with the error, so
//! that the caller may try another endpoint.

mod connection;
mod offered;
mod pool;

pub(crate) use connection::{BUFFER_BYTES_MIN, Lease, lost_reason};

use crate::body::RequestBody;
use crate::settings::UpstreamSettings;
use connection::{Http1, Http2};
use http::{Request, Response};
use hyper::body::Incoming;
use mesh_hbone::{ConnectRequest, Dial, TunnelKey, UpstreamStream};
use mesh_model::{Reason, SpiffeId};
use mesh_net::{ConnectError, ConnectOptions};
use mesh_plan::{Target, Transport};
use mesh_runtime::Scope;
use mesh_tls::{CertificateReceiver, Expected};
use offered::Offered;
use pool::Endpoints;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use tokio::net::TcpStream;

/// What is needed to reach endpoints by HBONE.
#[derive(Clone)]
pub struct Tunnels {
    /// The worker's tunnels.
    pub pool: mesh_hbone::Pool,
    /// Our own identity's certificate, the newest.
    pub certificate: CertificateReceiver,
}

/// The HTTP version of an upstream connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum UpstreamVersion {
    Http1,
    Http2,
}

/// Which connections a request may share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct EndpointKey {
    address: SocketAddr,
    /// Authority and acceptable identities of the tunnel; none on plain TCP.
    tunnel: Option<(String, Vec<SpiffeId>)>,
    version: UpstreamVersion,
}

impl EndpointKey {
    pub(crate) fn new(target: &Target, version: UpstreamVersion) -> Self {
        let tunnel = match &target.transport {
            Transport::Plain => None,
            Transport::Hbone {
                authority,
                expected,
            } => Some((authority.clone(), expected.clone())),
            // Not planned for a client that stays on its network: nobody is acceptable.
            Transport::DoubleHbone { authority, .. } => Some((authority.clone(), Vec::new())),
        };
        Self {
            address: target.address,
            tunnel,
            version,
        }
    }
}

/// Why a request got no response head.
pub(crate) struct SendError {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
    /// The request, when not a byte of it was sent.
    pub(crate) unsent: Option<Box<Request<RequestBody>>>,
}

impl SendError {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            unsent: None,
        }
    }

    fn with(mut self, request: Request<RequestBody>) -> Self {
        self.unsent = Some(Box::new(request));
        self
    }
}

/// The upstream connections of one worker and one identity. Cheap to clone; not `Send`.
#[derive(Clone)]
pub struct Upstream {
    inner: Rc<Inner>,
}

struct Inner {
    settings: UpstreamSettings,
    connect: ConnectOptions,
    tunnels: Option<Tunnels>,
    scope: Scope,
    endpoints: Rc<Endpoints>,
    offered: Offered,
}

impl Upstream {
    /// A pool without connections. `connect` applies to plain connections and to the TCP
    /// connections of tunnels alike; `tunnels: None` makes every HBONE endpoint unreachable
    /// ([`Reason::NoIdentity`]). Tasks of connections belong to `scope`. Call it on the worker's
    /// own thread, inside its `LocalSet`.
    pub fn new(
        settings: UpstreamSettings,
        connect: ConnectOptions,
        tunnels: Option<Tunnels>,
        scope: &Scope,
    ) -> Self {
        let endpoints = Endpoints::start(&settings, scope);
        Self {
            inner: Rc::new(Inner {
                settings,
                connect,
                tunnels,
                scope: scope.clone(),
                endpoints,
                offered: Offered::default(),
            }),
        }
    }

    /// Gives a plain connection that was just made and carries nothing yet, so that the next
    /// request to its address need not make another: whoever had to see whether the server takes
    /// connections does not waste the one it got. It is dropped when no request comes soon.
    pub fn offer(&self, address: SocketAddr, connection: TcpStream) {
        self.inner.offered.put(address, connection);
    }

    /// Sends a request over a kept or new connection and gives the head of the response. The lease
    /// holds the connection until the response's body has ended.
    pub(crate) async fn send(
        &self,
        key: &EndpointKey,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        match key.version {
            UpstreamVersion::Http1 => self.send_http1(key, request).await,
            UpstreamVersion::Http2 => self.send_http2(key, request).await,
        }
    }

    /// Sends a request that asks to switch protocols, over a connection of its own.
    pub(crate) async fn send_upgrade(
        &self,
        key: &EndpointKey,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        let connection = match self.dial_http1(key, true).await {
            Ok(connection) => connection,
            Err(error) => return Err(error.with(request)),
        };
        connection.send(request, None).await
    }

    async fn send_http1(
        &self,
        key: &EndpointKey,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        let again = Replay::of(&request);
        while let Some(connection) = self.inner.endpoints.take_idle(key) {
            let lease_to = Some((self.inner.endpoints.clone(), key.clone()));
            match connection.send(request, lease_to).await {
                Ok(done) => return Ok(done),
                // The server closed it while it waited here.
                Err(error) => match (error.unsent, &again) {
                    (Some(unsent), _) => request = *unsent,
                    (None, Some(again)) => {
                        request = again.request();
                        break;
                    }
                    (None, None) => return Err(SendError::new(error.reason, error.detail)),
                },
            }
        }
        let connection = match self.dial_http1(key, false).await {
            Ok(connection) => connection,
            Err(error) => return Err(error.with(request)),
        };
        let lease_to = Some((self.inner.endpoints.clone(), key.clone()));
        connection.send(request, lease_to).await
    }

    async fn send_http2(
        &self,
        key: &EndpointKey,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        // Each round but the last finds a connection that was going away.
        for _ in 0..HTTP2_ROUNDS_MAX {
            let place = match self.http2_place(key).await {
                Ok(place) => place,
                Err(error) => return Err(error.with(request)),
            };
            match place.send(request).await {
                Ok(done) => return Ok(done),
                Err(error) => match error.unsent {
                    Some(unsent) => request = *unsent,
                    None => return Err(error),
                },
            }
        }
        let error = SendError::new(Reason::UpstreamReset, "the upstream goes away at each try");
        Err(error.with(request))
    }

    /// A place on a kept connection, or on a new one; one dial at a time for a key.
    async fn http2_place(&self, key: &EndpointKey) -> Result<connection::Place, SendError> {
        let endpoints = &self.inner.endpoints;
        if let Some(place) = endpoints.http2_place(key, &self.inner.settings) {
            return Ok(place);
        }
        let turn = endpoints.dial_turn(key);
        let _turn = turn.lock().await;
        if let Some(place) = endpoints.http2_place(key, &self.inner.settings) {
            return Ok(place);
        }
        let open = self.open_permit(key)?;
        let io = self.dial(key).await?;
        let connection = Http2::start(io, &self.inner.settings, &self.inner.scope, open).await?;
        let place = connection.place();
        endpoints.keep_http2(key, connection);
        Ok(place)
    }

    async fn dial_http1(&self, key: &EndpointKey, switching: bool) -> Result<Http1, SendError> {
        let open = self.open_permit(key)?;
        let io = self.dial(key).await?;
        Http1::start(io, &self.inner.settings, &self.inner.scope, open, switching).await
    }

    fn open_permit(&self, key: &EndpointKey) -> Result<pool::OpenPermit, SendError> {
        let max = self.inner.settings.connections_per_endpoint_max;
        self.inner.endpoints.open_permit(key, max).ok_or_else(|| {
            let detail = format!("{max} connections to {} are open", key.address);
            SendError::new(Reason::Overloaded, detail)
        })
    }

    async fn dial(&self, key: &EndpointKey) -> Result<UpstreamStream, SendError> {
        match &key.tunnel {
            None => self.dial_plain(key.address).await,
            Some((authority, expected)) => self.dial_tunnel(key.address, authority, expected).await,
        }
    }

    async fn dial_plain(&self, address: SocketAddr) -> Result<UpstreamStream, SendError> {
        if let Some(tcp) = self.inner.offered.take(address) {
            return Ok(UpstreamStream::Plain(tcp));
        }
        let settings = &self.inner.settings;
        let source = match address {
            SocketAddr::V4(_) => settings.source_v4.map(IpAddr::V4),
            SocketAddr::V6(_) => settings.source_v6.map(IpAddr::V6),
        };
        let options = ConnectOptions {
            source: source.or(self.inner.connect.source),
            ..self.inner.connect.clone()
        };
        match mesh_net::connect(address, &options).await {
            Ok(tcp) => Ok(UpstreamStream::Plain(tcp)),
            Err(error @ ConnectError::Timeout { .. }) => {
                Err(SendError::new(Reason::ConnectTimeout, error.to_string()))
            }
            Err(error @ ConnectError::Io { .. }) => {
                Err(SendError::new(Reason::ConnectFailed, error.to_string()))
            }
        }
    }

    async fn dial_tunnel(
        &self,
        address: SocketAddr,
        authority: &str,
        expected: &[SpiffeId],
    ) -> Result<UpstreamStream, SendError> {
        let no_identity = || SendError::new(Reason::NoIdentity, "we hold no certificate");
        let tunnels = self.inner.tunnels.as_ref().ok_or_else(no_identity)?;
        let certificate = tunnels.certificate.borrow().clone();
        let certificate = certificate.ok_or_else(no_identity)?;
        let key = TunnelKey {
            source: certificate.identity().clone(),
            expected: Expected::AnyOf(expected.to_vec()),
            address,
            source_ip: self.inner.connect.source,
        };
        let dial = Dial {
            options: self.inner.connect.clone(),
            certificate,
            successors: tunnels.certificate.clone(),
        };
        let request = ConnectRequest {
            authority: authority.to_owned(),
            headers: http::HeaderMap::new(),
        };
        tunnels
            .pool
            .open(&key, dial, request)
            .await
            .map(|stream| UpstreamStream::Tunnel(Box::new(stream)))
            .map_err(|error| SendError::new(error.reason(), error.to_string()))
    }
}

/// Connections found going away before a request is given up.
const HTTP2_ROUNDS_MAX: usize = 3;

/// A request that may be sent a second time when a kept connection dies without an answer: a safe
/// method without a body (RFC 9110 section 9.2.2, RFC 9112 section 9.3.1).
struct Replay {
    head: Request<()>,
    exchange: Rc<crate::record::Exchange>,
}

impl Replay {
    fn of(request: &Request<RequestBody>) -> Option<Self> {
        use http_body::Body;
        if !request.method().is_safe() || !request.body().is_end_stream() {
            return None;
        }
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.version_mut() = request.version();
        *head.headers_mut() = request.headers().clone();
        Some(Self {
            head,
            exchange: request.body().exchange().clone(),
        })
    }

    fn request(&self) -> Request<RequestBody> {
        self.head
            .clone()
            .map(|()| RequestBody::empty(self.exchange.clone()))
    }
}
