//! gRPC between the mesh's own programs: channels to the control plane and the certificate authority,
//! and what their servers do about connections that nobody uses.
//!
//! One place holds what both clients need: the root to trust, re-read at every dial (a ConfigMap
//! swaps it), the bearer token, re-read at every call (a projected token is renewed under us), and
//! the packet mark that keeps a proxy's own connections out of the redirection.

mod guard;

pub use guard::{GuardLimits, Guarded, InUse, Usage};

use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri};

/// How long a dial may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 keep-alive towards the control plane (interop/xds-workload.md section 1).
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// A text that is either given or read from a file at each use.
#[derive(Clone, PartialEq, Eq)]
pub enum TextSource {
    /// Read at each use.
    File(PathBuf),
    /// The text itself.
    Literal(String),
}

impl std::fmt::Debug for TextSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Literal(text) => write!(f, "Literal({} bytes)", text.len()),
        }
    }
}

impl TextSource {
    /// The text now.
    ///
    /// # Errors
    /// When the file cannot be read; the error names it.
    pub fn read(&self) -> io::Result<String> {
        match self {
            Self::Literal(text) => Ok(text.clone()),
            Self::File(path) => std::fs::read_to_string(path)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display()))),
        }
    }
}

/// Why no channel was made or no call could be signed.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The address is not a URI.
    #[error("address '{0}' is not of the form https://host:port")]
    Address(String),
    /// The root or the token could not be read.
    #[error("{what}: {source}")]
    Read {
        /// Which text.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The token or a header holds bytes that no header may hold.
    #[error("{0} is not a valid header value")]
    Header(String),
    /// The dial or the TLS handshake failed.
    #[error("cannot connect to {address}: {}", whole(source))]
    Transport {
        /// Where to.
        address: String,
        /// Why.
        source: tonic::transport::Error,
    },
}

/// An error with its causes: tonic's own text is only "transport error".
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Where to and as whom.
#[derive(Debug, Clone)]
pub struct ChannelSettings {
    /// `https://host:port`, or `http://host:port` for a plaintext port on a trusted link.
    pub address: String,
    /// PEM roots that the server's certificate must chain to.
    pub root: Option<TextSource>,
    /// The DNS name the server's certificate must carry, when not the address's host.
    pub server_name: Option<String>,
    /// Bearer token of every call.
    pub token: Option<TextSource>,
    /// Further metadata of every call, such as `clusterid`.
    pub metadata: Vec<(String, String)>,
    /// `SO_MARK` of the socket.
    pub mark: Option<u32>,
}

impl ChannelSettings {
    /// Dials. The root is read anew, so a changed root is used from the next dial on.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub async fn connect(&self) -> Result<Channel, ChannelError> {
        let mark = self.mark;
        self.endpoint()?
            .connect_with_connector(tower::service_fn(move |uri: Uri| dial(uri, mark)))
            .await
            .map_err(|source| ChannelError::Transport {
                address: self.address.clone(),
                source,
            })
    }

    /// A channel that dials at its first call, and again after each loss.
    ///
    /// # Errors
    /// When the address or the root cannot be used.
    pub fn connect_lazy(&self) -> Result<Channel, ChannelError> {
        let mark = self.mark;
        let connector = tower::service_fn(move |uri: Uri| dial(uri, mark));
        Ok(self.endpoint()?.connect_with_connector_lazy(connector))
    }

    fn endpoint(&self) -> Result<Endpoint, ChannelError> {
        let bad = || ChannelError::Address(self.address.clone());
        let endpoint = Endpoint::from_shared(self.address.clone())
            .map_err(|_| bad())?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .keep_alive_while_idle(true);
        if endpoint.uri().scheme_str() != Some("https") {
            return Ok(endpoint);
        }
        let mut tls = ClientTlsConfig::new();
        if let Some(root) = &self.root {
            let pem = root.read().map_err(|source| ChannelError::Read {
                what: "root",
                source,
            })?;
            tls = tls.ca_certificate(Certificate::from_pem(pem));
        }
        if let Some(name) = &self.server_name {
            tls = tls.domain_name(name.clone());
        }
        endpoint
            .tls_config(tls)
            .map_err(|source| ChannelError::Transport {
                address: self.address.clone(),
                source,
            })
    }

    /// Puts the bearer token, read anew, and the metadata on a call.
    ///
    /// # Errors
    /// When the token cannot be read or a value is no header value.
    pub fn authorize<T>(&self, request: &mut tonic::Request<T>) -> Result<(), ChannelError> {
        if let Some(token) = &self.token {
            let token = token.read().map_err(|source| ChannelError::Read {
                what: "token",
                source,
            })?;
            let value = format!("Bearer {}", token.trim())
                .parse()
                .map_err(|_| ChannelError::Header("the bearer token".into()))?;
            request.metadata_mut().insert("authorization", value);
        }
        for (name, value) in &self.metadata {
            let bad = || ChannelError::Header(format!("metadata {name}"));
            let key = tonic::metadata::MetadataKey::from_bytes(name.to_lowercase().as_bytes())
                .map_err(|_| bad())?;
            request
                .metadata_mut()
                .insert(key, value.parse().map_err(|_| bad())?);
        }
        Ok(())
    }
}

async fn dial(uri: Uri, mark: Option<u32>) -> io::Result<TokioIo<tokio::net::TcpStream>> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(443);
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in tokio::net::lookup_host((host, port)).await? {
        match dial_address(address, mark).await {
            Ok(stream) => return Ok(TokioIo::new(stream)),
            Err(e) => last = e,
        }
    }
    Err(last)
}

async fn dial_address(address: SocketAddr, mark: Option<u32>) -> io::Result<tokio::net::TcpStream> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.set_nonblocking(true)?;
    let stream = tokio::net::TcpSocket::from_std_stream(socket.into())
        .connect(address)
        .await?;
    SockRef::from(&stream).set_tcp_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(address: &str) -> ChannelSettings {
        ChannelSettings {
            address: address.into(),
            root: None,
            server_name: None,
            token: Some(TextSource::Literal("abc\n".into())),
            metadata: vec![("ClusterID".into(), "Kubernetes".into())],
            mark: None,
        }
    }

    #[test]
    fn a_call_carries_token_and_metadata() {
        let mut request = tonic::Request::new(());
        settings("https://x:1").authorize(&mut request).unwrap();
        assert_eq!(
            request.metadata().get("authorization").unwrap(),
            "Bearer abc"
        );
        assert_eq!(request.metadata().get("clusterid").unwrap(), "Kubernetes");
    }

    #[test]
    fn a_missing_token_file_is_named() {
        let mut s = settings("https://x:1");
        s.token = Some(TextSource::File("/nonexistent/token".into()));
        let error = s.authorize(&mut tonic::Request::new(())).unwrap_err();
        assert!(error.to_string().contains("token"), "{error}");
    }

    #[test]
    fn a_literal_is_never_shown() {
        assert_eq!(
            format!("{:?}", TextSource::Literal("secret".into())),
            "Literal(6 bytes)"
        );
    }
}
