//! `sidecar init`: redirection of the current network namespace into the sidecar
//! (interop/zds-cni.md section 7). Run it in the pod before the proxy, with `NET_ADMIN`.

use anyhow::{Context as _, bail};
use mesh_model::Cidr;
use mesh_redirect::{Interface, LoopExclusion, Mode, Ports, RuleSet, SidecarOptions};

/// The flags of istio-iptables that mean something here, under their names.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// Inbound ports to capture, comma separated; `*` is all.
    #[arg(short = 'b', long, env = "INBOUND_PORTS_INCLUDE", default_value = "*")]
    istio_inbound_ports: String,
    /// Inbound ports not to capture.
    #[arg(short = 'd', long, env = "INBOUND_PORTS_EXCLUDE", default_value = "")]
    istio_local_exclude_ports: String,
    /// Outbound ports to capture whatever the ranges say.
    #[arg(short = 'q', long, env = "OUTBOUND_PORTS_INCLUDE", default_value = "")]
    istio_outbound_ports: String,
    /// Outbound ports not to capture.
    #[arg(short = 'o', long, env = "OUTBOUND_PORTS_EXCLUDE", default_value = "")]
    istio_local_outbound_ports_exclude: String,
    /// Outbound ranges to capture; `*` is all.
    #[arg(short = 'i', long, env = "SERVICE_CIDR", default_value = "*")]
    istio_service_cidr: String,
    /// Outbound ranges not to capture.
    #[arg(short = 'x', long, env = "SERVICE_EXCLUDE_CIDR", default_value = "")]
    istio_service_exclude_cidr: String,
    /// Interfaces not to capture.
    #[arg(short = 'c', long, env = "EXCLUDE_INTERFACES", default_value = "")]
    istio_exclude_interfaces: String,
    /// Know the proxy's own packets by this user instead of by their mark.
    #[arg(short = 'u', long, env = "PROXY_UID")]
    proxy_uid: Option<u32>,
    /// Its group.
    #[arg(short = 'g', long, env = "PROXY_GID")]
    proxy_gid: Option<u32>,
    /// Take the redirection away instead.
    #[arg(long, default_value_t = false)]
    remove: bool,
    /// Only say whether the redirection is in place.
    #[arg(long, default_value_t = false, conflicts_with = "remove")]
    check: bool,
}

/// Applies, checks or removes the rules.
///
/// # Errors
/// When a flag cannot be read, or the rules cannot be written; then none are left.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    let rules = RuleSet::new(&Mode::Sidecar(flags.options()?));
    if flags.remove {
        return rules.remove().context("removing the redirection");
    }
    if !flags.check {
        rules.apply().context("applying the redirection")?;
    }
    let report = rules.check().context("checking the redirection")?;
    if report.is_in_place() {
        return Ok(());
    }
    bail!("the redirection is not in place: {report:?}")
}

impl Flags {
    fn options(&self) -> anyhow::Result<SidecarOptions> {
        let ports = |flag: &str, text: &str| -> anyhow::Result<Vec<u16>> {
            list(text, |t| t.parse::<u16>().ok()).with_context(|| format!("{flag} '{text}'"))
        };
        let ranges = |flag: &str, text: &str| -> anyhow::Result<Vec<Cidr>> {
            list(text, |t| t.parse::<Cidr>().ok()).with_context(|| format!("{flag} '{text}'"))
        };
        let interfaces = list(&self.istio_exclude_interfaces, |t| {
            t.parse::<Interface>().ok()
        });
        Ok(SidecarOptions {
            exclusion: match (self.proxy_uid, self.proxy_gid) {
                (None, None) => LoopExclusion::Mark,
                (uid, gid) => LoopExclusion::Owner {
                    uid: uid.unwrap_or(PROXY_USER),
                    gid: gid.unwrap_or(PROXY_USER),
                },
            },
            include_inbound_ports: match self.istio_inbound_ports.as_str() {
                "*" => Ports::All,
                text => Ports::Only(ports("-b", text)?),
            },
            exclude_inbound_ports: ports("-d", &self.istio_local_exclude_ports)?,
            include_outbound_ports: ports("-q", &self.istio_outbound_ports)?,
            exclude_outbound_ports: ports("-o", &self.istio_local_outbound_ports_exclude)?,
            include_outbound_ranges: match self.istio_service_cidr.as_str() {
                "*" => None,
                text => Some(ranges("-i", text)?),
            },
            exclude_outbound_ranges: ranges("-x", &self.istio_service_exclude_cidr)?,
            exclude_interfaces: interfaces.context("-c: not an interface name")?,
        })
    }
}

/// User and group of the proxy, where only one of them is given (interop/zds-cni.md section 7).
const PROXY_USER: u32 = 1337;

/// The items of a comma-separated list; none when one of them cannot be read.
fn list<T>(text: &str, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(read)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn options(arguments: &[&str]) -> anyhow::Result<SidecarOptions> {
        let line = Line::try_parse_from(["init"].iter().chain(arguments))?;
        line.flags.options()
    }

    #[test]
    fn no_flag_captures_everything_but_marked_packets() {
        assert_eq!(options(&[]).unwrap(), SidecarOptions::default());
    }

    #[test]
    fn lists_are_read_and_mistakes_named() {
        let some = options(&["-b", "80, 443", "-x", "10.0.0.0/8", "-u", "7"]).unwrap();
        assert_eq!(some.include_inbound_ports, Ports::Only(vec![80, 443]));
        assert_eq!(some.exclude_outbound_ranges.len(), 1);
        let by_owner = LoopExclusion::Owner { uid: 7, gid: 1337 };
        assert_eq!(some.exclusion, by_owner);
        let error = options(&["-o", "80,http"]).unwrap_err();
        assert!(error.to_string().contains("-o '80,http'"), "{error}");
    }
}
