//! The HTTP/1.1 server behind the admin pages.

use super::{AdminResponse, AdminRoutes};
use crate::Scope;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at once to one admin port: a scraper, a probe and some people at work.
const CONNECTIONS_MAX: usize = 64;
/// A request's head must arrive within this time; also how long an idle connection is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest life of a connection, so that a reader that never reads does not hold its place.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause after a failed accept, which mostly means that descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves pages until the scope is cancelled, and gives the address bound (for port 0). The
/// listener belongs to the calling runtime: the control runtime, so that load on the workers does
/// not keep a probe waiting.
///
/// # Errors
/// When the address cannot be bound.
pub fn serve_admin(
    scope: &Scope,
    address: SocketAddr,
    routes: AdminRoutes,
) -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(address)
        .map_err(|e| io::Error::new(e.kind(), format!("admin address {address}: {e}")))?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let bound = listener.local_addr()?;
    let tasks = scope.clone();
    scope.spawn("admin", async move {
        accept(listener, tasks, Arc::new(routes)).await;
    });
    Ok(bound)
}

async fn accept(listener: TcpListener, scope: Scope, routes: Arc<AdminRoutes>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The place comes before the connection: more than the limit wait in the backlog.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                scope.spawn("admin connection", serve(stream, routes.clone(), place));
            }
            Err(error) => {
                tracing::warn!(%error, "the admin port cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, routes: Arc<AdminRoutes>, place: OwnedSemaphorePermit) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let uri = request.uri();
        let answer = routes.answer(
            request.method(),
            uri.path(),
            uri.query().unwrap_or_default(),
        );
        std::future::ready(Ok::<_, Infallible>(response(answer)))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        tracing::debug!(%error, "an admin connection failed");
    }
    drop(place);
}

fn response(answer: AdminResponse) -> Response<Full<Bytes>> {
    let built = Response::builder()
        .status(answer.status)
        .header(http::header::CONTENT_TYPE, answer.content_type)
        // Pages show the state of this moment.
        .header(http::header::CACHE_CONTROL, "no-store")
        .body(Full::from(answer.body));
    built.unwrap_or_else(|error| {
        tracing::error!(%error, "an admin page gave an impossible status");
        let mut fallback = Response::new(Full::default());
        *fallback.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        fallback
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Readiness;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[expect(
        clippy::disallowed_methods,
        reason = "a test client; mesh-net is a neighbour of this crate"
    )]
    async fn ask(address: SocketAddr, method: &str, target: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{method} {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_string())
    }

    #[tokio::test]
    async fn pages_are_found_and_faults_are_told_apart() {
        let readiness = Readiness::new();
        let gate = readiness.gate("certificate");
        let routes = AdminRoutes::new()
            .get("/echo", |query| AdminResponse::text(query))
            .get("/json", |_| AdminResponse::json(&[1, 2]))
            .get("/bad", |_| AdminResponse::status(7, ""))
            .post("/quit", |_| AdminResponse::text("bye"))
            .readiness(&readiness);
        let scope = Scope::new();
        let at = serve_admin(&scope, "127.0.0.1:0".parse().unwrap(), routes).unwrap();

        assert_eq!(ask(at, "GET", "/echo?a=b").await, (200, "a=b".into()));
        assert_eq!(ask(at, "HEAD", "/echo?a=b").await, (200, String::new()));
        assert_eq!(ask(at, "GET", "/json").await.1, "[\n  1,\n  2\n]");
        assert_eq!(ask(at, "POST", "/quit").await, (200, "bye".into()));
        assert_eq!(ask(at, "GET", "/quit").await.0, 405);
        assert_eq!(ask(at, "DELETE", "/echo").await.0, 405);
        assert_eq!(ask(at, "GET", "/nowhere").await.0, 404);
        assert_eq!(ask(at, "GET", "/bad").await.0, 500);
        let index = ask(at, "GET", "/").await.1;
        assert!(index.contains("POST /quit"), "{index}");

        let ready = ask(at, "GET", "/healthz/ready").await;
        assert_eq!(ready, (503, "not ready: certificate\n".into()));
        gate.open();
        assert_eq!(ask(at, "GET", "/healthz/ready").await.0, 200);
        scope.cancel();
        scope.finished().await;
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let scope = Scope::new();
        let any = "127.0.0.1:0".parse().unwrap();
        let at = serve_admin(&scope, any, AdminRoutes::new()).unwrap();
        let error = serve_admin(&scope, at, AdminRoutes::new()).unwrap_err();
        assert!(error.to_string().contains(&at.to_string()), "{error}");
    }
}
