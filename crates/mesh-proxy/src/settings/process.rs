//! The process itself: its log, its threads, its end, its admin pages.

use super::{CongestionFlags, KeepAliveFlags, Mistakes, PolicyFlags, Tls, TlsFlags, parse};
use mesh_model::PolicyCompatibility;
use mesh_net::{Congestion, KeepAlive};
use mesh_telemetry::LogFormat;
use std::net::SocketAddr;
use std::time::Duration;

/// Time kept back from the pod's grace period, for the end records and the last log lines.
const GRACE_MARGIN: Duration = Duration::from_secs(5);

/// Flags of the process. The number of worker threads is not among them: its variable's name is not
/// the same for every proxy.
#[derive(Debug, Clone, clap::Args)]
pub struct ProcessFlags {
    /// Log filter.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub log_filter: String,
    /// Log format: plain or json.
    #[arg(long, env = "LOG_FORMAT", default_value = "plain")]
    pub log_format: String,
    /// The pod's grace period, seconds: connections get 5 s less.
    #[arg(long, env = "TERMINATION_GRACE_PERIOD_SECONDS")]
    pub termination_grace_s: Option<u64>,
    /// How long connections may run on after SIGTERM.
    #[arg(long, env = "CONNECTION_TERMINATION_DEADLINE", value_parser = parse::duration)]
    pub termination_deadline: Option<Duration>,
    /// Admin pages.
    #[arg(long, env = "ADMIN_ADDR", default_value = "127.0.0.1:15000")]
    pub admin_address: SocketAddr,
    /// Metrics.
    #[arg(long, env = "STATS_ADDR", default_value = "0.0.0.0:15020")]
    pub metrics_address: SocketAddr,
    /// Readiness.
    #[arg(long, env = "READINESS_ADDR", default_value = "0.0.0.0:15021")]
    pub readiness_address: SocketAddr,
    /// How policies are read.
    #[command(flatten)]
    pub policy: PolicyFlags,
    /// TCP keep-alive of proxied connections.
    #[command(flatten)]
    pub keep_alive: KeepAliveFlags,
    /// Congestion control of proxied connections.
    #[command(flatten)]
    pub congestion: CongestionFlags,
    /// Cryptography and revocation of mesh connections.
    #[command(flatten)]
    pub tls: TlsFlags,
}

/// The process, in the form it is run in.
#[derive(Debug, Clone)]
pub struct Process {
    /// Worker threads.
    pub workers: usize,
    /// How long connections run on after SIGTERM.
    pub drain_deadline: Duration,
    /// Where the pages are.
    pub addresses: Addresses,
    /// Log filter, in the syntax of `RUST_LOG`.
    pub log_filter: String,
    /// Log format.
    pub log_format: LogFormat,
    /// What becomes of policies that cannot be evaluated.
    pub policy_compatibility: PolicyCompatibility,
    /// TCP keep-alive of proxied connections.
    pub keep_alive: KeepAlive,
    /// Congestion control of proxied connections.
    pub congestion: Congestion,
    /// Cryptography and revocation of mesh connections.
    pub tls: Tls,
}

/// Where the admin pages are.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// `/config_dump`, `/debug/connections`, …
    pub admin: SocketAddr,
    /// `/metrics`, `/stats/prometheus`.
    pub metrics: SocketAddr,
    /// `/healthz/ready`.
    pub readiness: SocketAddr,
}

impl ProcessFlags {
    /// Turns what was given into what is used. Without a number of workers it is
    /// [`mesh_runtime::workers_default`].
    pub fn check(&self, workers: Option<usize>, mistakes: &mut Mistakes) -> Process {
        let log_format = mistakes.value("LOG_FORMAT", self.log_format.parse());
        Process {
            workers: workers.unwrap_or_else(mesh_runtime::workers_default),
            drain_deadline: self.drain_deadline(),
            addresses: Addresses {
                admin: self.admin_address,
                metrics: self.metrics_address,
                readiness: self.readiness_address,
            },
            log_filter: self.log_filter.clone(),
            log_format: log_format.unwrap_or_default(),
            policy_compatibility: self.policy.policy_compatibility,
            keep_alive: self.keep_alive.check(),
            congestion: self.congestion.check(mistakes),
            tls: self.tls.check(mistakes),
        }
    }

    /// `CONNECTION_TERMINATION_DEADLINE`, else the grace period less 5 s, else 5 s
    /// (interop/hbone.md, "Drain").
    fn drain_deadline(&self) -> Duration {
        let grace = self.termination_grace_s.map(Duration::from_secs);
        self.termination_deadline.unwrap_or_else(|| {
            grace.map_or(GRACE_MARGIN, |grace| grace.saturating_sub(GRACE_MARGIN))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        process: ProcessFlags,
    }

    fn check(arguments: &[&str], mistakes: &mut Mistakes) -> Process {
        let flags = Flags::try_parse_from([&["proxy"], arguments].concat()).unwrap();
        flags.process.check(Some(3), mistakes)
    }

    #[test]
    fn the_drain_is_as_long_as_the_grace_period_allows() {
        let with = |arguments: &[&str]| {
            let mut mistakes = Mistakes::default();
            check(arguments, &mut mistakes).drain_deadline
        };
        assert_eq!(with(&[]), GRACE_MARGIN);
        assert_eq!(with(&["--termination-grace-s=30"]), Duration::from_secs(25));
        assert_eq!(with(&["--termination-grace-s=3"]), Duration::ZERO);
        let given = ["--termination-grace-s=30", "--termination-deadline=500ms"];
        assert_eq!(with(&given), Duration::from_millis(500));
    }

    #[test]
    fn the_ports_are_the_known_ones_and_an_unknown_format_is_a_mistake() {
        let mut mistakes = Mistakes::default();
        let process = check(&[], &mut mistakes);
        assert!(mistakes.is_empty());
        assert_eq!(process.workers, 3);
        let at = process.addresses;
        assert_eq!(at.admin, "127.0.0.1:15000".parse().unwrap());
        let open = [at.metrics.port(), at.readiness.port()];
        assert_eq!(open, [15020, 15021]);
        check(&["--log-format=xml"], &mut mistakes);
        let told = mistakes.into_error().to_string();
        assert!(told.starts_with("LOG_FORMAT: "), "{told}");
    }
}
