//! Gateways of class `strata`: their listeners, and who serves them.

use super::output::{Condition, Output};
use super::{CLASS_GATEWAY, LABEL_GATEWAY_NAME, grants, secret};
use crate::objects::{Objects, label};
use crate::published::Account;
use gateway_api::gateways::{Gateway, GatewayListeners, GatewayListenersTlsMode};
use mesh_model::{
    GatewayListener, Host, ListenerKey, ListenerProtocol, ObjectName, Resource, TlsCertificatePem,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const KIND: &str = "Gateway";

/// A listener that works, with the object it is made of.
pub(super) struct ListenerInfo<'a> {
    pub(super) listener: Arc<GatewayListener>,
    pub(super) object: &'a GatewayListeners,
}

/// The gateways that are ours.
pub(super) struct Gateways<'a> {
    by_name: BTreeMap<ObjectName, Vec<ListenerInfo<'a>>>,
    accounts: BTreeMap<ObjectName, BTreeSet<Account>>,
}

impl<'a> Gateways<'a> {
    pub(super) fn translate(objects: &'a Objects, out: &mut Output) -> Self {
        let mut gateways = Self {
            by_name: BTreeMap::new(),
            accounts: BTreeMap::new(),
        };
        let ours = |g: &Gateway| g.spec.gateway_class_name == CLASS_GATEWAY;
        for (name, gateway) in objects.gateways.iter().filter(|(_, g)| ours(g)) {
            let listeners = listeners(objects, name, gateway, out);
            let accepted = Condition::new("Accepted", true, "Accepted", "");
            out.condition(KIND, name, accepted);
            gateways.by_name.insert(name.clone(), listeners);
            gateways
                .accounts
                .insert(name.clone(), accounts(objects, name));
        }
        gateways
    }

    /// The working listeners of a Gateway; `None` when it is not ours.
    pub(super) fn listeners(&self, name: &ObjectName) -> Option<&[ListenerInfo<'a>]> {
        self.by_name.get(name).map(Vec::as_slice)
    }

    pub(super) fn into_accounts(self) -> BTreeMap<ObjectName, BTreeSet<Account>> {
        self.accounts
    }
}

/// The accounts that the pods of a Gateway run as: they may have its TLS keys.
fn accounts(objects: &Objects, name: &ObjectName) -> BTreeSet<Account> {
    let serves = |pod: &k8s_openapi::api::core::v1::Pod| {
        label(&pod.metadata, LABEL_GATEWAY_NAME) == Some(&*name.name)
    };
    let pods = objects.pods.iter();
    pods.filter(|(pod, object)| pod.namespace == name.namespace && serves(object))
        .map(|(pod, object)| (pod.namespace.clone(), super::pod::account(object)))
        .collect()
}

fn listeners<'a>(
    objects: &'a Objects,
    name: &ObjectName,
    gateway: &'a Gateway,
    out: &mut Output,
) -> Vec<ListenerInfo<'a>> {
    let mut made: Vec<ListenerInfo<'a>> = Vec::new();
    for object in &gateway.spec.listeners {
        let result = listener(objects, name, object).and_then(|listener| {
            match made
                .iter()
                .find(|other| conflict(&other.listener, &listener))
            {
                Some(other) => Err(Condition::new(
                    "Conflicted",
                    true,
                    "ProtocolConflict",
                    format!("conflicts with listener {}", other.listener.key.name),
                )),
                None => Ok(listener),
            }
        });
        match result {
            Ok(listener) => {
                let listener = Arc::new(listener);
                let programmed = Condition::new("Programmed", true, "Programmed", "");
                out.condition(KIND, name, programmed.about(&object.name));
                out.put(Resource::Listener(listener.clone()));
                made.push(ListenerInfo { listener, object });
            }
            Err(condition) => out.condition(KIND, name, condition.about(&object.name)),
        }
    }
    made
}

/// Two listeners may share a port when they share its protocol and differ by host.
fn conflict(a: &GatewayListener, b: &GatewayListener) -> bool {
    let tls = |p| {
        matches!(
            p,
            ListenerProtocol::Https | ListenerProtocol::TlsPassthrough
        )
    };
    a.key.name == b.key.name
        || (a.port == b.port
            && ((a.protocol != b.protocol && !(tls(a.protocol) && tls(b.protocol)))
                || a.protocol == ListenerProtocol::Tcp
                || a.hostname == b.hostname))
}

fn listener(
    objects: &Objects,
    gateway: &ObjectName,
    object: &GatewayListeners,
) -> Result<GatewayListener, Condition> {
    let not = |kind, reason, message: String| Condition::new(kind, false, reason, message);
    // A name of one part: with a slash in it the listener's key would be another's.
    if object.name.is_empty() || object.name.contains('/') {
        let message = format!("name: '{}' is not a section name", object.name);
        return Err(not("Accepted", "UnsupportedValue", message));
    }
    let port = u16::try_from(object.port).ok().filter(|p| *p != 0);
    let port = port.ok_or_else(|| {
        let message = format!("{} is not a port", object.port);
        not("Accepted", "UnsupportedValue", message)
    })?;
    let hostname: Option<Host> = match object.hostname.as_deref() {
        None | Some("") => None,
        Some(text) => {
            let host = text.parse();
            Some(host.map_err(|e| not("Accepted", "UnsupportedValue", format!("hostname: {e}")))?)
        }
    };
    let mode = object.tls.as_ref().and_then(|t| t.mode.as_ref());
    let passthrough = mode == Some(&GatewayListenersTlsMode::Passthrough);
    let protocol = match (object.protocol.as_str(), passthrough) {
        ("HTTP", _) => ListenerProtocol::Http,
        ("HTTPS", false) => ListenerProtocol::Https,
        ("TCP", _) => ListenerProtocol::Tcp,
        ("TLS", true) => ListenerProtocol::TlsPassthrough,
        (protocol, _) => {
            let message = format!("protocol {protocol} with this TLS mode is not supported");
            return Err(not("Accepted", "UnsupportedProtocol", message));
        }
    };
    let certificates = if protocol == ListenerProtocol::Https {
        certificates(objects, gateway, object)?
    } else {
        Vec::new()
    };
    Ok(GatewayListener {
        key: ListenerKey {
            gateway: gateway.clone(),
            name: object.name.as_str().into(),
        },
        port,
        protocol,
        hostname,
        certificates,
    })
}

fn certificates(
    objects: &Objects,
    gateway: &ObjectName,
    object: &GatewayListeners,
) -> Result<Vec<TlsCertificatePem>, Condition> {
    let not = |reason, message: String| Condition::new("ResolvedRefs", false, reason, message);
    let refs = object
        .tls
        .as_ref()
        .and_then(|t| t.certificate_refs.as_ref());
    let refs = refs.map(Vec::as_slice).unwrap_or_default();
    if refs.is_empty() {
        let message = "tls.certificateRefs is required".to_owned();
        return Err(not("InvalidCertificateRef", message));
    }
    let mut certificates = Vec::new();
    for r in refs {
        let (group, kind) = (
            r.group.as_deref().unwrap_or(""),
            r.kind.as_deref().unwrap_or("Secret"),
        );
        if (group, kind) != ("", "Secret") {
            let message = format!("{kind} of group '{group}' is not a Secret");
            return Err(not("InvalidCertificateRef", message));
        }
        let namespace = r.namespace.as_deref().unwrap_or(&gateway.namespace);
        let reference = grants::Reference {
            from_kind: KIND,
            from_namespace: &gateway.namespace,
            to_group: "",
            to_kind: "Secret",
            to_namespace: namespace,
            to_name: &r.name,
        };
        if !grants::permitted(objects, &reference) {
            let message = format!("Secret {namespace}/{} is not granted", r.name);
            return Err(not("RefNotPermitted", message));
        }
        let name = ObjectName::new(namespace, r.name.as_str());
        let pem = secret::certificate(objects, &name);
        certificates.push(pem.map_err(|why| not("InvalidCertificateRef", why))?);
    }
    Ok(certificates)
}
