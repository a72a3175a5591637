//! A real PostgreSQL server in a pod: a protocol in which the server's greeting waits for the
//! client, carried by the mesh as plain bytes.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::User;

use crate::packages;
use crate::place::Place;
use crate::process::{Process, ProcessSpec, Ready};

/// PostgreSQL's port.
pub const PORT: u16 = 5432;
/// How long the server may take to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// Accounts that may run the server, the first that exists. It refuses to run as root.
const ACCOUNTS: [&str; 3] = ["postgres", "nobody", "daemon"];

/// A server. Dropping it kills it.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
}

impl Postgres {
    /// Makes a database cluster in `folder` (which must not hold one yet) and starts a server of it
    /// on all addresses of the place, for which everyone is trusted. User and database: `postgres`.
    /// Without a user namespace the server runs as another user, who must be able to enter `folder`.
    ///
    /// # Errors
    /// When PostgreSQL is missing, no account may run it, or it does not start within 30 s.
    pub async fn start(place: &Place, folder: &Path, user_namespace: bool) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let data = folder.join("data");
        let account = account()?;
        prepare(&account, &data, user_namespace)?;
        let initialised = place.clone();
        let mut command = as_account(&account, user_namespace, &program("initdb")?);
        command
            .arg("-D")
            .arg(&data)
            .args(["-U", "postgres", "--auth=trust", "--no-sync", "--no-locale"])
            .args(["--encoding=UTF8"]);
        tokio::task::spawn_blocking(move || initialised.output(&mut command, "")).await??;
        let rules = data.join("pg_hba.conf");
        fs::write(&rules, "host all all all trust\n")
            .with_context(|| rules.display().to_string())?;
        let process = Process::start(place, server(&account, user_namespace, folder, &data)?)?;
        let mut started = Self { process };
        let address = SocketAddr::new(IpAddr::V4(place.v4()), PORT);
        started
            .process
            .ready(&Ready::Tcp(address), PATIENCE)
            .await?;
        Ok(started)
    }

    /// The server's process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn server(account: &User, user_namespace: bool, folder: &Path, data: &Path) -> Result<ProcessSpec> {
    let command = as_account(account, user_namespace, &program("postgres")?);
    let words = command
        .get_args()
        .map(|word| word.to_string_lossy().into_owned());
    let log = folder.join("postgres.log");
    // No fsync: the data ends with the lab. No Unix socket: its folder is not ours.
    Ok(ProcessSpec::new("postgres", command.get_program(), log)
        .args(words)
        .arg("-D")
        .arg(data.display().to_string())
        .args(["-F", "-h", "*", "-p", &PORT.to_string(), "-k", ""]))
}

/// Runs one statement from another place and gives its rows, unaligned and without headers.
///
/// # Errors
/// When psql is missing, or the server cannot be reached within 5 s or refuses.
pub async fn query(place: &Place, server: SocketAddr, statement: &str) -> Result<String> {
    let mut command = psql(server)?;
    command.args(["-c", statement]);
    let place = place.clone();
    let rows = tokio::task::spawn_blocking(move || place.output(&mut command, "")).await??;
    Ok(rows.trim_end().to_owned())
}

/// Runs a statement several times over one connection and gives how long each run took, as psql
/// measures it.
///
/// # Errors
/// As [`query`]; when psql reports no times.
pub async fn timings(
    place: &Place,
    server: SocketAddr,
    statement: &str,
    count: usize,
) -> Result<Vec<Duration>> {
    let mut command = psql(server)?;
    let script = format!("\\timing on\n{}", format!("{statement};\n").repeat(count));
    let place = place.clone();
    let text = tokio::task::spawn_blocking(move || place.output(&mut command, &script)).await??;
    let times: Vec<Duration> = text.lines().filter_map(time_of).collect();
    ensure!(
        times.len() == count,
        "psql reported {} times for {count} runs",
        times.len()
    );
    Ok(times)
}

/// Reads `Time: 0.271 ms`.
fn time_of(line: &str) -> Option<Duration> {
    let ms: f64 = line
        .strip_prefix("Time: ")?
        .split(' ')
        .next()?
        .parse()
        .ok()?;
    Duration::try_from_secs_f64(ms / 1000.0).ok()
}

fn psql(server: SocketAddr) -> Result<Command> {
    let mut command = Command::new(program("psql")?);
    command
        .env("PGCONNECT_TIMEOUT", "5")
        .env("PGSSLMODE", "disable")
        .args([
            "--no-psqlrc",
            "-At",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-d",
            "postgres",
        ])
        .args([
            "-h",
            &server.ip().to_string(),
            "-p",
            &server.port().to_string(),
        ]);
    Ok(command)
}

fn program(name: &str) -> Result<PathBuf> {
    packages::find(name).with_context(|| format!("{name} is missing (package postgresql)"))
}

fn account() -> Result<User> {
    ACCOUNTS
        .iter()
        .find_map(|name| User::from_name(name).ok().flatten())
        .context("the system has no account postgres, nobody or daemon to run PostgreSQL as")
}

/// A command that runs as another account. Within a user namespace only root exists, so a nested
/// one calls it by the account's number.
fn as_account(account: &User, user_namespace: bool, program: &Path) -> Command {
    let (uid, gid) = (account.uid, account.gid);
    let mut command;
    if user_namespace {
        command = Command::new("unshare");
        command.args([
            "--user",
            &format!("--map-user={uid}"),
            &format!("--map-group={gid}"),
        ]);
    } else {
        command = Command::new("setpriv");
        command.args([
            &format!("--reuid={uid}"),
            &format!("--regid={gid}"),
            "--clear-groups",
        ]);
    }
    command.arg("--").arg(program);
    command
}

/// The data folder, owned by who runs the server.
fn prepare(account: &User, data: &Path, user_namespace: bool) -> Result<()> {
    fs::create_dir_all(data).with_context(|| data.display().to_string())?;
    if !user_namespace {
        chown(data, Some(account.uid.as_raw()), Some(account.gid.as_raw()))
            .with_context(|| data.display().to_string())?;
    }
    Ok(())
}
