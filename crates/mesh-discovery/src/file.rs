//! The local file source: the form ztunnel reads at `LOCAL_XDS_PATH`, watched for edits.
//!
//! The file is the whole state: what is no longer in it is gone. A file that cannot be read or
//! holds a mistake changes nothing, so the last good state stays in use; the status says why.

mod schema;

use crate::hub::Hub;
use mesh_model::{Resource, ResourceKey};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often the file is looked at.
const POLL: Duration = Duration::from_millis(250);
/// The largest file taken, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Why a file was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{path}: {source}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    #[error("{0}: larger than {FILE_BYTES_MAX} bytes")]
    TooLarge(String),
    #[error("{path}: {why}")]
    Content { path: String, why: String },
}

/// Keeps the hub up to date until the task is ended.
pub(crate) async fn run(path: PathBuf, mut hub: Hub) {
    let mut last: Option<Result<Vec<u8>, String>> = None;
    let mut held: BTreeMap<ResourceKey, Resource> = BTreeMap::new();
    loop {
        let content = read(&path).await.map_err(|e| e.to_string());
        if last.as_ref() != Some(&content) {
            let resources = match &content {
                Ok(bytes) => parse(&path, bytes).map_err(|e| e.to_string()),
                Err(why) => Err(why.clone()),
            };
            take(&mut hub, &mut held, resources, &path);
            last = Some(content);
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Read {
        path: path.display().to_string(),
        source,
    };
    let size = tokio::fs::metadata(path).await.map_err(failed)?.len();
    if size > FILE_BYTES_MAX {
        return Err(FileError::TooLarge(path.display().to_string()));
    }
    tokio::fs::read(path).await.map_err(failed)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Resource>, FileError> {
    let bad = |why: String| FileError::Content {
        path: path.display().to_string(),
        why,
    };
    let text = std::str::from_utf8(bytes).map_err(|e| bad(e.to_string()))?;
    schema::parse(text).map_err(bad)
}

fn take(
    hub: &mut Hub,
    held: &mut BTreeMap<ResourceKey, Resource>,
    resources: Result<Vec<Resource>, String>,
    path: &Path,
) {
    let resources = match resources {
        Ok(resources) => resources,
        Err(why) => {
            tracing::warn!(why, "local file refused, the last good state stays");
            hub.set_status(|s| s.last_error = Some(why));
            return;
        }
    };
    let next: BTreeMap<_, _> = resources.into_iter().map(|r| (r.key(), r)).collect();
    for key in held.keys().filter(|key| !next.contains_key(key)) {
        hub.remove(key);
    }
    for (key, resource) in &next {
        if held.get(key) != Some(resource) {
            hub.upsert(resource.clone());
        }
    }
    *held = next;
    tracing::info!(path = %path.display(), resources = held.len(), "local file read");
    hub.open_gate();
    hub.set_status(|s| {
        s.connected = true;
        s.sessions += 1;
        s.last_error = None;
    });
}

#[cfg(test)]
mod tests;
