//! Files broken, mended, moved and removed.

use super::*;
use std::fs;

const A: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n";
const B: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n";

fn names(configuration: &Configuration) -> Vec<String> {
    configuration
        .objects
        .ids()
        .iter()
        .map(ToString::to_string)
        .collect()
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("config")).unwrap();
        Self(dir)
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("config")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.config().join(name), text).unwrap();
    }

    async fn open(&self) -> Watch {
        Watch::open(&self.config(), Some(self.0.path()))
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_state_until_it_is_mended() {
    let place = Place::new();
    place.write("a.yaml", A);
    place.write("ignored.txt", "x: [");
    let mut watch = place.open().await;
    assert_eq!(names(&watch.configuration()), ["Namespace a"]);
    place.write("a.yaml", &A.replace("metadata", "metadatum"));
    let broken = watch.changed().await;
    assert_eq!(names(&broken), ["Namespace a"]);
    let refusal = &broken.refused[0];
    assert_eq!(
        (refusal.file.as_str(), refusal.last_good_in_force),
        ("a.yaml", true)
    );
    assert!(
        refusal.object.is_some() && refusal.field.is_some(),
        "{refusal:?}"
    );
    place.write("a.yaml", B);
    let mended = watch.changed().await;
    assert_eq!(names(&mended), ["Namespace b"]);
    assert!(mended.refused.is_empty());
    fs::remove_file(place.config().join("a.yaml")).unwrap();
    assert!(names(&watch.changed().await).is_empty());
}

#[tokio::test]
async fn the_last_good_state_outlives_a_restart() {
    let place = Place::new();
    place.write("a.yaml", A);
    place.write("b.yaml", B);
    drop(place.open().await);
    place.write("a.yaml", "{{{");
    fs::remove_file(place.config().join("b.yaml")).unwrap();
    let watch = place.open().await;
    let configuration = watch.configuration();
    assert_eq!(
        names(&configuration),
        ["Namespace a"],
        "the removed one stays away"
    );
    assert!(configuration.refused[0].last_good_in_force);
}

#[tokio::test]
async fn an_object_of_two_files_counts_once_and_may_move() {
    let place = Place::new();
    place.write("a.yaml", A);
    place.write("b.yaml", &format!("{B}---\n{A}"));
    let mut watch = place.open().await;
    let configuration = watch.configuration();
    assert_eq!(
        names(&configuration),
        ["Namespace a"],
        "a file is taken whole or not at all"
    );
    let refusal = &configuration.refused[0];
    assert_eq!(refusal.object.as_deref(), Some("Namespace a"));
    assert!(refusal.why.contains("a.yaml"), "{refusal:?}");
    place.write("a.yaml", "");
    let moved = watch.changed().await;
    assert_eq!(names(&moved), ["Namespace a", "Namespace b"]);
    assert!(moved.refused.is_empty());
}

#[tokio::test]
async fn a_missing_folder_is_an_error_at_first_and_waited_out_later() {
    let place = Place::new();
    assert!(
        Watch::open(&place.0.path().join("none"), None)
            .await
            .is_err()
    );
    place.write("a.yaml", A);
    let mut watch = place.open().await;
    let away = place.0.path().join("away");
    fs::rename(place.config(), &away).unwrap();
    assert!(watch.look().await.is_err());
    assert_eq!(names(&watch.configuration()), ["Namespace a"]);
    fs::rename(&away, place.config()).unwrap();
    assert!(!watch.look().await.unwrap());
}

#[tokio::test]
async fn a_file_that_is_too_large_is_refused() {
    let place = Place::new();
    place.write(
        "a.yaml",
        &format!("{A}# {}", "x".repeat(crate::objects::FILE_BYTES_MAX)),
    );
    let configuration = place.open().await.configuration();
    assert!(configuration.objects.ids().is_empty());
    assert!(
        configuration.refused[0].why.contains("larger"),
        "{:?}",
        configuration.refused
    );
}
