//! Bad configuration is refused by file, object and field, and the last good state keeps being served.

use crate::plant::{MESH, Plant};
use anyhow::{Result, ensure};

/// Whether the mesh is still served as the good file says.
fn still_served(plant: &Plant) -> Result<bool> {
    let output = plant.mesh(&["explain", "demo/client", "web"])?;
    Ok(output.status.code() == Some(0))
}

fn refused(file: &str, text: &str, named: &[&str]) -> Result<()> {
    let plant = Plant::start(&[("mesh.yaml", MESH)])?;
    plant.write(file, text)?;
    plant.wait("the file is refused by name", |plant| {
        let config = plant.debug_config()?.to_string();
        Ok(named.iter().all(|part| config.contains(part)))
    })?;
    ensure!(still_served(&plant)?, "the good files are no longer served");
    Ok(())
}

#[test]
fn an_unknown_field_is_named() {
    let text = "
apiVersion: v1
kind: Service
metadata: {name: typo, namespace: demo}
spec: {clusterIP: 10.96.0.9, selektor: {app: web}, ports: [{port: 80}]}
";
    refused("typo.yaml", text, &["typo.yaml", "selektor"]).unwrap();
}

#[test]
fn a_duplicate_name_is_named() {
    let text = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec: {clusterIP: 10.96.0.9, selector: {app: other}, ports: [{port: 80}]}
";
    refused("web-again.yaml", text, &["web-again.yaml", "mesh.yaml"]).unwrap();
}

#[test]
fn a_yaml_bomb_is_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    refused("bomb.yaml", &bomb, &["bomb.yaml"]).unwrap();
}

#[test]
fn a_broken_edit_of_a_good_file_leaves_its_last_good_state() {
    let plant = Plant::start(&[("mesh.yaml", MESH)]).unwrap();
    plant
        .write("mesh.yaml", &MESH.replace("selector:", "selector: ["))
        .unwrap();
    plant
        .wait("the file is refused", |plant| {
            let refused = &plant.debug_config()?["refused_files"][0];
            Ok(refused["file"] == "mesh.yaml" && refused["last_good_in_force"] == true)
        })
        .unwrap();
    assert!(still_served(&plant).unwrap());
    let mended = MESH.replace("sa/client", "sa/other");
    plant.write("mesh.yaml", &mended).unwrap();
    plant
        .wait("the mended file is taken", |plant| {
            Ok(!still_served(plant)?)
        })
        .unwrap();
}
