//! What can go wrong between a rule set and the kernel.

use std::io;
use std::process::ExitStatus;

use crate::rule::Family;

/// A failure to read or change a namespace's redirection.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The program could not be started; mostly it is not installed.
    #[error(
        "could not run `{command}` for {family}: {source} (is the package iptables or iproute2 installed?)"
    )]
    Start {
        /// The command line.
        command: String,
        /// The family it was meant for.
        family: Family,
        /// The system's answer.
        source: io::Error,
    },
    /// The program ran and refused.
    #[error("`{command}` failed for {family} ({status}): {stderr}")]
    Refused {
        /// The command line.
        command: String,
        /// The family it was meant for.
        family: Family,
        /// How it ended.
        status: ExitStatus,
        /// What it said, at most 2000 characters.
        stderr: String,
    },
    /// The `iptables` library failed to run its program.
    #[error("`{command}` could not be used for {family}: {message}")]
    Iptables {
        /// The command line.
        command: String,
        /// The family it was meant for.
        family: Family,
        /// The library's message.
        message: String,
    },
}

/// Longest piece of a program's complaint that an error carries: a screenful.
pub(crate) const STDERR_LENGTH_MAX: usize = 2000;

/// A text that is not an interface name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an interface name (1 to 15 of letters, digits, '-', '_', '.', '@')")]
pub struct InterfaceError(pub(crate) String);
