//! The program as a child process, and its pages.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn ztunnel() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ztunnel"));
    // The tests must not depend on what is set around them.
    command.env_clear();
    command
}

/// A free port; taken again by whoever is told of it.
pub(crate) fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

pub(crate) fn get(at: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(at).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "{what} does not come true");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) admin: SocketAddr,
    pub(crate) readiness: SocketAddr,
    pub(crate) metrics: SocketAddr,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let (admin, readiness, metrics) = (free(), free(), free());
        let child = command
            .env("ADMIN_ADDR", admin.to_string())
            .env("READINESS_ADDR", readiness.to_string())
            .env("STATS_ADDR", metrics.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            child,
            admin,
            readiness,
            metrics,
        }
    }

    pub(crate) fn ready(&self) -> bool {
        get(self.readiness, "/healthz/ready").is_some_and(|a| a.starts_with("HTTP/1.1 200"))
    }

    pub(crate) fn terminate(mut self) -> bool {
        let id = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap().success()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that failed leaves nothing behind; one that passed has waited for the end.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
