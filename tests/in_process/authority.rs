//! The authority's root: made once, readable by nobody else, the same after a restart.

use crate::plant::{MESH, Plant};
use std::os::unix::fs::PermissionsExt;

#[test]
fn the_root_survives_a_restart_and_its_key_is_private() {
    let mut plant = Plant::start(&[("mesh.yaml", MESH)]).unwrap();
    let root = std::fs::read_to_string(plant.path("ca/root-cert.pem")).unwrap();
    let mode = |name: &str| {
        std::fs::metadata(plant.path(name))
            .unwrap()
            .permissions()
            .mode()
    };
    assert_eq!(mode("ca/ca-key.pem") & 0o777, 0o600);
    assert_eq!(mode("ca") & 0o777, 0o700);
    assert_eq!(mode("control/token-signing-key.pem") & 0o777, 0o600);
    plant.restart_authority().unwrap();
    let again = std::fs::read_to_string(plant.path("ca/root-cert.pem")).unwrap();
    assert_eq!(again, root);
}
