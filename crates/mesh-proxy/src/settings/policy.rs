//! How authorization policies are read.

use mesh_model::PolicyCompatibility;

/// Flags of authorization policies.
#[derive(Debug, Clone, clap::Args)]
pub struct PolicyFlags {
    /// What becomes of a policy that applies and cannot be evaluated: `strict` denies, `istio` passes
    /// it over as Istio's ztunnel does. One setting for the whole mesh; docs/policy.md.
    #[arg(long, env = "POLICY_COMPATIBILITY", default_value = "strict")]
    pub policy_compatibility: PolicyCompatibility,
    /// Log which policy matched at INFO, not at DEBUG.
    #[arg(
        long,
        env = "AUTHZ_POLICY_INFO_LOGGING",
        default_value_t = false,
        action = clap::ArgAction::Set
    )]
    pub policy_info_logging: bool,
}
