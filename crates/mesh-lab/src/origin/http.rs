//! An HTTP origin: HTTP/1.1 and HTTP/2 with prior knowledge on one port, answers that say who
//! answers and what arrived, and, when asked to, a call to the next origin of a chain.

use super::{EndOnDrop, bind, serve_each};
use crate::client::{HttpAnswer, HttpCall, HttpConnection, HttpVersion, Target};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_net::Protocol;
use mesh_runtime::Scope;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Longest request body read.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most bytes of filler that an answer may be asked for.
const FILLER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest an answer may be asked to wait.
const DELAY_MAX: Duration = Duration::from_secs(60);
/// Idle connections kept to the next origin.
const NEXT_IDLE_MAX: usize = 16;
/// How long the next origin may take.
const NEXT_TIMEOUT: Duration = Duration::from_secs(10);
/// Headers that carry a request's trace from hop to hop; the application's part in tracing
/// (interop/telemetry.md section 6).
const FORWARDED: [&str; 9] = [
    "traceparent",
    "tracestate",
    "x-request-id",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
];

/// A call that an origin makes for each request it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextCall {
    /// `http://host:port/path`. The path of the request at hand is not carried over.
    pub url: String,
    /// Host header, when not the URL's authority.
    pub host: Option<String>,
}

/// How the HTTP origin behaves.
#[derive(Debug, Clone, Default)]
pub struct HttpOptions {
    /// The name it gives itself in answers.
    pub name: String,
    /// Text it puts into every answer.
    pub payload: String,
    /// The call that makes it a link of a chain.
    pub next: Option<NextCall>,
}

/// The answer of an HTTP origin, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpEcho {
    /// Who answers.
    pub name: String,
    /// Text of the origin's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub payload: String,
    /// `HTTP/1.1`, `HTTP/2.0`.
    pub protocol: String,
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Host header or `:authority`.
    pub host: String,
    /// Address the request came from.
    pub peer: SocketAddr,
    /// Headers that arrived; several of one name are joined with `, `.
    pub headers: BTreeMap<String, String>,
    /// Length of the request's body.
    pub body_bytes: usize,
    /// What the next origin of the chain answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextEcho>,
}

/// What came of a call to the next origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextEcho {
    /// Its status; `None` when there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Its answer, when that is an origin's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Box<HttpEcho>>,
    /// Its body otherwise, or why there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Serves HTTP. The query steers the answer: `status=503` sets its status, `delay_ms=100` lets it
/// wait, `bytes=1000` makes it that many bytes of filler instead of JSON.
///
/// # Errors
/// When the address cannot be listened on, or the next URL is none.
pub async fn serve_http(address: SocketAddr, options: HttpOptions) -> io::Result<()> {
    serve_http_on(bind(address)?, options).await
}

/// As [`serve_http`], on a listener.
///
/// # Errors
/// When the listener fails, or the next URL is none.
pub async fn serve_http_on(listener: TcpListener, options: HttpOptions) -> io::Result<()> {
    let next = options.next.as_ref().map(Next::new).transpose()?;
    let origin = Arc::new(Origin { options, next });
    serve_each(listener, "origin-http", move |stream, peer| {
        connection(origin.clone(), stream, peer)
    })
    .await
}

#[derive(Debug)]
struct Origin {
    options: HttpOptions,
    next: Option<Next>,
}

/// Runs HTTP/2 streams as tasks of the connection.
#[derive(Debug, Clone)]
pub(crate) struct ScopeExecutor(pub(crate) Scope);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for ScopeExecutor {
    fn execute(&self, task: F) {
        self.0.spawn("http2", task);
    }
}

async fn connection(origin: Arc<Origin>, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    let (protocol, stream) = mesh_net::detect(stream).await?;
    let io = TokioIo::new(stream);
    let service = service_fn(move |request| {
        let origin = origin.clone();
        async move { Ok::<_, Infallible>(origin.answer(request, peer).await) }
    });
    let served = if protocol == Protocol::Http2 {
        let streams = EndOnDrop(Scope::new());
        hyper::server::conn::http2::Builder::new(ScopeExecutor(streams.0.clone()))
            .timer(TokioTimer::new())
            .serve_connection(io, service)
            .await
    } else {
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .half_close(true)
            .serve_connection(io, service)
            .await
    };
    served.map_err(io::Error::other)
}

impl Origin {
    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let wishes = Wishes::read(head.uri.query().unwrap_or_default());
        let body_bytes = match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes().len(),
            Err(error) => return plain(StatusCode::BAD_REQUEST, error.to_string()),
        };
        // A sleep of no time still waits for the timer's next tick.
        if !wishes.delay.is_zero() {
            tokio::time::sleep(wishes.delay).await;
        }
        if let Some(count) = wishes.filler_bytes {
            return plain(wishes.status, "x".repeat(count));
        }
        let next = match &self.next {
            Some(next) => Some(next.call(&head.headers).await),
            None => None,
        };
        let host = head.uri.authority().map(|a| a.as_str().to_owned());
        let echo = HttpEcho {
            name: self.options.name.clone(),
            payload: self.options.payload.clone(),
            protocol: format!("{:?}", head.version),
            method: head.method.to_string(),
            path: head
                .uri
                .path_and_query()
                .map_or("", |p| p.as_str())
                .to_owned(),
            host: host.unwrap_or_else(|| text_of(&head.headers, HOST.as_str())),
            peer,
            headers: headers_of(&head.headers),
            body_bytes,
            next,
        };
        match serde_json::to_vec(&echo) {
            Ok(json) => answer(wishes.status, "application/json", json.into()),
            Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    answer(status, "text/plain", text.into())
}

fn answer(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let content_type = hyper::header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn text_of(headers: &HeaderMap, name: &str) -> String {
    let values = headers.get_all(name).iter();
    let texts: Vec<_> = values
        .map(|v| String::from_utf8_lossy(v.as_bytes()))
        .collect();
    texts.join(", ")
}

fn headers_of(headers: &HeaderMap) -> BTreeMap<String, String> {
    headers
        .keys()
        .map(|name| (name.to_string(), text_of(headers, name.as_str())))
        .collect()
}

/// What a request asks of its answer.
#[derive(Debug, PartialEq, Eq)]
struct Wishes {
    status: StatusCode,
    delay: Duration,
    filler_bytes: Option<usize>,
}

impl Wishes {
    /// What does not parse is not wished for.
    fn read(query: &str) -> Self {
        let value = |key: &str| {
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value)
        };
        let status = value("status").and_then(|v| v.parse::<StatusCode>().ok());
        let delay = value("delay_ms").and_then(|v| v.parse().ok());
        let filler: Option<usize> = value("bytes").and_then(|v| v.parse().ok());
        Self {
            status: status.unwrap_or(StatusCode::OK),
            delay: delay
                .map_or(Duration::ZERO, Duration::from_millis)
                .min(DELAY_MAX),
            filler_bytes: filler.map(|count| count.min(FILLER_BYTES_MAX)),
        }
    }
}

/// Calls the next origin over connections that are kept.
#[derive(Debug)]
struct Next {
    host: String,
    port: u16,
    call: HttpCall,
    idle: Mutex<Vec<HttpConnection>>,
}

impl Next {
    fn new(next: &NextCall) -> io::Result<Self> {
        let bad = || {
            let why = format!("'{}' is not of the form http://host[:port]/path", next.url);
            io::Error::new(io::ErrorKind::InvalidInput, why)
        };
        let uri: hyper::Uri = next.url.parse().map_err(|_| bad())?;
        let authority = uri.authority().ok_or_else(bad)?;
        if uri.scheme_str() != Some("http") {
            return Err(bad());
        }
        let host = next.host.clone();
        let mut call = HttpCall::get(&host.unwrap_or_else(|| authority.to_string()), "/");
        call.path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        call.timeout = NEXT_TIMEOUT;
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            call,
            idle: Mutex::default(),
        })
    }

    async fn call(&self, headers: &HeaderMap) -> NextEcho {
        let mut call = self.call.clone();
        for name in FORWARDED {
            if let Some(value) = headers.get(name).and_then(|v| v.to_str().ok()) {
                call.headers.push((name.to_owned(), value.to_owned()));
            }
        }
        match self.send(&call).await {
            Ok(answer) => {
                let echo = serde_json::from_str::<HttpEcho>(&answer.body).ok();
                NextEcho {
                    status: Some(answer.status),
                    text: echo.is_none().then_some(answer.body),
                    answer: echo.map(Box::new),
                }
            }
            Err(error) => NextEcho {
                status: None,
                answer: None,
                text: Some(format!("{error:#}")),
            },
        }
    }

    async fn send(&self, call: &HttpCall) -> anyhow::Result<HttpAnswer> {
        // A kept connection may have been closed by the other side just now; a fresh one tells.
        if let Some(kept) = self.take_idle()
            && let Ok(answer) = self.send_on(kept, call).await
        {
            return Ok(answer);
        }
        let fresh = self.connect().await?;
        self.send_on(fresh, call).await
    }

    async fn send_on(
        &self,
        mut connection: HttpConnection,
        call: &HttpCall,
    ) -> anyhow::Result<HttpAnswer> {
        let answer = connection.send(call).await?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if connection.is_open() && idle.len() < NEXT_IDLE_MAX {
            idle.push(connection);
        }
        Ok(answer)
    }

    fn take_idle(&self) -> Option<HttpConnection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(HttpConnection::is_open);
        idle.pop()
    }

    async fn connect(&self) -> anyhow::Result<HttpConnection> {
        let mut addresses = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
        let address = addresses
            .next()
            .ok_or_else(|| anyhow::anyhow!("{} has no address", self.host))?;
        HttpConnection::open(&Target::new(address), HttpVersion::Http1).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read_and_bounded() {
        let wishes = Wishes::read("status=503&delay_ms=999999999&bytes=7&other");
        assert_eq!(wishes.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(wishes.delay, DELAY_MAX);
        assert_eq!(wishes.filler_bytes, Some(7));
        assert_eq!(Wishes::read("status=9999&bytes=x").status, StatusCode::OK);
    }

    #[test]
    fn a_url_that_is_none_is_refused() {
        for url in ["", "reviews:80", "https://reviews/", "http://"] {
            let next = NextCall {
                url: url.into(),
                host: None,
            };
            assert!(Next::new(&next).is_err(), "{url} was taken");
        }
    }
}
