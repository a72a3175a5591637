//! The folder on disk: reading it, and keeping the last good texts beside the state.

use super::folder::Text;
use crate::objects::FILE_BYTES_MAX;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use tokio::fs;

/// Files taken from one folder.
const FILES_MAX: usize = 1000;

/// The texts of all YAML files of a folder, by file name.
///
/// # Errors
/// When the folder cannot be listed or holds too many files. A file that cannot be read is an error
/// of its own.
pub(super) async fn read(path: &Path) -> io::Result<BTreeMap<String, Text>> {
    let mut texts = BTreeMap::new();
    let mut entries = fs::read_dir(path).await?;
    while let Some(entry) = entries.next_entry().await? {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let yaml = [".yaml", ".yml", ".json"].iter().any(|e| name.ends_with(e));
        if !yaml || name.starts_with('.') {
            continue;
        }
        if texts.len() >= FILES_MAX {
            let why = format!("holds over {FILES_MAX} files");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        match text(&entry.path()).await {
            Ok(text) => texts.insert(name, Ok(text)),
            // Gone since it was listed, or a dangling link: not there.
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => texts.insert(name, Err(e.to_string())),
        };
    }
    Ok(texts)
}

async fn text(path: &Path) -> io::Result<String> {
    let size = fs::metadata(path).await?.len();
    if size > FILE_BYTES_MAX as u64 {
        let why = format!("larger than {FILE_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    fs::read_to_string(path).await
}

/// The texts kept by an earlier life of the process; none when there are none.
pub(super) async fn restore(path: &Path) -> BTreeMap<String, String> {
    let texts = read(path).await.unwrap_or_default();
    let good = |(name, text): (String, Text)| Some((name, text.ok()?));
    texts.into_iter().filter_map(good).collect()
}

/// Keeps these texts and no others.
///
/// # Errors
/// When the folder cannot be written.
pub(super) async fn keep(path: &Path, texts: &BTreeMap<String, String>) -> io::Result<()> {
    fs::create_dir_all(path).await?;
    // Secrets may be among them.
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(path, private).await?;
    let kept = restore(path).await;
    for name in kept.keys().filter(|name| !texts.contains_key(*name)) {
        fs::remove_file(path.join(name)).await?;
    }
    for (name, text) in texts
        .iter()
        .filter(|(name, text)| kept.get(*name) != Some(text))
    {
        let next = path.join(format!("{name}.next"));
        fs::write(&next, text).await?;
        fs::rename(&next, path.join(name)).await?;
    }
    Ok(())
}
