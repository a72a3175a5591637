//! What `istio.workload` has no field for: extensions of ours, which other readers pass by. Those of
//! others are passed by here.

use super::DecodeError;
use super::context::Context;
use mesh_model::{Service, Workload};
use mesh_proto::{config, workload as wire};
use prost::Message;

const SERVICE: (&str, &str) = (
    "strata.dev/service",
    "type.googleapis.com/strata.config.v1.ServiceOptions",
);
const WORKLOAD: (&str, &str) = (
    "strata.dev/workload",
    "type.googleapis.com/strata.config.v1.WorkloadOptions",
);

pub(super) fn of_service(service: &Service) -> Vec<wire::Extension> {
    let options = config::ServiceOptions {
        sticky_by_source: service.sticky_by_source,
    };
    of(SERVICE, &options)
}

pub(super) fn of_workload(workload: &Workload) -> Vec<wire::Extension> {
    let options = config::WorkloadOptions {
        encrypt_same_node: workload.encrypt_same_node,
    };
    of(WORKLOAD, &options)
}

pub(super) fn service(
    cx: &Context<'_>,
    extensions: &[wire::Extension],
) -> Result<config::ServiceOptions, DecodeError> {
    read(cx, SERVICE, extensions)
}

pub(super) fn workload(
    cx: &Context<'_>,
    extensions: &[wire::Extension],
) -> Result<config::WorkloadOptions, DecodeError> {
    read(cx, WORKLOAD, extensions)
}

/// Options that say nothing are not sent.
fn of<M: Message + Default + PartialEq>(
    (name, type_url): (&str, &str),
    options: &M,
) -> Vec<wire::Extension> {
    if *options == M::default() {
        return Vec::new();
    }
    let config = prost_types::Any {
        type_url: type_url.into(),
        value: options.encode_to_vec(),
    };
    vec![wire::Extension {
        name: name.into(),
        config: Some(config),
    }]
}

/// The first of the type; the name is for people.
fn read<M: Message + Default>(
    cx: &Context<'_>,
    (name, type_url): (&str, &str),
    extensions: &[wire::Extension],
) -> Result<M, DecodeError> {
    let mut configs = extensions.iter().filter_map(|e| e.config.as_ref());
    match configs.find(|config| config.type_url == type_url) {
        None => Ok(M::default()),
        Some(config) => M::decode(config.value.as_slice())
            .map_err(|e| cx.bad(format_args!("extensions[{name}]"), e)),
    }
}
