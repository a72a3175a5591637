//! Generated gRPC and protobuf messages, and nothing else.
//!
//! The `.proto` files beside this crate are written from the interop facts (`interop/xds-workload.md`,
//! `interop/ca.md`, `interop/zds-cni.md`); `strata.config.v1` is ours. Conversion to and from the model is the work of
//! `mesh-discovery`.

/// Generated code carries no documentation of its own; the `.proto` files do.
macro_rules! generated {
    ($(#[$doc:meta])* $module:ident, $package:literal) => {
        $(#[$doc])*
        #[allow(
            missing_docs,
            unreachable_pub,
            unused_qualifications,
            clippy::all,
            clippy::pedantic,
            clippy::restriction,
            reason = "generated"
        )]
        pub mod $module {
            tonic::include_proto!($package);
        }
    };
}

generated!(
    /// Delta aggregated discovery (`envoy.service.discovery.v3`).
    discovery, "envoy.service.discovery.v3"
);
generated!(
    /// Workloads and services (`istio.workload`).
    workload, "istio.workload"
);
generated!(
    /// L4 authorization policies (`istio.security`).
    security, "istio.security"
);
generated!(
    /// Certificate signing (`istio.v1.auth`).
    ca, "istio.v1.auth"
);
generated!(
    /// Strata's L7 resources (`strata.config.v1`).
    config, "strata.config.v1"
);
generated!(
    /// Node agent to node proxy: the pods of a node (`istio.workload.zds`).
    zds, "istio.workload.zds"
);
