//! When a silent connection is given up.

use super::parse;
use mesh_net::KeepAlive;
use std::time::Duration;

/// Flags for the TCP keep-alive of proxied connections.
#[derive(Debug, Clone, clap::Args)]
pub struct KeepAliveFlags {
    /// Whether silent connections are probed.
    #[arg(long, env = "KEEPALIVE_ENABLED", default_value_t = true, action = clap::ArgAction::Set)]
    pub keepalive_enabled: bool,
    /// Silence before the first probe.
    #[arg(long, env = "KEEPALIVE_TIME", default_value = "180s", value_parser = parse::duration)]
    pub keepalive_time: Duration,
    /// Time between probes.
    #[arg(
        long,
        env = "KEEPALIVE_INTERVAL",
        default_value = "180s",
        value_parser = parse::duration
    )]
    pub keepalive_interval: Duration,
    /// Probes without answer after which a connection is gone.
    #[arg(long, env = "KEEPALIVE_RETRIES", default_value_t = 9)]
    pub keepalive_retries: u32,
    /// Give up unacknowledged data after the same time (`TCP_USER_TIMEOUT`).
    #[arg(
        long,
        env = "USER_TIMEOUT_ENABLED",
        default_value_t = false,
        action = clap::ArgAction::Set
    )]
    pub user_timeout_enabled: bool,
}

impl KeepAliveFlags {
    pub(super) fn check(&self) -> KeepAlive {
        KeepAlive {
            enabled: self.keepalive_enabled,
            time: self.keepalive_time,
            interval: self.keepalive_interval,
            retries: self.keepalive_retries,
            user_timeout: self.user_timeout_enabled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        keep_alive: KeepAliveFlags,
    }

    #[test]
    fn the_defaults_are_the_peers_and_each_can_be_set() {
        let check = |arguments: &[&str]| {
            let flags = Flags::try_parse_from([&["proxy"], arguments].concat()).unwrap();
            flags.keep_alive.check()
        };
        assert_eq!(check(&[]), KeepAlive::default());
        let given = check(&[
            "--keepalive-enabled=false",
            "--keepalive-time=7s",
            "--keepalive-interval=5s",
            "--keepalive-retries=3",
            "--user-timeout-enabled=true",
        ]);
        let expected = KeepAlive {
            enabled: false,
            time: Duration::from_secs(7),
            interval: Duration::from_secs(5),
            retries: 3,
            user_timeout: true,
        };
        assert_eq!(given, expected);
    }
}
