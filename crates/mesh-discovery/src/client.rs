//! The delta ADS client.

use crate::NodeInfo;
use crate::hub::Hub;
use mesh_grpc::ChannelSettings;

/// Keeps the hub up to date until the task is ended.
pub(crate) async fn run(
    _channel: ChannelSettings,
    _node: NodeInfo,
    _kinds: Vec<&'static str>,
    _hub: Hub,
) {
    std::future::pending::<()>().await;
}
