//! What a port speaks, by `appProtocol` or by its name.

use mesh_model::AppProtocol;

/// `appProtocol` wins over the name; of a name the part before the first `-` counts.
pub(super) fn app_protocol(declared: Option<&str>, name: Option<&str>) -> AppProtocol {
    let text = declared.or_else(|| match name {
        Some(name) if name.starts_with("grpc-web") => Some("grpc-web"),
        Some(name) => name.split('-').next(),
        None => None,
    });
    match text.unwrap_or_default().to_ascii_lowercase().as_str() {
        "http" | "http1" | "http11" | "kubernetes.io/ws" | "ws" => AppProtocol::Http11,
        "http2" | "h2c" | "kubernetes.io/h2c" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        // gRPC-Web is HTTP/1.1 on the wire.
        "grpc-web" => AppProtocol::Http11,
        "tls" | "https" | "kubernetes.io/wss" | "wss" => AppProtocol::Tls,
        "tcp" | "mongo" | "mysql" | "redis" | "postgres" | "postgresql" => AppProtocol::Tcp,
        _ => AppProtocol::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declaration_wins_over_the_name() {
        assert_eq!(app_protocol(Some("tcp"), Some("http")), AppProtocol::Tcp);
        assert_eq!(app_protocol(None, Some("http-web")), AppProtocol::Http11);
        assert_eq!(app_protocol(None, Some("grpc")), AppProtocol::Grpc);
        assert_eq!(app_protocol(None, Some("smtp")), AppProtocol::Unknown);
        assert_eq!(app_protocol(None, None), AppProtocol::Unknown);
    }
}
