//! Label sets (interop/telemetry.md section 2), kept as data and written only when scraped.

use crate::facts::{
    ConnectionFacts, Party, Reporter, RequestFacts, RequestProtocol, Security, Transport,
};
use mesh_model::{Service, SpiffeId, Workload};
use prometheus_client::encoding::{
    EncodeLabel, EncodeLabelSet, EncodeLabelValue, LabelSetEncoder, LabelValueEncoder,
};
use std::fmt::{self, Write as _};
use std::sync::Arc;

/// What a missing value is written as.
pub(super) const UNKNOWN: &str = "unknown";

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct WorkloadLabels {
    name: Arc<str>,
    namespace: Arc<str>,
    canonical_name: Arc<str>,
    canonical_revision: Arc<str>,
    cluster: Arc<str>,
    region: Arc<str>,
    zone: Arc<str>,
}

impl WorkloadLabels {
    fn of(workload: &Workload) -> Self {
        Self {
            name: workload.workload_name.clone(),
            namespace: workload.namespace.clone(),
            canonical_name: workload.canonical_name.clone(),
            canonical_revision: workload.canonical_revision.clone(),
            cluster: workload.cluster.clone(),
            region: workload.locality.region.clone(),
            zone: workload.locality.zone.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct PartyLabels {
    workload: Option<WorkloadLabels>,
    principal: Option<SpiffeId>,
}

impl PartyLabels {
    fn of(party: &Party) -> Self {
        Self {
            workload: party.workload.as_deref().map(WorkloadLabels::of),
            principal: party.identity.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ServiceLabels {
    hostname: Arc<str>,
    short_name: Arc<str>,
    namespace: Arc<str>,
}

impl ServiceLabels {
    fn of(service: &Service) -> Self {
        Self {
            hostname: service.name.hostname.clone(),
            short_name: service.short_name.clone(),
            namespace: service.name.namespace.clone(),
        }
    }
}

/// The labels that every traffic family has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TrafficLabels {
    reporter: Reporter,
    source: PartyLabels,
    destination: PartyLabels,
    service: Option<ServiceLabels>,
    security: Security,
    same_node: bool,
}

impl TrafficLabels {
    pub(crate) fn of_connection(facts: &ConnectionFacts) -> Self {
        Self {
            reporter: facts.reporter,
            source: PartyLabels::of(&facts.source),
            destination: PartyLabels::of(&facts.destination),
            service: facts.service.as_deref().map(ServiceLabels::of),
            security: facts.security,
            same_node: facts.transport == Transport::Node,
        }
    }

    pub(crate) fn of_request(facts: &RequestFacts) -> Self {
        Self {
            reporter: facts.reporter,
            source: PartyLabels::of(&facts.source),
            destination: PartyLabels::of(&facts.destination),
            service: facts.service.as_deref().map(ServiceLabels::of),
            security: facts.security,
            same_node: false,
        }
    }

    /// The labels of traffic whose own labels no longer fit: only what has few values is kept.
    pub(crate) fn collapsed(&self) -> Self {
        Self {
            reporter: self.reporter,
            source: PartyLabels::default(),
            destination: PartyLabels::default(),
            service: None,
            security: self.security,
            same_node: self.same_node,
        }
    }

    fn encode_common(&self, to: &mut LabelSetEncoder<'_>) -> fmt::Result {
        label(to, "reporter", self.reporter.as_str())?;
        encode_party(to, &SOURCE, &self.source)?;
        encode_party(to, &DESTINATION, &self.destination)?;
        let service = self.service.as_ref();
        label(
            to,
            "destination_service",
            service.map_or("", |s| &s.hostname),
        )?;
        label(
            to,
            "destination_service_name",
            service.map_or("", |s| &s.short_name),
        )?;
        label(
            to,
            "destination_service_namespace",
            service.map_or("", |s| &s.namespace),
        )?;
        label(to, "connection_security_policy", self.security.as_str())?;
        // Only where it says something: dashboards know the other labels alone.
        if self.same_node {
            label(to, "transport", Transport::Node.as_str())?;
        }
        Ok(())
    }
}

/// The label names of one party.
struct PartyNames {
    workload: &'static str,
    namespace: &'static str,
    principal: &'static str,
    app: &'static str,
    version: &'static str,
    cluster: &'static str,
    canonical_service: &'static str,
    canonical_revision: &'static str,
    region: &'static str,
    zone: &'static str,
}

const SOURCE: PartyNames = PartyNames {
    workload: "source_workload",
    namespace: "source_workload_namespace",
    principal: "source_principal",
    app: "source_app",
    version: "source_version",
    cluster: "source_cluster",
    canonical_service: "source_canonical_service",
    canonical_revision: "source_canonical_revision",
    region: "source_region",
    zone: "source_zone",
};

const DESTINATION: PartyNames = PartyNames {
    workload: "destination_workload",
    namespace: "destination_workload_namespace",
    principal: "destination_principal",
    app: "destination_app",
    version: "destination_version",
    cluster: "destination_cluster",
    canonical_service: "destination_canonical_service",
    canonical_revision: "destination_canonical_revision",
    region: "destination_region",
    zone: "destination_zone",
};

fn encode_party(
    to: &mut LabelSetEncoder<'_>,
    names: &PartyNames,
    party: &PartyLabels,
) -> fmt::Result {
    let of = |field: fn(&WorkloadLabels) -> &str| party.workload.as_ref().map_or("", field);
    label(to, names.workload, of(|w| &w.name))?;
    label(to, names.namespace, of(|w| &w.namespace))?;
    match &party.principal {
        Some(identity) => label_value(to, names.principal, &Displayed(identity))?,
        None => label(to, names.principal, "")?,
    }
    label(to, names.app, of(|w| &w.canonical_name))?;
    label(to, names.version, of(|w| &w.canonical_revision))?;
    label(to, names.cluster, of(|w| &w.cluster))?;
    label(to, names.canonical_service, of(|w| &w.canonical_name))?;
    label(to, names.canonical_revision, of(|w| &w.canonical_revision))?;
    label(to, names.region, of(|w| &w.region))?;
    label(to, names.zone, of(|w| &w.zone))
}

struct Displayed<'a, T>(&'a T);

impl<T: fmt::Display> EncodeLabelValue for Displayed<'_, T> {
    fn encode(&self, to: &mut LabelValueEncoder<'_>) -> fmt::Result {
        write!(to, "{}", self.0)
    }
}

fn label(to: &mut LabelSetEncoder<'_>, name: &str, value: &str) -> fmt::Result {
    let value = if value.is_empty() { UNKNOWN } else { value };
    (name, value).encode(to.encode_label())
}

fn label_value(
    to: &mut LabelSetEncoder<'_>,
    name: &str,
    value: &impl EncodeLabelValue,
) -> fmt::Result {
    let mut encoder = to.encode_label();
    let mut key = encoder.encode_label_key()?;
    key.write_str(name)?;
    let mut to = key.encode_label_value()?;
    value.encode(&mut to)?;
    to.finish()
}

/// The labels of a TCP series: the traffic's, the protocol and the flag.
pub(crate) struct TcpSeries<'a> {
    pub(crate) traffic: &'a TrafficLabels,
    pub(crate) flag: &'static str,
    /// Why the connections of the series ended; a label of ours.
    pub(crate) reason: Option<&'static str>,
}

impl EncodeLabelSet for TcpSeries<'_> {
    fn encode(&self, to: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.traffic.encode_common(to)?;
        label(to, "request_protocol", "tcp")?;
        label(to, "response_flags", self.flag)?;
        match self.reason {
            Some(reason) => label(to, "reason", reason),
            None => Ok(()),
        }
    }
}

/// The key of a request series.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RequestLabels {
    pub(crate) traffic: TrafficLabels,
    pub(crate) protocol: RequestProtocol,
    pub(crate) status: u16,
    pub(crate) flag: &'static str,
    pub(crate) grpc_status: Option<u32>,
}

impl EncodeLabelSet for RequestLabels {
    fn encode(&self, to: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.traffic.encode_common(to)?;
        label(to, "request_protocol", self.protocol.as_str())?;
        label(to, "response_flags", self.flag)?;
        label_value(to, "response_code", &self.status)?;
        match (self.protocol, self.grpc_status) {
            (RequestProtocol::Http, _) => Ok(()),
            (RequestProtocol::Grpc, Some(status)) => {
                label_value(to, "grpc_response_status", &status)
            }
            (RequestProtocol::Grpc, None) => label(to, "grpc_response_status", ""),
        }
    }
}
