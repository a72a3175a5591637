//! System packages that the demo and the namespace tests need.

use anyhow::{Context, Result};
use std::path::Path;
use std::process::{Command, Stdio};

/// A program, and the Debian package that brings it.
const NEEDED: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("iptables-restore", "iptables"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("tcpdump", "tcpdump"),
    ("curl", "curl"),
    ("psql", "postgresql-client"),
    ("postgres", "postgresql"),
];

/// Installs what is missing, when this user may; says what it does either way.
pub(crate) fn ensure() -> Result<()> {
    let missing: Vec<&str> = {
        let mut names: Vec<&str> = NEEDED
            .iter()
            .filter(|(p, _)| !is_installed(p))
            .map(|(_, package)| *package)
            .collect();
        names.dedup();
        names
    };
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !is_root() || !is_installed("apt-get") {
        println!("packages: missing and not installable here (needs root and apt-get): {list}");
        return Ok(());
    }
    println!("packages: installing {list}");
    apt(&["update", "-qq"])?;
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(&missing);
    apt(&install)
}

fn apt(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null())
        .status()
        .context("apt-get cannot start")?;
    if !status.success() {
        println!(
            "packages: apt-get {} failed ({status})",
            arguments.join(" ")
        );
    }
    Ok(())
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|o| o.stdout.trim_ascii() == b"0")
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin".into(), "/sbin".into()]);
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|v| v.path().join("bin")));
    }
    folders.iter().any(|f| Path::new(f).join(program).is_file())
}
