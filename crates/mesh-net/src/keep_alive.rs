//! When a silent connection is given up by the kernel.

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

/// TCP keep-alive of every proxied connection of the process (interop/hbone.md, "Data phase").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// Whether there is any.
    pub enabled: bool,
    /// Silence before the first probe.
    pub time: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Probes without answer after which the connection is gone.
    pub retries: u32,
    /// Sent data without acknowledgement is given up after the same time as silence.
    pub user_timeout: bool,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self {
            enabled: true,
            time: Duration::from_secs(180),
            interval: Duration::from_secs(180),
            retries: 9,
            user_timeout: false,
        }
    }
}

static OF_PROCESS: OnceLock<KeepAlive> = OnceLock::new();

/// Sets the keep-alive of the connections made and accepted from now on; the first call counts.
pub fn set_keep_alive(keep_alive: KeepAlive) {
    OF_PROCESS.get_or_init(|| keep_alive);
}

impl KeepAlive {
    pub(crate) fn of_process() -> Self {
        OF_PROCESS.get().copied().unwrap_or_default()
    }

    pub(crate) fn apply(self, socket: &SockRef<'_>) -> io::Result<()> {
        if self.enabled {
            let probes = TcpKeepalive::new()
                .with_time(self.time)
                .with_interval(self.interval)
                .with_retries(self.retries);
            socket.set_tcp_keepalive(&probes)?;
        }
        if self.user_timeout {
            let silence = self.time.saturating_add(self.interval * self.retries);
            socket.set_tcp_user_timeout(Some(silence))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};

    #[test]
    fn a_socket_gets_what_is_set() {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let given = KeepAlive {
            time: Duration::from_secs(7),
            interval: Duration::from_secs(5),
            retries: 3,
            user_timeout: true,
            ..KeepAlive::default()
        };
        let with = socket();
        given.apply(&SockRef::from(&with)).unwrap();
        assert!(with.keepalive().unwrap());
        assert_eq!(with.tcp_keepalive_time().unwrap(), given.time);
        assert_eq!(with.tcp_keepalive_interval().unwrap(), given.interval);
        assert_eq!(with.tcp_keepalive_retries().unwrap(), 3);
        let silence = Some(Duration::from_secs(22));
        assert_eq!(with.tcp_user_timeout().unwrap(), silence);
        let without = socket();
        let off = KeepAlive {
            enabled: false,
            ..KeepAlive::default()
        };
        off.apply(&SockRef::from(&without)).unwrap();
        assert!(!without.keepalive().unwrap());
        assert_eq!(KeepAlive::of_process(), KeepAlive::default());
    }
}
