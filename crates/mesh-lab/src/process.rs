//! Real programs running in a place of the lab.

use std::fs::{self, File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep, timeout_at};

use crate::place::Place;
use crate::probe;

/// Pause between two looks at a program that is starting or ending.
const LOOK_INTERVAL: Duration = Duration::from_millis(15);
/// How much of a log an error quotes, in bytes from its end.
const LOG_TAIL: usize = 2000;

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSpec {
    /// Name for messages, such as `ztunnel node-1`.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its whole environment, besides PATH.
    pub environment: Vec<(String, String)>,
    /// File that takes its output; made if it is not there, appended to if it is.
    pub log: PathBuf,
}

impl ProcessSpec {
    /// A program without arguments and environment.
    pub fn new(
        name: impl Into<String>,
        program: impl Into<PathBuf>,
        log: impl Into<PathBuf>,
    ) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            log: log.into(),
        }
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// With more arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// With one more variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }
}

/// When a program counts as ready, seen from inside its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// A GET is answered with 200.
    Http {
        /// Address to ask.
        address: SocketAddr,
        /// Path, such as `/healthz/ready`.
        path: String,
    },
    /// A TCP connection is taken.
    Tcp(SocketAddr),
}

impl Ready {
    /// The readiness endpoint that every program of the mesh has, on port 15021.
    pub fn mesh() -> Self {
        Self::Http {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15021),
            path: "/healthz/ready".to_owned(),
        }
    }

    /// One look.
    async fn holds(&self, place: &Place) -> Result<(), String> {
        match self {
            Self::Tcp(address) => probe::connect(place, *address)
                .await
                .map(drop)
                .map_err(|error| format!("{error:#}")),
            Self::Http { address, path } => match probe::get(place, *address, path).await {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(format!("{} {}", answer.status, answer.body.trim())),
                Err(error) => Err(format!("{error:#}")),
            },
        }
    }
}

/// A program running in a place. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    spec: ProcessSpec,
    place: Place,
    child: Child,
}

impl Process {
    /// Starts a program.
    ///
    /// # Errors
    /// When it cannot be started or its log not be opened.
    pub fn start(place: &Place, spec: ProcessSpec) -> Result<Self> {
        let child = spawn(place, &spec)?;
        Ok(Self {
            spec,
            place: place.clone(),
            child,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// What it was started as; a change takes effect at the next [`Self::restart`].
    pub fn spec_mut(&mut self) -> &mut ProcessSpec {
        &mut self.spec
    }

    /// Where it runs.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its process id within the lab.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log so far.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn log(&self) -> Result<String> {
        read_lossy(&self.spec.log)
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// Those of the system call.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot look at {}", self.spec.name))
    }

    /// Waits until the program is ready.
    ///
    /// # Errors
    /// When it ends first, or is not ready in time; the message quotes the end of its log.
    pub async fn ready(&mut self, ready: &Ready, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let mut last = "never asked".to_owned();
        loop {
            if let Some(status) = self.ended()? {
                bail!("{} ended ({status}):\n{}", self.spec.name, self.log_tail());
            }
            match timeout_at(deadline, ready.holds(&self.place)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(reason)) => last = reason,
                Err(_) => bail!(
                    "{} was not ready within {} s ({last}):\n{}",
                    self.spec.name,
                    within.as_secs(),
                    self.log_tail()
                ),
            }
            // At the deadline this wakes too, and the look after it reports.
            let _slept = timeout_at(deadline, sleep(LOOK_INTERVAL)).await;
        }
    }

    /// Kills it, as a crash would.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        let name = &self.spec.name;
        self.child
            .kill()
            .with_context(|| format!("cannot kill {name}"))?;
        self.child
            .wait()
            .with_context(|| format!("cannot wait for {name}"))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// Those of the system call; when it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("no process id")?;
        kill(Pid::from_raw(pid), signal)
            .with_context(|| format!("cannot signal {}", self.spec.name))
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// When it has not ended in time; it is killed then.
    pub async fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            sleep(LOOK_INTERVAL).await;
        }
        self.kill()?;
        bail!(
            "{} had to be killed after {} s",
            self.spec.name,
            within.as_secs()
        )
    }

    /// Kills it if it runs, and starts it again in the same place.
    ///
    /// # Errors
    /// Those of [`Self::kill`] and [`Self::start`].
    pub fn restart(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            self.kill()?;
        }
        self.child = spawn(&self.place, &self.spec)?;
        Ok(())
    }

    /// Its resident memory in bytes (`VmRSS`).
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).with_context(|| path)?;
        resident_of(&status).with_context(|| format!("{} has ended", self.spec.name))
    }

    fn log_tail(&self) -> String {
        tail(&self.spec.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait()
            && let Err(error) = self.kill()
        {
            tracing::warn!(
                error = format!("{error:#}"),
                "a program of the lab may still run"
            );
        }
    }
}

fn spawn(place: &Place, spec: &ProcessSpec) -> Result<Child> {
    let log = open_log(&spec.log)?;
    let mut command = Command::new(&spec.program);
    command
        .args(&spec.arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(spec.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C at the terminal is the runner's business.
        .process_group(0);
    place
        .enter(|| command.spawn())?
        .with_context(|| format!("cannot run {}", spec.program.display()))
}

fn open_log(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| path.display().to_string())
}

pub(crate) fn read_lossy(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The end of a log, for an error.
pub(crate) fn tail(path: &Path) -> String {
    // Reading from a pipe would wait for its writer.
    if !path.is_file() {
        return format!("{}: no file", path.display());
    }
    let bytes = fs::read(path).unwrap_or_default();
    let start = bytes.len().saturating_sub(LOG_TAIL);
    let end = bytes.get(start..).unwrap_or_default();
    format!("{}:\n{}", path.display(), String::from_utf8_lossy(end))
}

fn resident_of(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmSize:\t  9000 kB\nVmRSS:\t    1234 kB\n";
        assert_eq!(resident_of(status), Some(1234 * 1024));
        assert_eq!(resident_of("Name:\tkthread\n"), None);
    }
}
