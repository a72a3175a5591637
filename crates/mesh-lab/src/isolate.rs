//! The program runs itself again as the first process of new PID, mount and network namespaces.
//!
//! Everything the lab makes (processes, namespaces, interfaces, rules, mounts) lives in there and
//! ends with that process, because the kernel ends it: `kill -9` of the runner kills `unshare`
//! (parent-death signal), which kills the inner program, and the death of a PID namespace's first
//! process kills the rest. Nothing on the host has to be cleaned up.
//!
//! A user namespace comes first, so that no privilege is needed. Where the system forbids one, real
//! root does without it.

use std::env;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::command::output;

/// Tells the inner program what it is: `user` or `root`, and how many sockets wait on its input.
const MARKER: &str = "MESH_LAB_ISOLATED";
/// Most listening sockets handed in: what one message carries (the kernel takes 253).
pub const LISTENERS_MAX: usize = 32;
/// Where programs of the system live that an ordinary user's PATH leaves out.
const SYSTEM_PATHS: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

/// Which side of the isolation this process is on.
#[derive(Debug)]
pub enum Side {
    /// The inner program: make the lab.
    Inside(Inside),
    /// The runner, whose inner program has ended with this code: pass it on.
    Outside(ExitCode),
}

/// What the inner program has.
#[derive(Debug)]
pub struct Inside {
    /// The listening sockets of the host's network, in the order they were given.
    pub listeners: Vec<TcpListener>,
    /// Whether root is only the root of a user namespace.
    pub user_namespace: bool,
}

/// How the namespaces are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Privilege {
    /// In a user namespace whose root is the calling user.
    UserNamespace,
    /// As the real root.
    Root,
}

impl Privilege {
    fn as_str(self) -> &'static str {
        match self {
            Self::UserNamespace => "user",
            Self::Root => "root",
        }
    }

    /// `unshare` and its flags, with the parent-death signal set before.
    fn command(self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare"]);
        if self == Self::UserNamespace {
            command.args(["--user", "--map-root-user"]);
        }
        command.args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]);
        command.env("PATH", path());
        command
    }
}

fn path() -> String {
    let own = env::var_os("PATH").unwrap_or_default();
    format!("{}:{SYSTEM_PATHS}", own.to_string_lossy())
}

fn marker() -> Option<String> {
    env::var_os(MARKER).map(|value| value.to_string_lossy().into_owned())
}

/// Whether this process is the inner program. The marker alone would be inherited by processes
/// started in the lab.
pub fn is_isolated() -> bool {
    std::process::id() == 1 && marker().is_some()
}

/// Runs this program again, same arguments, isolated; or, in the inner program, sets the private
/// `/run` up and returns at once. Call it first thing in `main`, before there are threads, and
/// return the code of [`Side::Outside`].
///
/// Terminal, output and environment are the runner's. With `listeners` the inner program's standard
/// input is at its end, for they travel over it.
///
/// # Errors
/// When neither a user namespace nor root's namespaces can be made (the message names both reasons
/// and the way out), or a program is missing.
pub fn isolate(listeners: Vec<TcpListener>) -> Result<Side> {
    if is_isolated() {
        return inside().map(Side::Inside);
    }
    let program = program()?;
    let mut command = Isolation::new(program)?;
    command.command.args(env::args_os().skip(1));
    let status = command.run(listeners)?;
    Ok(Side::Outside(exit_code(status)))
}

/// The code a shell would show.
fn exit_code(status: ExitStatus) -> ExitCode {
    let signal = || status.signal().map(|signal| signal.saturating_add(128));
    let code = status.code().or_else(signal).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn program() -> Result<PathBuf> {
    let program = env::current_exe().context("cannot find this program's file")?;
    ensure!(
        program.exists(),
        "{} has been replaced while it ran; start it again",
        program.display()
    );
    Ok(program)
}

/// A program about to be run isolated.
struct Isolation {
    command: Command,
    privilege: Privilege,
}

impl Isolation {
    fn new(program: PathBuf) -> Result<Self> {
        let privilege = possible()?;
        let mut command = privilege.command();
        command.arg(program);
        Ok(Self { command, privilege })
    }

    fn run(mut self, listeners: Vec<TcpListener>) -> Result<ExitStatus> {
        ensure!(
            listeners.len() <= LISTENERS_MAX,
            "at most {LISTENERS_MAX} sockets can be handed in, not {}",
            listeners.len()
        );
        let marker = format!("{} {}", self.privilege.as_str(), listeners.len());
        self.command.env(MARKER, marker);
        if !listeners.is_empty() {
            let (ours, theirs) = UnixStream::pair()?;
            send(&ours, &listeners).context("cannot hand the sockets over")?;
            // What was sent waits in the socket, though this end closes here.
            self.command.stdin(Stdio::from(OwnedFd::from(theirs)));
        }
        let mut child = self.command.spawn().context(
            "cannot run setpriv and unshare (package util-linux), by which the lab is isolated",
        )?;
        drop(listeners);
        child.wait().context("cannot wait for the inner program")
    }
}

/// The first way that works here, tried with everything the lab needs of it.
fn possible() -> Result<Privilege> {
    let mut reasons = Vec::new();
    for privilege in [Privilege::UserNamespace, Privilege::Root] {
        if privilege == Privilege::Root && !nix::unistd::geteuid().is_root() {
            reasons.push("not root".to_owned());
            continue;
        }
        let mut probe = privilege.command();
        probe.args(["sh", "-c", "mount -t tmpfs tmpfs /run && ip link set lo up"]);
        match output(&mut probe) {
            Ok(_) => return Ok(privilege),
            Err(error) => reasons.push(format!("{error:#}")),
        }
    }
    bail!(
        "this system lets neither a user namespace nor root make the network namespaces that the \
         lab needs.\n  user namespace: {}\n  root: {}\nRun it as root, or allow user namespaces \
         (sysctl kernel.unprivileged_userns_clone=1, \
         kernel.apparmor_restrict_unprivileged_userns=0); a container needs --privileged.",
        reasons.first().map_or("-", String::as_str),
        reasons.get(1).map_or("-", String::as_str),
    )
}

fn inside() -> Result<Inside> {
    let marker = marker().unwrap_or_default();
    let (privilege, count) = marker.split_once(' ').unwrap_or((&marker, "0"));
    let count: usize = count.parse().context("the isolation's marker is damaged")?;
    let listeners = if count == 0 {
        Vec::new()
    } else {
        receive(count)?
    };
    private_run()?;
    output(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    Ok(Inside {
        listeners,
        user_namespace: privilege == Privilege::UserNamespace.as_str(),
    })
}

/// A `/run` of our own: named namespaces and locks are not the host's.
fn private_run() -> Result<()> {
    let options = Some("mode=0755,size=64m");
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::MS_NOSUID,
        options,
    )
    .context("cannot mount a private /run")?;
    fs::create_dir_all("/run/netns").context("/run/netns")
}

fn send(socket: &UnixStream, listeners: &[TcpListener]) -> io::Result<()> {
    let fds: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENERS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("too many sockets for one message"));
    }
    sendmsg(
        socket,
        &[IoSlice::new(b"s")],
        &mut control,
        SendFlags::empty(),
    )?;
    Ok(())
}

fn receive(count: usize) -> Result<Vec<TcpListener>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENERS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    recvmsg(
        io::stdin(),
        &mut data,
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .context("the host's sockets did not arrive")?;
    let mut listeners = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            listeners.extend(fds.map(TcpListener::from));
        }
    }
    ensure!(
        listeners.len() == count,
        "{} of the host's {count} sockets arrived",
        listeners.len()
    );
    Ok(listeners)
}
