//! Every resource survives the wire.

mod http_strategy;
mod mesh_strategy;
mod refusals;

use super::*;
use http_strategy::{http_rule, listener, tcp_rule};
use mesh_strategy::{http_match_of_policy, l4_match, policy, service, workload};
use proptest::collection::vec;
use proptest::prelude::*;

fn resource() -> impl Strategy<Value = Resource> {
    use PolicyScope::{Global, Namespace, Targets, WorkloadSelector};
    let l4 = policy(l4_match(), vec![Global, Namespace, WorkloadSelector]);
    let full = policy(
        http_match_of_policy(),
        vec![Global, Namespace, WorkloadSelector, Targets],
    );
    prop_oneof![
        workload().prop_map(|w| Resource::Workload(Arc::new(w))),
        service().prop_map(|s| Resource::Service(Arc::new(s))),
        l4.prop_map(|p| Resource::Policy(Arc::new(p))),
        full.prop_map(|p| Resource::HttpPolicy(Arc::new(p))),
        http_rule().prop_map(|r| Resource::HttpRoute(Arc::new(r))),
        tcp_rule().prop_map(|r| Resource::TcpRoute(Arc::new(r))),
        listener().prop_map(|l| Resource::Listener(Arc::new(l))),
    ]
}

proptest! {
    #[test]
    fn a_resource_survives_the_wire(resource in resource()) {
        let wire = encode(&resource);
        prop_assert_eq!(&encode(&resource), &wire, "one resource, one encoding");
        prop_assert_eq!(wire.name.as_str(), &*resource.key().name);
        let back = decode(wire.type_url, &wire.name, &wire.value);
        prop_assert_eq!(back, Ok(resource.clone()));
        prop_assert!(keys(wire.type_url, &wire.name).contains(&resource.key()));
    }

    #[test]
    fn any_bytes_decode_or_err_without_panic(bytes in vec(any::<u8>(), 0..200)) {
        for type_url in TYPES_ALL {
            decode(type_url, "a/b", &bytes).ok();
            unreadable(type_url, "a/b", &bytes, "why");
        }
    }

    #[test]
    fn unknown_fields_are_ignored(resource in resource()) {
        let mut wire = encode(&resource);
        // Field 4000, a varint.
        wire.value.extend([0x80, 0xfa, 0x01, 0x07]);
        prop_assert_eq!(decode(wire.type_url, &wire.name, &wire.value), Ok(resource));
    }
}
