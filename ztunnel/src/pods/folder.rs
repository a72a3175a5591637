//! The folder of pods: one YAML file a pod, watched.
//!
//! A file that appears starts a pod, one that goes stops it, one that changes does both. A file
//! that cannot be read changes nothing: the pod it described before stays as it is.

use super::{PodSpec, Pods};
use mesh_proxy::WorkloadInfo;
use mesh_runtime::ReadyGate;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// How often the folder is looked at.
const POLL: Duration = Duration::from_millis(250);
/// How long after a failed start the next attempt is made.
const RETRY: Duration = Duration::from_secs(5);
/// Largest file taken, bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// The form of a file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PodFile {
    uid: String,
    name: String,
    namespace: String,
    service_account: String,
    netns: PathBuf,
}

impl TryFrom<PodFile> for PodSpec {
    type Error = String;

    fn try_from(file: PodFile) -> Result<Self, String> {
        if file.uid.is_empty() {
            return Err("uid is empty".into());
        }
        let (namespace, name) = (&file.namespace, &file.name);
        let info: WorkloadInfo = format!("{namespace}/{name}/{}", file.service_account).parse()?;
        Ok(Self {
            uid: file.uid,
            info,
            netns: Some(file.netns),
        })
    }
}

/// What is known of one file.
struct Known {
    content: Vec<u8>,
    /// The last good description.
    spec: Option<PodSpec>,
}

/// A pod that could not be started.
struct Pending {
    spec: PodSpec,
    retry_at: Instant,
}

/// Keeps the pods as the folder says until the task is ended. The gate opens once the folder was
/// read, even when a pod in it cannot be started: one pod must not stop a node.
pub(crate) async fn follow(mut pods: Pods, folder: PathBuf, gate: ReadyGate) {
    let mut files: BTreeMap<PathBuf, Known> = BTreeMap::new();
    let mut pending: BTreeMap<String, Pending> = BTreeMap::new();
    let mut last_error = None;
    loop {
        match read(folder.clone()).await {
            Ok(contents) => {
                note(&mut files, contents);
                apply(&mut pods, &mut pending, &wanted(&files)).await;
                last_error = None;
                gate.open();
            }
            Err(error) => {
                let error = error.to_string();
                if last_error.as_ref() != Some(&error) {
                    tracing::error!(folder = %folder.display(), error, "the pods cannot be read; those that run stay");
                }
                last_error = Some(error);
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

type Contents = BTreeMap<PathBuf, Result<Vec<u8>, String>>;

/// Reads every YAML file of the folder, off this thread: a slow disk must not hold up the rest.
async fn read(folder: PathBuf) -> io::Result<Contents> {
    tokio::task::spawn_blocking(move || {
        let mut contents = Contents::new();
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let yaml = path
                .extension()
                .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
            if yaml && contents.len() < super::PODS_MAX {
                let content = read_file(&path).map_err(|e| e.to_string());
                contents.insert(path, content);
            }
        }
        Ok(contents)
    })
    .await
    .map_err(io::Error::other)?
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
        let text = format!("larger than {FILE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    std::fs::read(path)
}

/// Takes over what changed; a file that makes no sense keeps its last good description.
fn note(files: &mut BTreeMap<PathBuf, Known>, contents: Contents) {
    files.retain(|path, _| contents.contains_key(path));
    for (path, content) in contents {
        let known = files.get(&path);
        let content = match content {
            Ok(content) => content,
            // A file that vanished while it was looked at is gone at the next look.
            Err(error) => {
                tracing::debug!(file = %path.display(), error, "pod file not read");
                continue;
            }
        };
        if known.is_some_and(|k| k.content == content) {
            continue;
        }
        let spec = match parse(&content) {
            Ok(spec) => {
                let twin = |(p, k): &(&PathBuf, &Known)| {
                    **p != path && k.spec.as_ref().is_some_and(|s| s.uid == spec.uid)
                };
                if let Some((twin, _)) = files.iter().find(twin) {
                    let (file, twin) = (path.display(), twin.display());
                    tracing::warn!(%file, %twin, uid = spec.uid, "two files have one uid: the first by name counts");
                }
                Some(spec)
            }
            Err(why) => {
                tracing::warn!(file = %path.display(), why, "pod file refused");
                known.and_then(|k| k.spec.clone())
            }
        };
        files.insert(path, Known { content, spec });
    }
}

fn parse(content: &[u8]) -> Result<PodSpec, String> {
    let text = std::str::from_utf8(content).map_err(|e| e.to_string())?;
    let options = serde_saphyr::options! { with_snippet: false };
    let file: PodFile =
        serde_saphyr::from_str_with_options(text, options).map_err(|e| e.to_string())?;
    file.try_into()
}

/// The pods the files describe; of two files with one uid the first by name counts.
fn wanted(files: &BTreeMap<PathBuf, Known>) -> BTreeMap<String, PodSpec> {
    let mut wanted = BTreeMap::new();
    for spec in files.values().filter_map(|k| k.spec.as_ref()) {
        wanted
            .entry(spec.uid.clone())
            .or_insert_with(|| spec.clone());
    }
    wanted
}

/// Stops what is not wanted, or wanted otherwise, and starts what is missing.
async fn apply(
    pods: &mut Pods,
    pending: &mut BTreeMap<String, Pending>,
    wanted: &BTreeMap<String, PodSpec>,
) {
    for uid in pods.uids() {
        let running = pods.get(&uid).map(|p| &p.spec);
        if wanted.get(&uid) != running {
            pods.stop(&uid);
        }
    }
    pending.retain(|uid, p| wanted.get(uid) == Some(&p.spec));
    let running: BTreeSet<String> = pods.uids().into_iter().collect();
    for (uid, spec) in wanted.iter().filter(|(uid, _)| !running.contains(*uid)) {
        if pending
            .get(uid)
            .is_some_and(|p| Instant::now() < p.retry_at)
        {
            continue;
        }
        match pods.start(spec.clone()).await {
            Ok(()) => {
                pending.remove(uid);
            }
            Err(error) => {
                let (namespace, name) = (&spec.info.namespace, &spec.info.name);
                tracing::error!(%namespace, %name, uid, %error, "pod not started");
                let retry_at = Instant::now() + RETRY;
                let spec = spec.clone();
                pending.insert(uid.clone(), Pending { spec, retry_at });
            }
        }
    }
    pods.set_pending(pending.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(files: &[(&str, &str)]) -> Contents {
        let one = |(path, text): &(&str, &str)| (PathBuf::from(path), Ok(text.as_bytes().to_vec()));
        files.iter().map(one).collect()
    }

    const WEB: &str = "uid: u1\nname: web-1\nnamespace: demo\nserviceAccount: web\nnetns: /run/x\n";

    #[test]
    fn a_file_that_turns_bad_keeps_its_pod_and_one_that_goes_does_not() {
        let mut files = BTreeMap::new();
        note(&mut files, contents(&[("a.yaml", WEB)]));
        let spec = wanted(&files)["u1"].clone();
        assert_eq!(&*spec.info.service_account, "web");
        assert_eq!(spec.netns.as_deref(), Some(Path::new("/run/x")));
        note(&mut files, contents(&[("a.yaml", "uid: [")]));
        assert_eq!(wanted(&files)["u1"], spec);
        note(&mut files, contents(&[]));
        assert!(wanted(&files).is_empty());
    }

    #[test]
    fn what_is_missing_or_unknown_is_refused() {
        for bad in [
            "",
            "uid: u1",
            &WEB.replace("uid: u1", "uid: ''"),
            &WEB.replace("name: web-1", "name: a/b"),
            &format!("{WEB}mark: 7\n"),
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "taken: {bad}");
        }
        let json = r#"{"uid":"u","name":"n","namespace":"s","serviceAccount":"a","netns":"/x"}"#;
        assert!(parse(json.as_bytes()).is_ok());
    }

    #[test]
    fn one_uid_is_one_pod() {
        let mut files = BTreeMap::new();
        let other = WEB.replace("web-1", "web-2");
        note(&mut files, contents(&[("a.yaml", WEB), ("b.yaml", &other)]));
        let wanted = wanted(&files);
        assert_eq!(wanted.len(), 1);
        assert_eq!(&*wanted["u1"].info.name, "web-1");
    }
}
