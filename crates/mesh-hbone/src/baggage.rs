//! The `baggage` and `forwarded` headers of a CONNECT (interop/hbone.md, "CONNECT request").
//!
//! Both are information for telemetry. Neither is ever used to decide: the peer's identity comes
//! from its certificate and its address from its TCP connection.

use bytes::Bytes;
use http::HeaderValue;
use mesh_model::Workload;
use std::fmt::Write as _;
use std::net::SocketAddr;

/// Longest `baggage` or `forwarded` value read, bytes; more is ignored.
const VALUE_BYTES_MAX: usize = 4096;
/// Room for a value of names of common length, bytes.
const VALUE_BYTES_FIRST: usize = 256;

/// Who a workload says it is. Every field may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Baggage {
    /// Cluster.
    pub cluster: String,
    /// Namespace.
    pub namespace: String,
    /// `deployment`, `cronjob`, `pod` or `job`; empty reads as `pod`.
    pub workload_type: String,
    /// Name of the workload.
    pub workload_name: String,
    /// Canonical service.
    pub service_name: String,
    /// Canonical revision.
    pub service_version: String,
    /// Region.
    pub region: String,
    /// Zone.
    pub zone: String,
}

impl Baggage {
    /// The header value of a workload, as [`Self::to_value`] writes it.
    pub fn value_of(workload: &Workload) -> Option<HeaderValue> {
        compose(
            workload.workload_type,
            &[
                &workload.cluster,
                &workload.namespace,
                &workload.workload_name,
                &workload.canonical_name,
                &workload.canonical_revision,
                &workload.locality.region,
                &workload.locality.zone,
            ],
        )
    }

    /// The header value; empty fields, and fields that no baggage may hold, are left out.
    pub fn to_value(&self) -> Option<HeaderValue> {
        compose(
            &self.workload_type,
            &[
                &self.cluster,
                &self.namespace,
                &self.workload_name,
                &self.service_name,
                &self.service_version,
                &self.region,
                &self.zone,
            ],
        )
    }

    /// Reads a header value. Items that are unknown or malformed are passed over, as are
    /// properties after `;`; of an item given twice the last counts.
    pub fn parse(value: &HeaderValue) -> Self {
        let mut baggage = Self::default();
        let text = match value.to_str() {
            Ok(text) if text.len() <= VALUE_BYTES_MAX => text,
            _ => return baggage,
        };
        for item in text.split(',') {
            let item = item.split(';').next().unwrap_or_default();
            let Some((key, value)) = item.split_once('=') else {
                continue;
            };
            let value = value.trim();
            if is_plain(value) {
                baggage.set(key.trim(), value);
            }
        }
        baggage
    }

    fn set(&mut self, key: &str, value: &str) {
        let field = match key {
            "k8s.cluster.name" => &mut self.cluster,
            "k8s.namespace.name" => &mut self.namespace,
            "service.name" => &mut self.service_name,
            "service.version" => &mut self.service_version,
            "cloud.region" => &mut self.region,
            "cloud.availability_zone" => &mut self.zone,
            _ => {
                let of = key
                    .strip_prefix("k8s.")
                    .and_then(|k| k.strip_suffix(".name"));
                let Some(kind) = of.filter(|k| !k.is_empty()).and_then(workload_type) else {
                    return;
                };
                self.workload_type = kind.into();
                &mut self.workload_name
            }
        };
        *field = value.into();
    }
}

/// Written for every connection: in one piece of memory.
fn compose(kind: &str, values: &[&str; 7]) -> Option<HeaderValue> {
    const KEYS: [&str; 7] = [
        "k8s.cluster.name",
        "k8s.namespace.name",
        "", // k8s.<type>.name
        "service.name",
        "service.version",
        "cloud.region",
        "cloud.availability_zone",
    ];
    let kind = workload_type(kind)?;
    let mut text = String::with_capacity(VALUE_BYTES_FIRST);
    for (key, value) in KEYS.iter().zip(values) {
        if !is_plain(value) {
            continue;
        }
        if !text.is_empty() {
            text.push(',');
        }
        let parts: &[&str] = match *key {
            "" => &["k8s.", kind, ".name"],
            key => &[key],
        };
        parts.iter().for_each(|part| text.push_str(part));
        text.push('=');
        text.push_str(value);
    }
    HeaderValue::from_maybe_shared(Bytes::from(text)).ok()
}

fn workload_type(text: &str) -> Option<&'static str> {
    match text {
        "deployment" => Some("deployment"),
        "cronjob" => Some("cronjob"),
        "job" => Some("job"),
        "pod" | "" => Some("pod"),
        _ => None,
    }
}

/// Whether a value can stand in baggage as it is: names of Kubernetes objects, labels and zones can.
fn is_plain(value: &str) -> bool {
    !value.is_empty()
        && value
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b',' | b';' | b'=' | b'"' | b'\\' | b'%'))
}

/// The `forwarded` header: where a connection came from and which service it was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// The client, when given and readable. Information only, never trusted.
    pub client: Option<SocketAddr>,
    /// The host name of the service asked for.
    pub host: Option<String>,
}

impl Forwarded {
    /// The header value.
    pub fn to_value(&self) -> Option<HeaderValue> {
        let mut text = String::with_capacity(VALUE_BYTES_FIRST);
        if let Some(address) = self.client {
            // Writing to a String cannot fail.
            let _infallible = write!(text, "for=\"{address}\"");
        }
        if let Some(host) = self.host.as_ref().filter(|host| is_plain(host)) {
            if !text.is_empty() {
                text.push(';');
            }
            text.push_str("host=");
            text.push_str(host);
        }
        if text.is_empty() {
            return None;
        }
        HeaderValue::from_maybe_shared(Bytes::from(text)).ok()
    }

    /// Reads a header value; of several elements the first counts.
    pub fn parse(value: &HeaderValue) -> Self {
        let mut forwarded = Self {
            client: None,
            host: None,
        };
        let text = match value.to_str() {
            Ok(text) if text.len() <= VALUE_BYTES_MAX => text,
            _ => return forwarded,
        };
        for pair in text.split(',').next().unwrap_or_default().split(';') {
            let Some((key, value)) = pair.split_once('=') else {
                continue;
            };
            let value = value.trim().trim_matches('"');
            match key.trim() {
                "for" => forwarded.client = value.parse().ok(),
                "host" if is_plain(value) => forwarded.host = Some(value.to_ascii_lowercase()),
                _ => {}
            }
        }
        forwarded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_workload_gives_the_known_form() {
        let mut workload = Workload::new("Kubernetes//Pod/demo/web-1", "demo", "web-1");
        workload.workload_type = "deployment";
        workload.workload_name = "web".into();
        workload.locality.region = "eu".into();
        let value = Baggage::value_of(&workload).unwrap();
        assert_eq!(
            value,
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=demo,k8s.deployment.name=web,\
             service.name=web-1,service.version=latest,cloud.region=eu"
        );
    }

    #[test]
    fn forwarded_has_the_known_form() {
        let forwarded = Forwarded {
            client: Some("10.0.0.1:4000".parse().unwrap()),
            host: Some("web.demo.svc.cluster.local".into()),
        };
        let value = forwarded.to_value().unwrap();
        assert_eq!(
            value,
            "for=\"10.0.0.1:4000\";host=web.demo.svc.cluster.local"
        );
        assert_eq!(Forwarded::parse(&value), forwarded);
    }

    proptest! {
        #[test]
        fn baggage_round_trips(
            cluster in "[a-zA-Z0-9-]{0,12}",
            namespace in "[a-z0-9-]{0,12}",
            kind in prop::sample::select(vec!["deployment", "cronjob", "pod", "job"]),
            name in "[a-z0-9.-]{1,12}",
            zone in "[a-z0-9/:-]{0,12}",
        ) {
            let baggage = Baggage {
                cluster,
                namespace,
                workload_type: kind.into(),
                workload_name: name,
                service_name: "s".into(),
                service_version: String::new(),
                region: String::new(),
                zone,
            };
            prop_assert_eq!(Baggage::parse(&baggage.to_value().unwrap()), baggage);
        }

        #[test]
        fn any_value_is_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let baggage = Baggage::parse(&value);
                prop_assert!(!baggage.cluster.contains([',', ';', '=']));
                let _ = Forwarded::parse(&value);
            }
        }

        #[test]
        fn forwarded_round_trips(client: Option<SocketAddr>, host in prop::option::of("[a-z0-9.-]{1,30}")) {
            // A scope id is not part of an address on the wire.
            let client = client.map(|a| SocketAddr::new(a.ip(), a.port()));
            let forwarded = Forwarded { client, host };
            if let Some(value) = forwarded.to_value() {
                prop_assert_eq!(Forwarded::parse(&value), forwarded);
            }
        }
    }
}
