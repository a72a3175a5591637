//! The programs of the system that the lab runs, and the packages they are in.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::output;

/// A program that must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// Its Debian package.
    pub package: &'static str,
}

const fn program(name: &'static str, package: &'static str) -> Program {
    Program { name, package }
}

/// What every lab needs.
pub const NETWORK: &[Program] = &[
    program("unshare", "util-linux"),
    program("setpriv", "util-linux"),
    program("ip", "iproute2"),
    program("iptables-restore", "iptables"),
    program("ip6tables-restore", "iptables"),
];
/// What [`crate::postgres`] needs.
pub const POSTGRES: &[Program] = &[
    program("initdb", "postgresql"),
    program("postgres", "postgresql"),
    program("psql", "postgresql-client"),
];

/// Where PostgreSQL of Debian keeps its server, a folder a version.
const POSTGRES_FOLDER: &str = "/usr/lib/postgresql";

/// The program's file: on PATH, in the system's administration folders, or in PostgreSQL's newest.
pub fn find(name: &str) -> Option<PathBuf> {
    let on_path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&on_path).collect();
    folders.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.extend(postgres_folders(Path::new(POSTGRES_FOLDER)));
    let files = folders.into_iter().map(|folder| folder.join(name));
    files.into_iter().find(|file| file.is_file())
}

/// Newest version first.
fn postgres_folders(base: &Path) -> Vec<PathBuf> {
    let Ok(entries) = base.read_dir() else {
        return Vec::new();
    };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by(|a, b| b.cmp(a));
    versions.into_iter().map(|(_, folder)| folder).collect()
}

/// Packages of the programs that are not there, each once.
pub fn missing(programs: &[Program]) -> Vec<&'static str> {
    let absent = programs
        .iter()
        .filter(|program| find(program.name).is_none());
    let mut packages: Vec<&str> = absent.map(|program| program.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Makes sure that programs are there: as root on a system with apt the missing packages are
/// installed, which `say` is told first. Call it before isolating, for it needs the network.
///
/// # Errors
/// When packages are missing and cannot be installed; the message lists them.
pub fn ensure(programs: &[Program], say: impl FnOnce(&str)) -> Result<()> {
    let packages = missing(programs);
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !nix::unistd::geteuid().is_root() || find("apt-get").is_none() {
        bail!("these packages are needed and not installed: {list} (apt-get install {list})");
    }
    say(&format!("installing the packages {list} with apt-get"));
    if install(&packages).is_err() {
        // The lists of a fresh machine are empty or old.
        output(apt().arg("update")).context("cannot update apt's lists")?;
        install(&packages).with_context(|| format!("cannot install {list}"))?;
    }
    let still = missing(programs);
    if !still.is_empty() {
        bail!("still missing after the installation: {}", still.join(" "));
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<String> {
    output(
        apt()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages),
    )
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_programs_are_named_by_package_once() {
        let odd = [
            program("no-such-program-1", "odd"),
            program("no-such-program-2", "odd"),
            program("sh", "dash"),
        ];
        assert_eq!(missing(&odd), ["odd"]);
        assert!(find("sh").is_some());
    }

    #[test]
    fn the_newest_postgresql_comes_first() {
        let base = tempfile::tempdir().unwrap();
        for version in ["9", "15", "17", "common"] {
            std::fs::create_dir_all(base.path().join(version).join("bin")).unwrap();
        }
        let found = postgres_folders(base.path());
        let expected: Vec<PathBuf> = ["17", "15", "9"]
            .map(|version| base.path().join(version).join("bin"))
            .into();
        assert_eq!(found, expected);
    }
}
