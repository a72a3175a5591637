//! `mesh`: the command of the mesh. `mesh --help` lists what it can do.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command talks to its terminal"
)]

mod connect;
mod demo;
mod explain;
mod origin;
mod packages;
mod settings;
mod status;

use clap::Parser;
use settings::{Command, Settings};
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = match Settings::parse().command {
        Command::Demo(settings) => demo::run(&settings),
        Command::Status(settings) => status::run(&settings),
        Command::Explain(settings) => explain::run(&settings),
        Command::Origin(settings) => origin::run(settings),
        Command::Packages => packages::ensure().map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("mesh: {error:#}");
        ExitCode::from(2)
    })
}
