//! From the text of a file to typed objects, strictly: an unknown field is a typing error that
//! would otherwise silently mean nothing.

use super::Object;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// The largest file taken, in bytes.
pub(crate) const FILE_BYTES_MAX: usize = 4 << 20;
/// Groups of which every kind must be one we know: a typing error in `kind` must not go unseen, and
/// a security kind that is not enforced must not be taken for one that is.
const STRICT_GROUPS: [&str; 3] = [
    "gateway.networking.k8s.io",
    "security.istio.io",
    "networking.istio.io",
];
/// Kinds of those groups that describe what this control plane decides by itself.
const NEUTRAL_KINDS: [&str; 1] = ["GatewayClass"];

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Document {
    /// The objects, in the order they are written.
    pub(crate) objects: Vec<Object>,
    /// Objects of kinds that are no configuration for a mesh, as `kind name`.
    pub(crate) ignored: Vec<String>,
}

/// Why a file is refused: object and field as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadError {
    /// `HTTPRoute demo/shop`.
    pub(crate) object: Option<String>,
    /// `spec.rules[0].matches[1].path`.
    pub(crate) field: Option<String>,
    /// What is wrong.
    pub(crate) why: String,
}

impl ReadError {
    /// Without object and field.
    pub(crate) fn plain(why: String) -> Self {
        Self {
            object: None,
            field: None,
            why,
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.object, &self.field].into_iter().flatten() {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.why)
    }
}

/// Reads a file's text.
///
/// # Errors
/// At the first mistake.
pub(crate) fn read(text: &str) -> Result<Document, ReadError> {
    if text.len() > FILE_BYTES_MAX {
        return Err(ReadError::plain(format!(
            "larger than {FILE_BYTES_MAX} bytes"
        )));
    }
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options())
        .map_err(|e| ReadError::plain(e.to_string()))?;
    let mut file = Document::default();
    for document in documents {
        take(document, &mut file)?;
    }
    let mut seen = BTreeSet::new();
    let twice = file
        .objects
        .iter()
        .map(Object::id)
        .find(|id| !seen.insert(id.clone()));
    match twice {
        Some(id) => Err(ReadError {
            object: Some(id.to_string()),
            field: None,
            why: "is there twice in this file".into(),
        }),
        None => Ok(file),
    }
}

/// Small budgets: what a file may make of itself (aliases, nesting) is bounded, not only its size.
/// Of the looks of a scalar only the plain ones count: `y`, `on`, `0755` and `1_000` are texts, as they are in header names and values.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        budget: serde_saphyr::budget! {
            // A file of the largest size, written tersely, holds about this many.
            max_events: 2_000_000,
            max_nodes: 1_000_000,
            max_depth: 64,
            max_documents: 10_000,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_recorded_anchor_events: 100_000,
            max_total_scalar_bytes: FILE_BYTES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
            max_alias_expansions_per_anchor: 1_000,
        },
    }
}

fn take(document: Value, file: &mut Document) -> Result<(), ReadError> {
    let text = |pointer: &str| {
        let value = document.pointer(pointer).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    let (api_version, kind) = (text("/apiVersion"), text("/kind"));
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let object = if namespace.is_empty() {
        format!("{kind} {name}")
    } else {
        format!("{kind} {namespace}/{name}")
    };
    let refuse = |field: Option<&str>, why: String| ReadError {
        object: (!kind.is_empty()).then(|| object.clone()),
        field: field.map(str::to_owned),
        why,
    };
    if kind.is_empty() || api_version.is_empty() {
        return Err(refuse(None, "apiVersion and kind are required".into()));
    }
    if kind == "List" {
        return take_list(document, file);
    }
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let made = match typed(group, &kind, document) {
        Some(made) => made,
        None if STRICT_GROUPS.contains(&group) && !NEUTRAL_KINDS.contains(&kind.as_str()) => {
            return Err(refuse(Some("kind"), format!("{kind} is not supported")));
        }
        None => {
            file.ignored.push(object);
            return Ok(());
        }
    };
    let made = made.map_err(|(field, why)| match kind.as_str() {
        // The reason may show the value.
        "Secret" => refuse(Some(&field), "cannot be read".into()),
        _ => refuse(Some(&field), why),
    })?;
    if !is_dns_name(&name) {
        let why = format!("'{name}' is not a DNS name of lower case letters, digits, '-' and '.'");
        return Err(refuse(Some("metadata.name"), why));
    }
    if !namespace.is_empty() && !is_dns_name(&namespace) {
        let why = format!("'{namespace}' is not a DNS name");
        return Err(refuse(Some("metadata.namespace"), why));
    }
    file.objects.push(made);
    Ok(())
}

fn take_list(mut document: Value, file: &mut Document) -> Result<(), ReadError> {
    let items = document.get_mut("items").map(Value::take);
    match items {
        Some(Value::Array(items)) => items.into_iter().try_for_each(|item| take(item, file)),
        _ => Err(ReadError {
            object: Some("List".into()),
            field: Some("items".into()),
            why: "is required".into(),
        }),
    }
}

/// RFC 1123 subdomain, as the API server demands of names.
fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

type Made = Result<Object, (String, String)>;

/// `None` for kinds that are not read.
fn typed(group: &str, kind: &str, document: Value) -> Option<Made> {
    Some(match (group, kind) {
        ("", "Namespace") => strict(document).map(Object::Namespace),
        ("", "Node") => strict(document).map(Object::Node),
        ("", "Service") => strict(document).map(Object::Service),
        ("", "Pod") => strict(document).map(Object::Pod),
        ("", "Secret") => strict(document).map(Object::Secret),
        ("discovery.k8s.io", "EndpointSlice") => strict(document).map(Object::EndpointSlice),
        ("gateway.networking.k8s.io", "Gateway") => strict(document).map(Object::Gateway),
        ("gateway.networking.k8s.io", "HTTPRoute") => strict(document).map(Object::HttpRoute),
        ("gateway.networking.k8s.io", "TCPRoute") => strict(document).map(Object::TcpRoute),
        ("gateway.networking.k8s.io", "ReferenceGrant") => {
            strict(document).map(Object::ReferenceGrant)
        }
        ("networking.istio.io", "ServiceEntry") => strict(document).map(Object::ServiceEntry),
        ("networking.istio.io", "WorkloadEntry") => strict(document).map(Object::WorkloadEntry),
        ("security.istio.io", "AuthorizationPolicy") => {
            strict(document).map(Object::AuthorizationPolicy)
        }
        ("security.istio.io", "PeerAuthentication") => {
            strict(document).map(Object::PeerAuthentication)
        }
        _ => return None,
    })
}

/// Deserialises, refusing fields that the type does not have. An error gives field and reason.
fn strict<T: DeserializeOwned>(document: Value) -> Result<Arc<T>, (String, String)> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(document, &mut track);
    let made = serde_ignored::deserialize(tracked, |path| {
        let path = field_path(&path.to_string());
        if path != "apiVersion" && path != "kind" {
            unknown.push(path);
        }
    });
    let made: T = made.map_err(|e| (track.path().to_string(), e.to_string()))?;
    match unknown.into_iter().next() {
        Some(field) => Err((field, "is not a field of this kind".into())),
        None => Ok(Arc::new(made)),
    }
}

/// `spec.rules[0].from` of `spec.?.rules.0.from`: the `?` stands for the inside of an optional value.
fn field_path(path: &str) -> String {
    let mut text = String::new();
    for part in path.split('.').filter(|part| *part != "?") {
        if part.bytes().all(|b| b.is_ascii_digit()) {
            text.push_str(&format!("[{part}]"));
        } else {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(part);
        }
    }
    text
}

#[cfg(test)]
mod tests;
