//! The local file source.

use crate::hub::Hub;
use std::path::PathBuf;

/// Keeps the hub up to date until the task is ended.
pub(crate) async fn run(_path: PathBuf, _hub: Hub) {
    std::future::pending::<()>().await;
}
