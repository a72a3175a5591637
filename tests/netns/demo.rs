//! The demo as a user runs it: every check holds, and `mesh explain` agrees with the traffic.

use crate::world::binaries;
use anyhow::{Context, Result, ensure};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use std::process::Command;

pub(crate) fn trials() -> Vec<Trial> {
    let trial = |name: &str, body: fn() -> Result<()>| {
        Trial::test(name, move || {
            body().map_err(|e| Failed::from(format!("{e:#}")))
        })
    };
    vec![
        trial("demo_holds_every_check_and_explain_agrees", every_check),
        trial("demo_leaves_nothing_behind_when_killed", nothing_behind),
    ]
}

/// Each check of the demo compares the proxies' own records with the explanation, so a check that is
/// ok is one in which traffic and explanation agreed.
fn every_check() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let json = folder.path().join("out.json");
    let output = Command::new(binaries()?.join("mesh"))
        .args(["demo", "--once", "--json"])
        .arg(&json)
        .output()
        .context("mesh demo cannot start")?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    ensure!(
        output.status.success(),
        "mesh demo ended with {}",
        output.status
    );
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&json)?)?;
    ensure!(report["ok"] == Value::Bool(true), "not ok: {report}");
    let checks = report["checks"].as_array().context("no checks")?;
    ensure!(checks.len() >= 14, "only {} checks", checks.len());
    for check in checks {
        for key in [
            "name",
            "ok",
            "layers",
            "hops",
            "p50_us_mesh",
            "p50_us_direct",
            "detail",
        ] {
            ensure!(check.get(key).is_some(), "{check} has no {key}");
        }
        ensure!(check["ok"] == Value::Bool(true), "{check}");
    }
    Ok(())
}

/// `kill -9` of the runner: the kernel ends every process, and with them every namespace.
fn nothing_behind() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let marker = folder.path().display().to_string();
    let mut runner = Command::new(binaries()?.join("mesh"))
        .args(["demo", "--port", "0", "--keep"])
        .arg(folder.path())
        .spawn()?;
    wait_until("the demo's processes run", || processes_with(&marker) >= 10)?;
    runner.kill()?;
    runner.wait()?;
    wait_until("every process has ended", || processes_with(&marker) == 0)
}

/// Processes whose command line or environment names the text.
fn processes_with(text: &str) -> usize {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = |file: std::path::PathBuf| {
        std::fs::read(file).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
    };
    entries
        .filter(|e| {
            e.file_name()
                .to_string_lossy()
                .bytes()
                .all(|b| b.is_ascii_digit())
        })
        .filter(|e| names(e.path().join("cmdline")) || names(e.path().join("environ")))
        .count()
}

fn wait_until(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    for _ in 0..3000 {
        if holds() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    anyhow::bail!("not within a minute: {what}")
}
