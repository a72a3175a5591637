//! The request that is explained, as each proxy on its way sees it.

use super::ExplainRequest;
use crate::HttpFacts;
use mesh_model::{AppProtocol, HttpFilter};
use mesh_routing::HeaderChange;

/// An HTTP request.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) method: String,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) query: Option<String>,
    headers: Vec<(String, String)>,
    /// The question named a method or path: it is about HTTP whatever the port says of itself.
    given: bool,
}

impl Message {
    pub(super) fn new(request: &ExplainRequest, host: &str) -> Self {
        let target = request.path.as_deref().unwrap_or("/");
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        let host = request.host.as_deref().unwrap_or(host);
        // As proxies read a head: `a.b.` names the host that `a.b` does.
        let bare = mesh_routing::without_port(host);
        let bare = bare.strip_suffix('.').unwrap_or(bare);
        Self {
            method: request
                .method
                .as_deref()
                .unwrap_or("GET")
                .to_ascii_uppercase(),
            host: bare.to_ascii_lowercase(),
            path: mesh_routing::normalise_path(path).into_owned(),
            query,
            headers: request
                .headers
                .iter()
                .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
                .collect(),
            given: request.method.is_some() || request.path.is_some(),
        }
    }

    /// Whether a proxy on a port of this protocol sees HTTP.
    pub(super) fn is_http(&self, protocol: AppProtocol) -> bool {
        match protocol {
            AppProtocol::Tcp | AppProtocol::Tls => false,
            AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc => true,
            AppProtocol::Unknown => self.given,
        }
    }

    /// Asks with the request's facts; they borrow a look-up that lives no longer than this call.
    pub(super) fn with_facts<R>(&self, ask: impl FnOnce(&HttpFacts<'_>) -> R) -> R {
        let headers = |name: &str| self.header(name);
        ask(&HttpFacts {
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            method: &self.method,
            headers: &headers,
        })
    }

    /// Asks with the request as policies see it.
    pub(super) fn with_request<R>(&self, ask: impl FnOnce(&mesh_authz::Request<'_>) -> R) -> R {
        // Policies may name these parts of the head as headers.
        let header = |name: &str| match name {
            "host" | ":authority" => vec![self.host.clone()],
            ":method" => vec![self.method.clone()],
            ":path" => vec![self.target()],
            _ => self.lines(name).map(str::to_owned).collect(),
        };
        ask(&mesh_authz::Request {
            host: &self.host,
            method: &self.method,
            path: &self.path,
            header: &header,
        })
    }

    /// Path and query.
    fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> = self.lines(name).collect();
        (!values.is_empty()).then(|| values.join(","))
    }

    fn lines<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let of_name = move |(n, _): &&(String, String)| n == name;
        self.headers.iter().filter(of_name).map(|(_, v)| v.as_str())
    }

    /// The request after a rule's filters, as the next hop sees it.
    pub(super) fn apply(&mut self, filters: &[HttpFilter], prefix: Option<&str>) {
        for filter in filters {
            match filter {
                HttpFilter::RequestHeaders(modifier) => {
                    for change in mesh_routing::header_changes(modifier) {
                        self.change(change);
                    }
                }
                HttpFilter::Rewrite(rewrite) => {
                    if let Some(host) = &rewrite.hostname {
                        self.host = host.to_ascii_lowercase();
                    }
                    if let Some(path) = &rewrite.path {
                        self.path = mesh_routing::rewrite_path(path, &self.path, prefix);
                    }
                }
                HttpFilter::ResponseHeaders(_) | HttpFilter::Redirect(_) => {}
            }
        }
    }

    fn change(&mut self, change: HeaderChange<'_>) {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        match change {
            HeaderChange::Set(name, value) => {
                self.headers.retain(|(n, _)| n != name);
                self.headers.push(pair(name, value));
            }
            HeaderChange::Add(name, value) => self.headers.push(pair(name, value)),
            HeaderChange::Remove(name) => self.headers.retain(|(n, _)| n != name),
        }
    }
}
