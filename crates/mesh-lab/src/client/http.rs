//! HTTP clients: one request, a sequence over one connection, a load over several.

use super::{Stream, Tally, Target};
use crate::origin::{EndOnDrop, HttpEcho, ScopeExecutor};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper::header::HOST;
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_runtime::Scope;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Longest answer taken.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a request may take unless it says otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// Which HTTP a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: by ALPN's agreement in TLS, by prior knowledge without.
    Http2,
}

/// A request.
#[derive(Debug, Clone)]
pub struct HttpCall {
    /// Method.
    pub method: Method,
    /// Host header, or `:authority`.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Bytes,
    /// How long it may take, answer included.
    pub timeout: Duration,
}

impl HttpCall {
    /// A GET without further headers, for 10 s at most.
    pub fn get(host: &str, path: &str) -> Self {
        Self {
            method: Method::GET,
            host: host.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
            timeout: TIMEOUT_DEFAULT,
        }
    }

    /// The same with another header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with another method and a body.
    #[must_use]
    pub fn send(mut self, method: Method, body: impl Into<Bytes>) -> Self {
        self.method = method;
        self.body = body.into();
        self
    }

    fn request(&self, version: HttpVersion, tls: bool) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(self.method.clone());
        request = match version {
            HttpVersion::Http1 => request.uri(&self.path).header(HOST, &self.host),
            HttpVersion::Http2 => {
                let uri = Uri::builder()
                    .scheme(if tls { "https" } else { "http" })
                    .authority(self.host.as_str())
                    .path_and_query(self.path.as_str())
                    .build()?;
                request.uri(uri)
            }
        };
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        Ok(request.body(Full::new(self.body.clone()))?)
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// Status.
    pub status: u16,
    /// Headers; several of one name are joined with `, `.
    pub headers: BTreeMap<String, String>,
    /// Body.
    pub body: String,
    /// From the request's first byte to the answer's last.
    pub took: Duration,
}

impl HttpAnswer {
    /// The body as an origin's answer; `None` when it is none.
    pub fn echo(&self) -> Option<HttpEcho> {
        serde_json::from_str(&self.body).ok()
    }
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A connection that is kept between requests. Dropping it closes it.
#[derive(Debug)]
pub struct HttpConnection {
    sender: Sender,
    tls: bool,
    _tasks: EndOnDrop,
}

impl HttpConnection {
    /// Connects. A TLS target that agreed on HTTP/2 speaks that, whatever was asked for.
    ///
    /// # Errors
    /// When nobody answers, or not in this protocol.
    pub async fn open(target: &Target, version: HttpVersion) -> Result<Self> {
        let (stream, agreed) = target.connect().await?;
        let version = match agreed {
            Some(agreed) if agreed.http2 => HttpVersion::Http2,
            Some(_) if version == HttpVersion::Http2 => bail!("the server did not agree on h2"),
            _ => version,
        };
        Self::over(stream, version, target.tls.is_some()).await
    }

    async fn over(stream: Stream, version: HttpVersion, tls: bool) -> Result<Self> {
        let tasks = EndOnDrop(Scope::new());
        let io = TokioIo::new(stream);
        let sender = match version {
            HttpVersion::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                drive(&tasks.0, connection);
                Sender::Http1(sender)
            }
            HttpVersion::Http2 => {
                let (sender, connection) = http2::Builder::new(ScopeExecutor(tasks.0.clone()))
                    .timer(TokioTimer::new())
                    .handshake(io)
                    .await?;
                drive(&tasks.0, connection);
                Sender::Http2(sender)
            }
        };
        Ok(Self {
            sender,
            tls,
            _tasks: tasks,
        })
    }

    /// Whether another request can be sent.
    pub fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => !sender.is_closed(),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection ends, the answer is over 64 MiB, or the time is over.
    pub async fn send(&mut self, call: &HttpCall) -> Result<HttpAnswer> {
        let exchange = self.exchange(call);
        tokio::time::timeout(call.timeout, exchange)
            .await
            .with_context(|| format!("no answer within {:?}", call.timeout))?
    }

    async fn exchange(&mut self, call: &HttpCall) -> Result<HttpAnswer> {
        let started = Instant::now();
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                let request = call.request(HttpVersion::Http1, self.tls)?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                let request = call.request(HttpVersion::Http2, self.tls)?;
                sender.send_request(request).await?
            }
        };
        read(response, started).await
    }
}

/// Runs a connection until its owner is dropped. How it ends, the requests on it say.
fn drive(tasks: &Scope, connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
    tasks.spawn("http-client", async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a client connection ended early");
        }
    });
}

async fn read(response: Response<hyper::body::Incoming>, started: Instant) -> Result<HttpAnswer> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|e| anyhow::anyhow!(e).context("the answer broke off"))?
        .to_bytes();
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.to_string())
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    Ok(HttpAnswer {
        status: head.status.as_u16(),
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
        took: started.elapsed(),
    })
}

/// One request on a connection of its own.
///
/// # Errors
/// When there is no answer.
pub async fn http(target: &Target, version: HttpVersion, call: &HttpCall) -> Result<HttpAnswer> {
    HttpConnection::open(target, version)
        .await?
        .send(call)
        .await
}

/// Requests one after the other over a kept connection; a new one is opened when it ends. The first
/// connect is not part of any request's time.
pub async fn http_sequence(
    target: &Target,
    version: HttpVersion,
    call: &HttpCall,
    count: usize,
) -> Tally {
    let mut tally = Tally::default();
    let mut kept: Option<HttpConnection> = None;
    for _ in 0..count {
        let connection = match kept.take().filter(HttpConnection::is_open) {
            Some(connection) => Ok(connection),
            None => HttpConnection::open(target, version).await,
        };
        match connection {
            Err(error) => tally.add(Err(error)),
            Ok(mut connection) => {
                let outcome = connection.send(call).await;
                // A request that got no answer leaves its connection in an unknown state.
                kept = outcome.is_ok().then_some(connection);
                tally.add(outcome);
            }
        }
    }
    tally
}

/// `count` requests in all, by `concurrency` clients at a time, each over its own kept connection.
pub async fn http_load(
    target: &Target,
    version: HttpVersion,
    call: &HttpCall,
    count: usize,
    concurrency: usize,
) -> Tally {
    let clients = concurrency.clamp(1, count.max(1));
    let mut running = JoinSet::new();
    for client in 0..clients {
        let share = count / clients + usize::from(client < count % clients);
        let (target, call) = (target.clone(), call.clone());
        running.spawn(async move { http_sequence(&target, version, &call, share).await });
    }
    let mut all = Tally::default();
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(tally) => all.merge(tally),
            Err(error) => all.add(Err(error.into())),
        }
    }
    all
}
