//! The state directory: first start, restart, and everything that must not lead to a new root.

use super::*;
use std::os::unix::fs::PermissionsExt;

fn open(directory: &Path) -> Result<Authority, RootsError> {
    Authority::open(directory, "cluster.local", RootAlgorithm::P256)
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn refused(directory: &Path) -> String {
    match open(directory) {
        Ok(_) => panic!("the directory was taken"),
        Err(error) => error.to_string(),
    }
}

/// A directory after its first start.
fn started() -> (tempfile::TempDir, PathBuf, String) {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let roots = open(&state).unwrap().roots_pem;
    (folder, state, roots)
}

#[test]
fn a_restart_keeps_the_root_and_the_key_is_private() {
    let (_folder, state, roots) = started();
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&state.join(KEY_FILE)), 0o600);
    assert_eq!(mode(&state.join(ROOT_FILE)), 0o644);
    assert!(!state.join(CREATING_FILE).exists());
    let again = open(&state).unwrap();
    assert_eq!(again.roots_pem, roots);
    assert!(again.intermediates_pem.is_empty());
    assert!(again.subject.contains("strata root"), "{}", again.subject);
    let file = std::fs::read_to_string(state.join(ROOT_FILE)).unwrap();
    assert_eq!(file.replace('\r', ""), roots);
    let years = again.not_after.duration_since(SystemTime::now()).unwrap();
    assert!(years > ROOT_TTL - Duration::from_secs(60));
}

#[test]
fn p384_is_kept_too() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let first = Authority::open(&state, "td", RootAlgorithm::P384).unwrap();
    assert_eq!(
        first.issuer.key().algorithm(),
        &rcgen::PKCS_ECDSA_P384_SHA384
    );
    let roots = first.roots_pem.clone();
    drop(first);
    // The algorithm asked for matters at the first start only.
    let again = Authority::open(&state, "td", RootAlgorithm::P256).unwrap();
    assert_eq!(again.roots_pem, roots);
}

#[test]
fn two_processes_cannot_share_a_directory() {
    let (_folder, state, _) = started();
    let _held = open(&state).unwrap();
    assert!(refused(&state).contains("another process"));
}

#[test]
fn an_open_directory_or_key_is_refused() {
    let (_folder, state, roots) = started();
    set_mode(&state, 0o755);
    let text = refused(&state);
    assert!(text.contains("755") && text.contains("700"), "{text}");
    set_mode(&state, 0o700);
    set_mode(&state.join(KEY_FILE), 0o640);
    let text = refused(&state);
    assert!(text.contains("640") && text.contains(KEY_FILE), "{text}");
    set_mode(&state.join(KEY_FILE), 0o400);
    assert_eq!(open(&state).unwrap().roots_pem, roots);
}

#[test]
fn a_lost_or_broken_file_never_leads_to_a_new_root() {
    for name in [KEY_FILE, CERTIFICATE_FILE, ROOT_FILE] {
        let (_folder, state, roots) = started();
        let path = state.join(name);
        let good = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let text = refused(&state);
        assert!(text.contains(name) && text.contains("missing"), "{text}");
        for bad in ["", "garbage", "-----BEGIN CERTIFICATE-----\n!\n"] {
            std::fs::write(&path, bad).unwrap();
            set_mode(&path, 0o600);
            let text = refused(&state);
            assert!(text.contains(name), "{text}");
        }
        std::fs::write(&path, good).unwrap();
        assert_eq!(open(&state).unwrap().roots_pem, roots);
    }
}

#[test]
fn the_key_of_another_root_is_refused() {
    let (_one, state, _) = started();
    let (_two, other, _) = started();
    std::fs::copy(other.join(KEY_FILE), state.join(KEY_FILE)).unwrap();
    let text = refused(&state);
    assert!(text.contains("another certificate"), "{text}");
}

#[test]
fn a_first_start_that_was_cut_short_starts_over() {
    let (_folder, state, _) = started();
    std::fs::write(state.join(CREATING_FILE), "").unwrap();
    std::fs::remove_file(state.join(ROOT_FILE)).unwrap();
    open(&state).unwrap();
    assert!(state.join(ROOT_FILE).exists() && !state.join(CREATING_FILE).exists());
}

#[test]
fn an_intermediate_and_a_second_root_are_handed_on() {
    let (_folder, state, roots) = started();
    let (_other, other_state, other_roots) = started();
    let root = open(&state).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let certificate = params.signed_by(&key, &root.issuer).unwrap().pem();
    drop(root);
    let plugged = other_state;
    std::fs::write(plugged.join(KEY_FILE), key.serialize_pem()).unwrap();
    std::fs::write(plugged.join(CERTIFICATE_FILE), &certificate).unwrap();
    std::fs::write(plugged.join(CHAIN_FILE), format!("{certificate}{roots}")).unwrap();
    std::fs::write(plugged.join(ROOT_FILE), format!("{roots}{other_roots}")).unwrap();
    let authority = open(&plugged).unwrap();
    assert_eq!(authority.intermediates_pem.len(), 1);
    assert_eq!(authority.roots_pem, format!("{roots}{other_roots}"));
}

#[test]
fn a_leaf_is_no_authority() {
    let (_folder, state, _) = started();
    let authority = open(&state).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::default();
    let leaf = leaf.signed_by(&key, &authority.issuer).unwrap().pem();
    drop(authority);
    std::fs::write(state.join(KEY_FILE), key.serialize_pem()).unwrap();
    std::fs::write(state.join(CERTIFICATE_FILE), leaf).unwrap();
    let text = refused(&state);
    assert!(text.contains("authority"), "{text}");
}

#[test]
fn serial_numbers_are_random_and_positive() {
    let (a, b) = (random_serial().unwrap(), random_serial().unwrap());
    assert_ne!(a, b);
    assert!(a.len() == 16 && a[0] < 0x80 && a[0] >= 0x40);
}
