//! A TLS client of the edge: what a browser or `curl` is to a gateway. Laboratory and tests use it;
//! proxies speak mutual TLS among themselves ([`crate::connect_mesh`]).

use crate::certificate::ALPN_H2;
use crate::edge::certified_key;
use crate::mesh::within_timeout;
use crate::verify::{Expected, Judge, ServerJudge};
use crate::{Revocations, TlsError, pem, provider, san};
use mesh_model::TlsCertificatePem;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// A connection to a TLS server.
pub type EdgeClientStream<S> = tokio_rustls::client::TlsStream<S>;

/// What a client takes for the right server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerCheck {
    /// The name is asked for (SNI) and found in the certificate. An IP address is looked for in the
    /// certificate and not sent.
    Name(String),
    /// The certificate is that of a workload, judged as the mesh judges it; no name is sent. With a
    /// certificate of one's own choice this is how tests knock at a mesh port.
    Workload {
        /// The client's own trust domain.
        trust_domain: String,
        /// The identities that will do.
        expected: Expected,
    },
}

/// What a client asks for, trusts and shows.
#[derive(Debug, Clone)]
pub struct EdgeClientSettings {
    /// PEM roots that the server's certificate must chain to.
    pub root_pem: String,
    /// What makes it the right server.
    pub server: ServerCheck,
    /// Protocols to offer, best first, such as `h2` and `http/1.1`; empty: none.
    pub alpn: Vec<String>,
    /// The client's own certificate, shown when the server asks for one.
    pub certificate: Option<TlsCertificatePem>,
}

impl EdgeClientSettings {
    /// A client without a certificate that asks for a name and trusts a root.
    pub fn named(server_name: &str, root_pem: &str) -> Self {
        Self {
            root_pem: root_pem.into(),
            server: ServerCheck::Name(server_name.into()),
            alpn: Vec::new(),
            certificate: None,
        }
    }

    /// The same, offering protocols, best first.
    #[must_use]
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.alpn = protocols.iter().map(|p| (*p).to_owned()).collect();
        self
    }
}

/// What the two sides agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeAgreed {
    /// HTTP/2 was agreed on.
    pub http2: bool,
    /// DNS names of the certificate that the server showed, lower case.
    pub server_names: Vec<String>,
    /// Its serial number, lower-case hex.
    pub serial: String,
}

/// Opens TLS connections with one set of settings. Clones share the configuration.
#[derive(Clone)]
pub struct EdgeConnector {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
}

impl fmt::Debug for EdgeConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeConnector")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

impl EdgeConnector {
    /// Reads the settings.
    ///
    /// # Errors
    /// When the name is neither a DNS name nor an IP address, or a PEM text cannot be used.
    pub fn new(settings: &EdgeClientSettings) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for root in pem::certificates(&settings.root_pem)? {
            roots
                .add(root)
                .map_err(|e| TlsError::Chain(format!("root: {e}")))?;
        }
        let builder = ClientConfig::builder_with_provider(provider::edge().clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|e| TlsError::Chain(e.to_string()))?;
        let (builder, server_name) = match &settings.server {
            ServerCheck::Name(name) => {
                let server_name = ServerName::try_from(name.clone())
                    .map_err(|e| TlsError::Handshake(format!("'{name}': {e}")))?;
                (builder.with_root_certificates(roots), server_name)
            }
            ServerCheck::Workload {
                trust_domain,
                expected,
            } => {
                let judge = Arc::new(ServerJudge {
                    judge: Judge {
                        roots: Arc::new(roots),
                        trust_domain: trust_domain.as_str().into(),
                        revocations: Revocations::default(),
                    },
                    expected: expected.clone(),
                });
                let builder = builder.dangerous().with_custom_certificate_verifier(judge);
                (builder, ServerName::from(Ipv4Addr::UNSPECIFIED))
            }
        };
        let mut config = match &settings.certificate {
            None => builder.with_no_client_auth(),
            Some(own) => {
                // A client shows what it was given, whoever the server says it accepts: judging it
                // is the server's part.
                let (certified, _) = certified_key(own)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        };
        let protocols = settings.alpn.iter().map(|p| p.as_bytes().to_vec());
        config.alpn_protocols = protocols.collect();
        config.enable_sni = matches!(settings.server, ServerCheck::Name(_));
        Ok(Self {
            config: Arc::new(config),
            server_name,
        })
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// When the handshake fails or takes over 10 s, or the certificate does not carry the name.
    pub async fn connect<S>(&self, stream: S) -> Result<(EdgeClientStream<S>, EdgeAgreed), TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(self.config.clone());
        let stream = within_timeout(connector.connect(self.server_name.clone(), stream)).await?;
        let state = stream.get_ref().1;
        let leaf = state
            .peer_certificates()
            .and_then(<[_]>::first)
            .ok_or(TlsError::NoPeerCertificate)?;
        let facts = san::Facts::read(leaf)?;
        let agreed = EdgeAgreed {
            http2: state.alpn_protocol() == Some(ALPN_H2),
            server_names: facts.dns,
            serial: facts.serial,
        };
        Ok((stream, agreed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EdgeTls;
    use crate::testing::{Leaf, TestCa, dns};

    fn server(ca: &TestCa, host: &str) -> EdgeTls {
        let (certificate, pair) = ca.sign(Leaf::of(vec![dns(host)]));
        let pem = TlsCertificatePem {
            chain_pem: certificate.pem().into(),
            key_pem: pair.serialize_pem().into(),
        };
        EdgeTls::new(vec![(Some(host.parse().unwrap()), pem)]).unwrap()
    }

    fn client(ca: &TestCa, host: &str, alpn: &[&str]) -> EdgeConnector {
        let settings = EdgeClientSettings::named(host, &ca.pem).alpn(alpn);
        EdgeConnector::new(&settings).unwrap()
    }

    #[tokio::test]
    async fn name_and_protocol_are_agreed_on() {
        let ca = TestCa::new("edge");
        let server = server(&ca, "shop.example");
        let client = client(&ca, "shop.example", &["h2", "http/1.1"]);
        let (near, far) = tokio::io::duplex(4096);
        let (connected, accepted) = tokio::join!(client.connect(near), server.accept(far));
        let (_, agreed) = connected.unwrap();
        assert!(agreed.http2);
        assert_eq!(agreed.server_names, ["shop.example"]);
        assert_eq!(
            accepted.unwrap().1.server_name.as_deref(),
            Some("shop.example")
        );
    }

    #[tokio::test]
    async fn a_foreign_root_or_name_is_refused() {
        let ca = TestCa::new("edge");
        let server = server(&ca, "shop.example");
        let other = TestCa::new("other");
        for client in [
            client(&other, "shop.example", &[]),
            client(&ca, "bank.example", &[]),
        ] {
            let (near, far) = tokio::io::duplex(4096);
            let (connected, _) = tokio::join!(client.connect(near), server.accept(far));
            assert!(connected.is_err());
        }
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        let settings = EdgeClientSettings::named("not a name", "");
        let error = EdgeConnector::new(&settings).unwrap_err();
        assert!(error.to_string().contains("not a name"), "{error}");
    }
}
