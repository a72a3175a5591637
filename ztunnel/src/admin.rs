//! `/config_dump`; the other pages are those of every proxy.

mod dump;

use crate::node::Node;
use dump::ConfigDump;
use mesh_discovery::DiscoveryStatus;
use mesh_runtime::AdminResponse;
use std::sync::Arc;

/// Shows the node, with the settings as text.
pub(crate) fn config_dump(
    node: Arc<Node>,
    settings: String,
) -> impl Fn(&DiscoveryStatus) -> AdminResponse {
    move |discovery| AdminResponse::json(&ConfigDump::of(&node, discovery, &settings))
}
