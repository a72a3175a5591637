//! TLS at the edge: certificates chosen by SNI, TLS 1.2 and 1.3, ALPN h2 and http/1.1.

use crate::certificate::ALPN_H2;
use crate::mesh::{key_exchange_name, within_timeout};
use crate::{KeyExchange, TlsError, pem, provider, san};
use mesh_model::{Host, TlsCertificatePem};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

/// A connection with TLS terminated here.
pub type EdgeStream<S> = tokio_rustls::server::TlsStream<S>;

/// What the client said in its hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeInfo {
    /// SNI, lower case.
    pub server_name: Option<String>,
    /// HTTP/2 was agreed on.
    pub http2: bool,
    /// The key exchange agreed on, such as `X25519MLKEM768`.
    pub key_exchange: &'static str,
}

/// The certificates of one port, by host.
#[derive(Clone)]
pub struct EdgeTls {
    config: Arc<ServerConfig>,
}

impl fmt::Debug for EdgeTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EdgeTls(..)")
    }
}

impl EdgeTls {
    /// Takes the certificates of a port; those without a host serve every name, and clients that
    /// send none. A precise host is preferred to a wildcard, a longer wildcard to a shorter one.
    ///
    /// # Errors
    /// When a chain or key cannot be read or do not belong together; the message names the host.
    pub fn new(certificates: Vec<(Option<Host>, TlsCertificatePem)>) -> Result<Self, TlsError> {
        Self::with_key_exchange(certificates, KeyExchange::default())
    }

    /// As [`Self::new`], for clients with one of these key exchanges. With the post-quantum one alone,
    /// TLS 1.3 is the only version.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_key_exchange(
        certificates: Vec<(Option<Host>, TlsCertificatePem)>,
        key_exchange: KeyExchange,
    ) -> Result<Self, TlsError> {
        let mut entries = certificates
            .into_iter()
            .map(|(host, pem)| Entry::new(host, &pem))
            .collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(|e| std::cmp::Reverse(e.rank()));
        let resolver = Arc::new(BySni { entries });
        let provider = provider::of_key_exchange(key_exchange).clone();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(provider::versions(key_exchange))
            .map_err(|e| TlsError::Chain(e.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![ALPN_H2.to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// Takes a connection.
    ///
    /// # Errors
    /// When the handshake fails or takes over 10 s, or no certificate serves the name asked for.
    pub async fn accept<S>(&self, stream: S) -> Result<(EdgeStream<S>, EdgeInfo), TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = TlsAcceptor::from(self.config.clone());
        let stream = within_timeout(acceptor.accept(stream)).await?;
        let state = stream.get_ref().1;
        let info = EdgeInfo {
            server_name: state.server_name().map(str::to_ascii_lowercase),
            http2: state.alpn_protocol() == Some(ALPN_H2),
            key_exchange: key_exchange_name(state),
        };
        Ok((stream, info))
    }
}

/// Reads one certificate and its key.
pub(crate) fn certified_key(
    pem: &TlsCertificatePem,
) -> Result<(Arc<CertifiedKey>, san::Facts), TlsError> {
    let chain = pem::certificates(&pem.chain_pem)?;
    let leaf = chain
        .first()
        .ok_or_else(|| TlsError::Chain("no certificate in the PEM".into()))?;
    let facts = san::Facts::read(leaf)?;
    let key = pem::private_key(&pem.key_pem)?;
    let certified = CertifiedKey::from_der(chain, key, provider::edge())
        .map_err(|e| TlsError::Key(e.to_string()))?;
    Ok((Arc::new(certified), facts))
}

#[derive(Debug)]
struct Entry {
    host: Option<Host>,
    /// DNS SANs of the certificate that parse as host names.
    names: Vec<Host>,
    certified: Arc<CertifiedKey>,
}

impl Entry {
    fn new(host: Option<Host>, pem: &TlsCertificatePem) -> Result<Self, TlsError> {
        let named = |e: TlsError| {
            let of = host.as_ref().map_or("every host", Host::as_str);
            match e {
                TlsError::Key(why) => TlsError::Key(format!("{why} (certificate of {of})")),
                other => TlsError::Chain(format!("{other} (certificate of {of})")),
            }
        };
        let (certified, facts) = certified_key(pem).map_err(named)?;
        Ok(Self {
            names: facts.dns.iter().filter_map(|n| n.parse().ok()).collect(),
            host,
            certified,
        })
    }

    /// Precise hosts first, then wildcards by length, then those for every host.
    fn rank(&self) -> (u8, usize) {
        match &self.host {
            Some(host) if !host.is_wildcard() => (2, host.as_str().len()),
            Some(host) => (1, host.as_str().len()),
            None => (0, 0),
        }
    }

    fn serves(&self, name: Option<&str>) -> bool {
        match (&self.host, name) {
            (None, _) => true,
            (Some(host), Some(name)) => host.matches(name),
            (Some(_), None) => false,
        }
    }
}

#[derive(Debug)]
struct BySni {
    /// Best first.
    entries: Vec<Entry>,
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let name = name.as_deref();
        let mut serving = self.entries.iter().filter(|e| e.serves(name)).peekable();
        let rank = serving.peek()?.rank();
        // Several certificates of one host: one that carries the name and whose key the client
        // can verify, else whichever the client can verify.
        let usable: Vec<&Entry> = serving
            .take_while(|e| e.rank() == rank)
            .filter(|e| {
                let schemes = hello.signature_schemes();
                e.certified.key.choose_scheme(schemes).is_some()
            })
            .collect();
        let carries = |e: &&&Entry| name.is_some_and(|n| e.names.iter().any(|h| h.matches(n)));
        usable
            .iter()
            .find(carries)
            .or_else(|| usable.first())
            .map(|e| e.certified.clone())
    }
}

#[cfg(test)]
mod tests;
