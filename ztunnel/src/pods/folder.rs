//! Pods as a folder of files describes them: a file that appears starts a pod, one that goes stops
//! it, one that changes does both.

use super::{PodNetns, PodSpec, Pods};
use mesh_runtime::ReadyGate;
use mesh_zds::{PodFile, PodFiles};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How often the folder is looked at.
const POLL: Duration = Duration::from_millis(250);

/// Keeps the pods as the folder says until the task is ended. The gate opens once the folder was
/// read, even when a pod in it cannot be started: one pod must not stop a node.
pub(crate) async fn follow(mut pods: Pods, folder: PathBuf, gate: ReadyGate) {
    let mut files = PodFiles::new(folder);
    let mut last_error = None;
    loop {
        match files.look().await {
            Ok(wanted) => {
                apply(&mut pods, wanted).await;
                last_error = None;
                gate.open();
            }
            Err(error) => {
                let error = error.to_string();
                if last_error.as_ref() != Some(&error) {
                    tracing::error!(folder = %files.folder().display(), error, "the pods cannot be read; those that run stay");
                }
                last_error = Some(error);
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Stops what is not wanted, or wanted otherwise, and starts what is missing.
async fn apply(pods: &mut Pods, wanted: BTreeMap<String, PodFile>) {
    pods.only(&wanted.keys().cloned().collect());
    for file in wanted.into_values() {
        let spec = PodSpec {
            uid: file.pod.uid,
            info: file.pod.info,
            netns: PodNetns::File(file.netns),
        };
        if !pods.is_known(&spec) {
            // A failure is logged, and tried again when it is due.
            pods.run(spec).await.ok();
        }
    }
    pods.retry().await;
}
