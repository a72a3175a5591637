//! `strata.config.v1.GatewayListener`.

use super::DecodeError;
use super::context::Context;
use mesh_model::{GatewayListener, ListenerKey, ListenerProtocol, ObjectName, TlsCertificatePem};
use mesh_proto::config as wire;
use wire::gateway_listener::Protocol;

pub(super) fn encode(l: &GatewayListener) -> wire::GatewayListener {
    let certificate = |c: &TlsCertificatePem| wire::Certificate {
        chain_pem: c.chain_pem.to_string(),
        key_pem: c.key_pem.to_string(),
    };
    wire::GatewayListener {
        namespace: l.key.gateway.namespace.to_string(),
        gateway: l.key.gateway.name.to_string(),
        name: l.key.name.to_string(),
        port: l.port.into(),
        protocol: match l.protocol {
            ListenerProtocol::Http => Protocol::Http,
            ListenerProtocol::Https => Protocol::Https,
            ListenerProtocol::Tcp => Protocol::Tcp,
            ListenerProtocol::TlsPassthrough => Protocol::TlsPassthrough,
        }
        .into(),
        hostname: l
            .hostname
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        certificates: l.certificates.iter().map(certificate).collect(),
    }
}

pub(super) fn decode(
    cx: &Context<'_>,
    l: wire::GatewayListener,
) -> Result<GatewayListener, DecodeError> {
    let certificate = |c: wire::Certificate| TlsCertificatePem {
        chain_pem: c.chain_pem.into(),
        key_pem: c.key_pem.into(),
    };
    let hostname = match l.hostname.as_str() {
        "" => None,
        text => Some(cx.parse("hostname", text)?),
    };
    let port = cx.optional_port("port", l.port)?;
    Ok(GatewayListener {
        key: ListenerKey {
            gateway: ObjectName::new(
                cx.key_part("namespace", &l.namespace)?,
                cx.key_part("gateway", &l.gateway)?,
            ),
            name: cx.key_part("name", &l.name)?.into(),
        },
        port: port.ok_or_else(|| cx.bad("port", "is required"))?,
        protocol: match cx.known("protocol", l.protocol)? {
            Protocol::Http => ListenerProtocol::Http,
            Protocol::Https => ListenerProtocol::Https,
            Protocol::Tcp => ListenerProtocol::Tcp,
            Protocol::TlsPassthrough => ListenerProtocol::TlsPassthrough,
        },
        hostname,
        certificates: l.certificates.into_iter().map(certificate).collect(),
    })
}
