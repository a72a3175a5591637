//! The benchmark's harness on tiny counts: that every row gives figures. What they are is not asked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the harness exits with where namespaces cannot be made.
const EXIT_NO_NAMESPACES: i32 = 77;

/// The proxies of the build folder are used as they are.
fn built(name: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_bench-l4")).with_file_name(name);
    assert!(program.is_file(), "{} is not built", program.display());
    program
}

#[test]
#[expect(clippy::disallowed_methods, reason = "whether this is CI")]
fn every_row_gives_figures() {
    for name in ["mesh-control", "mesh-ca"] {
        built(name);
    }
    let out = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bench-l4"))
        .arg("--strata")
        .arg(built("ztunnel"))
        .arg("--out")
        .arg(out.path())
        .args(["--contenders", "direct,strata"])
        .args(["--rounds", "1", "--seconds", "0.1", "--idle", "8"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(EXIT_NO_NAMESPACES) {
        assert!(std::env::var("CI").is_err(), "{complaint}");
        eprintln!("SKIPPED: the benchmark's harness did not run: {complaint}");
        return;
    }
    assert!(output.status.success(), "{said}\n{complaint}");

    let json = fs::read_to_string(out.path().join("l4.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let samples = report["samples"].as_array().unwrap();
    let rows = |contender: &str| {
        let of = |s: &&serde_json::Value| s["contender"] == contender;
        samples.iter().filter(of).count()
    };
    assert_eq!((rows("direct"), rows("strata")), (9, 11), "{said}");
    for sample in samples {
        assert!(sample["error"].is_null(), "{sample}\n{said}");
        assert!(
            !sample["metrics"].as_object().unwrap().is_empty(),
            "{sample}"
        );
    }
    let picture = fs::read_to_string(out.path().join("l4.svg")).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("strata"));
    let table = fs::read_to_string(out.path().join("l4.md")).unwrap();
    assert!(table.contains("not measured"));
}
