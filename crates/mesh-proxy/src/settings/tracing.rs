//! Where request spans go.

use mesh_grpc::{ChannelSettings, TextSource};

/// Flags of a proxy that makes spans.
#[derive(Debug, Clone, clap::Args)]
pub struct TracingFlags {
    /// Collector of request spans, OTLP over gRPC; none: no spans.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
}

impl TracingFlags {
    /// The channel to the collector, if there is one. It gets no token: it is none of the mesh's own.
    pub fn collector(
        &self,
        root: Option<TextSource>,
        mark: Option<u32>,
    ) -> Option<ChannelSettings> {
        let endpoint = self.otlp_endpoint.as_ref().filter(|e| !e.is_empty())?;
        Some(ChannelSettings {
            address: endpoint.clone(),
            root,
            server_name: None,
            token: None,
            metadata: Vec::new(),
            mark,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_endpoint_is_none_and_a_collector_gets_no_token() {
        let with = |endpoint: Option<&str>| {
            let otlp_endpoint = endpoint.map(Into::into);
            TracingFlags { otlp_endpoint }.collector(None, Some(1))
        };
        assert!(with(None).is_none() && with(Some("")).is_none());
        let collector = with(Some("http://otel:4317")).unwrap();
        assert_eq!(collector.address, "http://otel:4317");
        assert_eq!((collector.token, collector.mark), (None, Some(1)));
    }
}
