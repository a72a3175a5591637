//! Running system programs to their end, with errors that say what failed and why.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

/// Longest part of a complaint that an error carries.
const COMPLAINT_MAX: usize = 2000;

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// Runs a command and gives what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    output_of(command, "")
}

/// Runs a command with an input and gives what it printed.
pub(crate) fn output_of(command: &mut Command, input: &str) -> Result<String> {
    let text = line(command);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run `{text}`"))?;
    let stdin = child.stdin.take();
    let output = thread::scope(|scope| {
        // The program may answer before it has read all, so both go on at once. If it stops
        // reading, its status and complaint say why.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
        child.wait_with_output()
    });
    let output = output.with_context(|| format!("cannot wait for `{text}`"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let complaint: String = complaint.trim().chars().take(COMPLAINT_MAX).collect();
        bail!("`{text}` failed ({}): {complaint}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
