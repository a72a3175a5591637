//! `cargo xtask layers`: every dependency points to a lower layer, and some libraries have one door.
//!
//! Each manifest says `[package.metadata.mesh] layer = n` (0 to 4, or "dev" for tests and tools that
//! may use anything and that nothing shipped may use). The doors are the `wrappers` of `deny.toml`.

use crate::run;
use anyhow::{Result, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Libraries that only some packages of ours may name: the same table as in `deny.toml`.
const DOORS: &[(&str, &[&str])] = &[
    ("rustls", &["mesh-tls"]),
    ("tokio-rustls", &["mesh-tls"]),
    ("iptables", &["mesh-redirect"]),
    ("h2", &["mesh-hbone", "mesh-l7"]),
    ("opentelemetry", &["mesh-telemetry"]),
    ("opentelemetry-otlp", &["mesh-telemetry"]),
    ("opentelemetry_sdk", &["mesh-telemetry"]),
    ("gateway-api", &["mesh-control"]),
    ("k8s-openapi", &["mesh-control"]),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    Numbered(u64),
    Dev,
}

/// Checks the workspace of this repository, or the one of `--manifest-path FILE`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let manifest = match arguments {
        [] => run::root().join("Cargo.toml"),
        [flag, path] if flag == "--manifest-path" => PathBuf::from(path),
        _ => bail!("layers takes nothing, or --manifest-path FILE"),
    };
    let metadata = MetadataCommand::new()
        .manifest_path(&manifest)
        .no_deps()
        .exec()?;
    let (edges, faults) = check(&metadata)?;
    if !faults.is_empty() {
        bail!(
            "{} forbidden edge(s):\n  {}",
            faults.len(),
            faults.join("\n  ")
        );
    }
    println!(
        "layers: {} packages, {edges} edges, all point down",
        metadata.packages.len()
    );
    Ok(())
}

/// The number of edges inside the workspace, and a line for each forbidden one.
fn check(metadata: &Metadata) -> Result<(usize, Vec<String>)> {
    let mut layers = BTreeMap::new();
    for package in &metadata.packages {
        layers.insert(package.name.to_string(), layer_of(package)?);
    }
    let mut faults = Vec::new();
    let mut edges = 0;
    for package in &metadata.packages {
        let from = layers[package.name.as_str()];
        for dependency in &package.dependencies {
            if dependency.kind == DependencyKind::Development || from == Layer::Dev {
                continue;
            }
            if let Some(to) = layers.get(&dependency.name) {
                edges += 1;
                if !points_down(from, *to) {
                    faults.push(format!(
                        "{} ({from:?}) -> {} ({to:?})",
                        package.name, dependency.name
                    ));
                }
            }
            let door = DOORS
                .iter()
                .find(|(library, _)| *library == dependency.name);
            if let Some((library, allowed)) = door
                && !allowed.contains(&package.name.as_str())
            {
                faults.push(format!(
                    "{} names {library}, which only {} may",
                    package.name,
                    allowed.join(" and ")
                ));
            }
        }
    }
    Ok((edges, faults))
}

fn points_down(from: Layer, to: Layer) -> bool {
    match (from, to) {
        (Layer::Numbered(from), Layer::Numbered(to)) => to < from,
        (Layer::Dev, _) => true,
        (Layer::Numbered(_), Layer::Dev) => false,
    }
}

fn layer_of(package: &Package) -> Result<Layer> {
    let value = &package.metadata["mesh"]["layer"];
    match (value.as_u64(), value.as_str()) {
        (Some(n), _) if n <= 4 => Ok(Layer::Numbered(n)),
        (_, Some("dev")) => Ok(Layer::Dev),
        _ => bail!(
            "{}: [package.metadata.mesh] layer must be 0 to 4 or \"dev\", found {value}",
            package.manifest_path
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A workspace of two packages, `low` of layer 1 and `side` of the given layer, which uses it.
    fn planted(layer_of_side: &str, extra: &str) -> Metadata {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let package = |name: &str, layer: &str, dependencies: &str| {
            format!(
                "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
                 [package.metadata.mesh]\nlayer = {layer}\n[dependencies]\n{dependencies}\n"
            )
        };
        write(
            "Cargo.toml",
            "[workspace]\nmembers = [\"low\", \"side\"]\nresolver = \"3\"\n",
        );
        write("low/Cargo.toml", &package("low", "1", ""));
        write("low/src/lib.rs", "");
        let edge = format!("low = {{ path = \"../low\" }}\n{extra}");
        write("side/Cargo.toml", &package("side", layer_of_side, &edge));
        write("side/src/lib.rs", "");
        let manifest = folder.path().join("Cargo.toml");
        MetadataCommand::new()
            .manifest_path(manifest)
            .no_deps()
            .exec()
            .unwrap()
    }

    #[test]
    fn an_edge_down_is_taken() {
        assert_eq!(check(&planted("2", "")).unwrap(), (1, Vec::new()));
    }

    #[test]
    fn a_planted_sideways_edge_is_refused() {
        let (_, faults) = check(&planted("1", "")).unwrap();
        assert_eq!(faults, ["side (Numbered(1)) -> low (Numbered(1))"]);
    }

    #[test]
    fn a_planted_upward_edge_is_refused() {
        let (_, faults) = check(&planted("0", "")).unwrap();
        assert_eq!(faults.len(), 1);
    }

    #[test]
    fn a_library_behind_a_door_is_refused_elsewhere() {
        let (_, faults) = check(&planted("2", "rustls = \"0.23\"")).unwrap();
        assert_eq!(faults, ["side names rustls, which only mesh-tls may"]);
    }

    #[test]
    fn a_package_without_a_layer_is_an_error() {
        assert!(check(&planted("7", "")).is_err());
    }

    #[test]
    fn the_doors_are_those_of_deny_toml() {
        let deny = fs::read_to_string(run::root().join("deny.toml")).unwrap();
        for (library, allowed) in DOORS {
            let line = deny
                .lines()
                .find(|l| l.contains(&format!("crate = \"{library}\"")))
                .unwrap_or_else(|| panic!("deny.toml says nothing of {library}"));
            for package in *allowed {
                assert!(
                    line.contains(&format!("\"{package}\"")),
                    "{line} lacks {package}"
                );
            }
        }
    }
}
