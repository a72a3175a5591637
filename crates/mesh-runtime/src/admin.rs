//! The admin HTTP shell: small pages on loopback or a metrics port, over HTTP/1.1.

mod serve;

pub use serve::serve_admin;

use crate::Readiness;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

type Handler = Arc<dyn Fn(&str) -> AdminResponse + Send + Sync>;

/// An answer of an admin page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminResponse {
    /// HTTP status.
    pub status: u16,
    /// `content-type`.
    pub content_type: &'static str,
    /// Body.
    pub body: String,
}

impl AdminResponse {
    /// 200 with plain text.
    pub fn text(body: impl Into<String>) -> Self {
        Self::status(200, body)
    }

    /// Plain text with a status.
    pub fn status(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }

    /// 200 with JSON, indented for people; 500 when the value cannot be written as JSON.
    pub fn json(value: &impl Serialize) -> Self {
        match serde_json::to_string_pretty(value) {
            Ok(body) => Self {
                status: 200,
                content_type: "application/json",
                body,
            },
            Err(error) => Self::status(500, format!("cannot be shown as JSON: {error}\n")),
        }
    }

    /// 200 with metrics in the OpenMetrics text format.
    pub fn metrics(body: String) -> Self {
        Self {
            status: 200,
            content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
            body,
        }
    }
}

/// The pages of one admin port. Handlers get the query (without `?`, empty when there is none);
/// they must not block, for they run on the control runtime.
#[derive(Clone, Default)]
pub struct AdminRoutes {
    get: BTreeMap<&'static str, Handler>,
    post: BTreeMap<&'static str, Handler>,
}

impl AdminRoutes {
    /// No pages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a page for GET and HEAD.
    #[must_use]
    pub fn get(
        mut self,
        path: &'static str,
        handler: impl Fn(&str) -> AdminResponse + Send + Sync + 'static,
    ) -> Self {
        self.get.insert(path, Arc::new(handler));
        self
    }

    /// Adds an action for POST.
    #[must_use]
    pub fn post(
        mut self,
        path: &'static str,
        handler: impl Fn(&str) -> AdminResponse + Send + Sync + 'static,
    ) -> Self {
        self.post.insert(path, Arc::new(handler));
        self
    }

    /// Adds `GET /healthz/ready`, and `/readyz` as node agents are asked: 200 when ready, else 503 with
    /// what is still missing.
    #[must_use]
    pub fn readiness(self, readiness: &Readiness) -> Self {
        let readiness = readiness.clone();
        let show = move |_: &str| {
            let pending = readiness.pending();
            if pending.is_empty() {
                AdminResponse::text("ready\n")
            } else {
                AdminResponse::status(503, format!("not ready: {}\n", pending.join(", ")))
            }
        };
        self.get("/healthz/ready", show.clone())
            .get("/readyz", show)
    }

    /// The answer to a request.
    fn answer(&self, method: &http::Method, path: &str, query: &str) -> AdminResponse {
        let (here, other) = match *method {
            http::Method::GET | http::Method::HEAD => (&self.get, &self.post),
            http::Method::POST => (&self.post, &self.get),
            _ => return AdminResponse::status(405, "method not allowed\n"),
        };
        if let Some(handler) = here.get(path) {
            return handler(query);
        }
        if other.contains_key(path) {
            return AdminResponse::status(405, "method not allowed\n");
        }
        if path == "/" && *method != http::Method::POST {
            return AdminResponse::text(self.index());
        }
        AdminResponse::status(404, "no such page; / lists them\n")
    }

    fn index(&self) -> String {
        let mut text = String::new();
        for (method, pages) in [("GET", &self.get), ("POST", &self.post)] {
            for path in pages.keys() {
                // Writing to a String cannot fail.
                writeln!(text, "{method:4} {path}").ok();
            }
        }
        text
    }
}
