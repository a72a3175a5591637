//! `mesh explain`: what the mesh does with a connection or request, and why.

use crate::connect;
use crate::settings::ExplainSettings;
use anyhow::{Context, Result, bail};
use mesh_model::Snapshot;
use mesh_plan::{ExplainRequest, explain};
use std::process::ExitCode;

/// Prints the explanation. Exit code 0: allowed; 1: denied; 2: no answer.
pub(crate) fn run(settings: &ExplainSettings) -> Result<ExitCode> {
    let snapshot = connect::snapshot(&settings.control_plane)?;
    let explanation = explain(&snapshot, &request(settings, &snapshot)?);
    if settings.json {
        println!("{}", serde_json::to_string_pretty(&explanation)?);
    } else {
        println!("{explanation}");
    }
    Ok(if explanation.allowed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn request(settings: &ExplainSettings, snapshot: &Snapshot) -> Result<ExplainRequest> {
    let (to, port) = target(&settings.to)?;
    let port = match port {
        Some(port) => port,
        None => only_port(snapshot, &settings.from, to)?,
    };
    Ok(ExplainRequest {
        from: settings.from.clone(),
        to: qualified(&settings.from, to),
        port,
        method: settings.method.clone(),
        path: settings.path.clone(),
        host: settings.host.clone(),
        headers: Vec::new(),
    })
}

/// Splits `TO[:PORT]`; an IPv6 address with a port stands in brackets.
fn target(text: &str) -> Result<(&str, Option<u16>)> {
    let bare_v6 = text.parse::<std::net::Ipv6Addr>().is_ok();
    match text.rsplit_once(':') {
        Some((host, port)) if !bare_v6 && !host.is_empty() => {
            let port = port
                .parse()
                .with_context(|| format!("'{port}' in '{text}' is no port"))?;
            Ok((host.trim_matches(['[', ']']), Some(port)))
        }
        _ => Ok((text.trim_matches(['[', ']']), None)),
    }
}

/// A bare service name means the caller's namespace, as it does in DNS.
fn qualified(from: &str, to: &str) -> String {
    let is_bare = !to.contains(['/', '.', ':']);
    let from = from.strip_prefix("gateway:").unwrap_or(from);
    match from.split_once('/') {
        Some((namespace, _)) if is_bare => format!("{namespace}/{to}"),
        _ => to.to_owned(),
    }
}

/// The port of a service that has only one.
fn only_port(snapshot: &Snapshot, from: &str, to: &str) -> Result<u16> {
    let name = qualified(from, to);
    let (namespace, short) = name.split_once('/').unwrap_or(("", &name));
    let found = snapshot.services().find(|s| {
        *s.name.hostname == *to || (*s.name.namespace == *namespace && *s.short_name == *short)
    });
    match found.map(|s| s.ports.as_slice()) {
        Some([port]) => Ok(port.service_port),
        Some(ports) => {
            let ports: Vec<_> = ports.iter().map(|p| p.service_port.to_string()).collect();
            bail!(
                "{to} has the ports {}: say which, as {to}:PORT",
                ports.join(", ")
            )
        }
        None => bail!("no service {to} is known; an address needs a port, as {to}:PORT"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_split_into_host_and_port() {
        assert_eq!(target("orders:80").unwrap(), ("orders", Some(80)));
        assert_eq!(target("demo/orders").unwrap(), ("demo/orders", None));
        assert_eq!(target("[fd42::1]:80").unwrap(), ("fd42::1", Some(80)));
        assert_eq!(target("fd42::1").unwrap(), ("fd42::1", None));
        assert!(target("orders:http").is_err());
    }

    #[test]
    fn a_bare_name_is_of_the_callers_namespace() {
        assert_eq!(qualified("demo/client", "orders"), "demo/orders");
        assert_eq!(qualified("gateway:demo/edge", "orders"), "demo/orders");
        assert_eq!(qualified("demo/client", "shop/orders"), "shop/orders");
        assert_eq!(qualified("demo/client", "10.0.0.1"), "10.0.0.1");
    }
}
