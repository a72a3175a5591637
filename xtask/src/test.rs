//! `cargo xtask test`: every test layer, and a count of what was executed.

use crate::{demo, run};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

#[derive(Default)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Builds everything, sees to the system packages, and runs every layer: unit and property tests
/// beside the code, `in_process`, `fuzz_seeds`, `netns` (and `interop`, which wants a peer). A test that
/// fails does not stop the others.
///
/// All of it is one selection of packages, so that features are unified once and nothing is built twice.
pub(crate) fn run() -> Result<()> {
    let everything = ["build", "--locked", "--workspace", "--bins", "--tests"];
    run::step("build", run::cargo(&everything))?;
    let mut packages = Command::new(demo::mesh()?);
    packages.arg("packages");
    run::step("system packages", packages)?;
    println!("==> tests");
    let mut total = Count::default();
    let tests = ["test", "--locked", "--workspace", "--no-fail-fast"];
    let ok = counted(run::cargo(&tests), &mut total)?;
    println!(
        "\n{} passed, {} failed, {} skipped",
        total.passed, total.failed, total.skipped
    );
    if !ok || total.failed > 0 {
        bail!("tests failed");
    }
    if total.passed == 0 {
        bail!("no test was executed");
    }
    Ok(())
}

/// Runs a test command, shows its output as it comes, and adds up its `test result:` lines.
fn counted(mut command: Command, total: &mut Count) -> Result<bool> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let stdout = child.stdout.take().context("no output to read")?;
    let mut terminal = std::io::stdout();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        writeln!(terminal, "{line}")?;
        if let Some(result) = line.trim_start().strip_prefix("test result:") {
            total.passed += number_before(result, " passed");
            total.failed += number_before(result, " failed");
            total.skipped += number_before(result, " ignored");
        }
    }
    Ok(child.wait()?.success())
}

fn number_before(text: &str, word: &str) -> u64 {
    let before = text.split(word).next().unwrap_or_default();
    before
        .rsplit(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_read() {
        let line = " ok. 11 passed; 2 failed; 3 ignored; 0 measured; 0 filtered out; finished";
        assert_eq!(number_before(line, " passed"), 11);
        assert_eq!(number_before(line, " failed"), 2);
        assert_eq!(number_before(line, " ignored"), 3);
        assert_eq!(number_before("nothing here", " passed"), 0);
    }
}
