//! The only place that runs programs. They work on the network namespace of the calling thread.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use iptables::IPTables;

use crate::error::{RedirectError, STDERR_LENGTH_MAX};
use crate::rule::{Family, Rule, Table};
use crate::transaction::Standing;

/// How long a program waits for another that holds the tables' lock.
const LOCK_WAIT_SECONDS: &str = "5";

/// The families of the namespace: IPv6 only where the kernel has it.
pub(crate) fn families() -> Vec<Family> {
    if Path::new("/proc/sys/net/ipv6").exists() {
        vec![Family::V4, Family::V6]
    } else {
        tracing::info!("the kernel has no IPv6, so only IPv4 is redirected");
        vec![Family::V4]
    }
}

/// A program that ran, and what it was.
pub(crate) struct Outcome {
    command: String,
    family: Family,
    output: Output,
}

impl Outcome {
    /// What it printed, if it succeeded.
    pub(crate) fn success(self) -> Result<String, RedirectError> {
        if self.output.status.success() {
            return Ok(String::from_utf8_lossy(&self.output.stdout).into_owned());
        }
        let stderr = String::from_utf8_lossy(&self.output.stderr);
        Err(RedirectError::Refused {
            command: self.command,
            family: self.family,
            status: self.output.status,
            stderr: stderr.trim().chars().take(STDERR_LENGTH_MAX).collect(),
        })
    }

    /// What it printed, whether it succeeded or not.
    pub(crate) fn printed(self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// Whether its complaint holds the phrase.
    pub(crate) fn says(&self, phrase: &str) -> bool {
        String::from_utf8_lossy(&self.output.stderr).contains(phrase)
    }
}

/// Runs `ip` for one family.
pub(crate) fn ip(family: Family, words: &[&str], input: &str) -> Result<Outcome, RedirectError> {
    let flag = match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    };
    let mut command = Command::new("ip");
    command.arg(flag).args(words);
    run(command, family, input)
}

/// Gives one transaction to `iptables-restore`, which takes it as a whole a table.
pub(crate) fn restore(family: Family, transaction: &str) -> Result<(), RedirectError> {
    let mut command = Command::new(match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    });
    command.args(["--noflush", "--wait", LOCK_WAIT_SECONDS]);
    run(command, family, transaction)?.success()?;
    Ok(())
}

fn run(mut command: Command, family: Family, input: &str) -> Result<Outcome, RedirectError> {
    let text = command_line(&command);
    let start = |source| RedirectError::Start {
        command: text.clone(),
        family,
        source,
    };
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(start)?;
    if let Some(mut stdin) = child.stdin.take()
        && let Err(error) = stdin.write_all(input.as_bytes())
    {
        // A program that stops reading has something better to say on its own.
        tracing::debug!(%error, command = text, "the program did not read all its input");
    }
    let output = child.wait_with_output().map_err(start)?;
    Ok(Outcome {
        command: text,
        family,
        output,
    })
}

fn command_line(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// The library's handle for one family.
pub(crate) fn tables(family: Family) -> Result<IPTables, RedirectError> {
    iptables::new(family == Family::V6).map_err(|error| RedirectError::Iptables {
        command: format!("{} --version", program(family)),
        family,
        message: error.to_string(),
    })
}

/// The program that the library runs.
pub(crate) fn program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

/// Reads what stands of ours. A table that cannot be read matters only if `rules` has use for it:
/// a kernel may lack the raw table and serve us well.
pub(crate) fn standing(family: Family, rules: &[Rule]) -> Result<Standing, RedirectError> {
    let library = tables(family)?;
    let mut standing = Standing::default();
    for table in Table::ALL {
        let command = format!("{} -t {} -S", program(family), table.as_str());
        let listing = library
            .execute(table.as_str(), "-S")
            .map_err(|error| RedirectError::Iptables {
                command: command.clone(),
                family,
                message: error.to_string(),
            })
            .and_then(|output| {
                let outcome = Outcome {
                    command,
                    family,
                    output,
                };
                outcome.success()
            });
        match listing {
            Ok(listing) => standing.read(table, &listing),
            Err(error) if rules.iter().any(|rule| rule.table == table) => return Err(error),
            Err(error) => tracing::debug!(%error, "a table that is not needed cannot be read"),
        }
    }
    Ok(standing)
}
