//! The pages, over their own sockets.

use super::*;
use mesh_telemetry::LogFormat;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

struct Served {
    at: Addresses,
    drain: Drain,
    readiness: Readiness,
    scope: Scope,
}

fn serve_pages(logging: Option<LogHandle>) -> Served {
    let (scope, drain, readiness) = (Scope::new(), Drain::new(), Readiness::new());
    let (_, discovery) = watch::channel(Arc::new(DiscoveryStatus::default()));
    let pages = Pages {
        metrics: Metrics::new("proxy"),
        discovery,
        readiness: readiness.clone(),
        drain: drain.clone(),
        logging: logging.map(Arc::new),
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let at = Addresses {
        admin: any,
        metrics: any,
        readiness: any,
    };
    let dump = |_: &DiscoveryStatus| AdminResponse::text("what only this proxy has\n");
    Served {
        at: serve(&scope, at, pages, dump).unwrap(),
        drain,
        readiness,
        scope,
    }
}

async fn ask(at: SocketAddr, method: &str, path: &str) -> String {
    let mut stream = mesh_net::connect(at, &mesh_net::ConnectOptions::default())
        .await
        .unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn each_page_is_on_its_port() {
    let served = serve_pages(None);
    let at = served.at;
    for (port, path, held) in [
        (at.metrics, "/metrics", "component=\"proxy\""),
        (at.metrics, "/stats/prometheus", "component=\"proxy\""),
        (at.admin, "/config_dump", "what only this proxy has"),
        (at.admin, "/debug/connections", "[]"),
        (at.admin, "/debug/discovery", "{"),
    ] {
        let answer = ask(port, "GET", path).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        assert!(answer.contains(held), "{path}: {answer}");
    }
    let _gate = served.readiness.gate("discovery");
    for port in [at.readiness, at.admin] {
        let answer = ask(port, "GET", "/healthz/ready").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("discovery"), "{answer}");
    }
    served.scope.cancel();
}

#[tokio::test]
async fn the_actions_want_a_post() {
    let served = serve_pages(None);
    let admin = served.at.admin;
    let answer = ask(admin, "GET", "/quitquitquit").await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert!(!served.drain.is_started());
    let answer = ask(admin, "POST", "/quitquitquit").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(served.drain.is_started());
    let answer = ask(admin, "POST", "/logging?level=debug").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    served.scope.cancel();
}

#[tokio::test]
async fn the_log_filter_is_set_or_refused() {
    let logging = mesh_telemetry::init_logging(LogFormat::Plain, "error").unwrap();
    let served = serve_pages(Some(logging));
    for (query, status) in [
        ("?level=mesh_proxy=debug", "200"),
        ("?level=no=such=filter", "400"),
        ("?odd=1", "400"),
        ("?level=mesh_proxy::admin:debug,warn", "200"),
        ("", "200"),
        ("?reset", "200"),
    ] {
        let answer = ask(served.at.admin, "POST", &format!("/logging{query}")).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{query}: {answer}"
        );
    }
    served.scope.cancel();
}
