//! `PROXY_CONFIG`: the part of Istio's ProxyConfig that its ztunnel reads, as YAML. A variable of its
//! own, when set, beats what stands here.

use serde::Deserialize;
use std::collections::BTreeMap;

/// What is read; every other key is passed over, as the text is written for several proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ProxyConfig {
    /// Address of the control plane.
    pub(super) discovery_address: Option<String>,
    /// Port of the admin pages, on loopback.
    pub(super) proxy_admin_port: Option<u16>,
    /// Port of the metrics.
    pub(super) stats_port: Option<u16>,
    /// Worker threads.
    pub(super) concurrency: Option<usize>,
    /// `ISTIO_META_*` is told to the control plane; the rest is nothing to a node proxy.
    pub(super) proxy_metadata: BTreeMap<String, String>,
}

/// Reads it; empty says nothing.
///
/// # Errors
/// When it is not the YAML of a ProxyConfig.
pub(super) fn parse(text: &str) -> Result<ProxyConfig, String> {
    if text.trim().is_empty() {
        return Ok(ProxyConfig::default());
    }
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| e.to_string())
}

impl ProxyConfig {
    /// What of the metadata goes to the control plane.
    pub(super) fn metadata(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.proxy_metadata.iter().filter_map(|(name, value)| {
            let name = name.strip_prefix("ISTIO_META_")?;
            Some((name.to_owned(), value.clone()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_chart_writes_is_read_and_what_is_not_ours_passed_over() {
        let text = "concurrency: 3\nstatsPort: 15099\ndrainDuration: 45s\n\
                    proxyMetadata:\n  ISTIO_META_ZONE: b\n  OTHER: x\n";
        let read = parse(text).unwrap();
        assert_eq!((read.concurrency, read.stats_port), (Some(3), Some(15099)));
        let told: Vec<_> = read.metadata().collect();
        assert_eq!(told, [("ZONE".to_owned(), "b".to_owned())]);
        assert_eq!(parse(" ").unwrap(), ProxyConfig::default());
        assert!(parse("concurrency: many").is_err());
    }
}
