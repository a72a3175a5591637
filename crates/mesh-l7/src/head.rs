//! The head of a request, checked: what policies and routes look at, and what is sent on.

use crate::headers;
use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};
use mesh_model::Reason;

/// Why a request is answered by us.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    /// The status, where it is not the reason's own.
    pub(crate) status: Option<StatusCode>,
    pub(crate) detail: String,
}

impl Failure {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            status: None,
            detail: detail.into(),
        }
    }

    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }
}

fn bad(detail: &str) -> Failure {
    Failure::new(Reason::BadRequest, detail)
}

/// What is decided on.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) method: Method,
    /// As the client wrote it, with its port.
    pub(crate) authority: String,
    /// The same without the dot that may end a full name: what policies see.
    judged: String,
    /// Lower case, without port.
    pub(crate) host: String,
    /// Normalised.
    pub(crate) path: String,
    pub(crate) query: Option<String>,
}

impl Head {
    /// Checks a request's head.
    pub(crate) fn check<B>(request: &Request<B>) -> Result<Self, Failure> {
        if request.method() == Method::CONNECT {
            return Err(
                bad("CONNECT is not served here").with_status(StatusCode::METHOD_NOT_ALLOWED)
            );
        }
        if request.headers().get_all(HOST).iter().nth(1).is_some() {
            return Err(bad("more than one Host"));
        }
        let authority = match headers::authority(request) {
            Some(authority) if !authority.is_empty() => authority,
            _ if request.version() <= Version::HTTP_10 => "",
            _ => return Err(bad("no Host")),
        };
        let well_formed = authority
            .parse::<Authority>()
            .is_ok_and(|a| !a.host().is_empty());
        if authority.contains('@') || !(well_formed || authority.is_empty()) {
            return Err(bad("malformed Host"));
        }
        let path = mesh_routing::normalise_path(request.uri().path());
        if !path.starts_with('/') && path != "*" {
            return Err(bad("the path is not absolute"));
        }
        let bare = mesh_routing::without_port(authority);
        let port = authority.strip_prefix(bare).unwrap_or_default();
        // `a.b.` names the same host as `a.b`: neither routes nor policies may tell them apart.
        let host = bare.strip_suffix('.').unwrap_or(bare);
        Ok(Self {
            method: request.method().clone(),
            authority: authority.to_owned(),
            judged: format!("{host}{port}"),
            host: host.to_ascii_lowercase(),
            path: path.into_owned(),
            query: request.uri().query().map(str::to_owned),
        })
    }

    /// The facts for routing.
    pub(crate) fn facts<'a>(
        &'a self,
        header: &'a dyn Fn(&str) -> Option<String>,
    ) -> mesh_plan::HttpFacts<'a> {
        mesh_plan::HttpFacts {
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            method: self.method.as_str(),
            headers: header,
        }
    }

    /// The facts for authorization.
    pub(crate) fn authorization<'a>(
        &'a self,
        header: &'a dyn Fn(&str) -> Vec<String>,
    ) -> mesh_authz::Request<'a> {
        mesh_authz::Request {
            host: &self.judged,
            method: self.method.as_str(),
            path: &self.path,
            header,
        }
    }

    /// What of the head a policy may name as a header, whichever version brought it: `Host` is no
    /// header of HTTP/2, and in HTTP/1.1 it may differ from the target, which decides.
    pub(crate) fn as_header(&self, name: &str) -> Option<String> {
        match name {
            "host" | ":authority" => Some(self.judged.to_ascii_lowercase()),
            ":method" => Some(self.method.as_str().to_owned()),
            ":path" => Some(self.target()),
            _ => None,
        }
    }

    /// Path and query.
    fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    /// Writes authority, path and version into a request, in the form the upstream's version wants.
    pub(crate) fn write<B>(&self, request: &mut Request<B>, http2: bool) -> Result<(), Failure> {
        let path = PathAndQuery::try_from(self.target()).map_err(|_| bad("malformed path"))?;
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = Some(path);
        if http2 {
            parts.scheme = Some(Scheme::HTTP);
            parts.authority = self.authority.parse().ok();
            request.headers_mut().remove(HOST);
            *request.version_mut() = Version::HTTP_2;
        } else {
            self.write_host(request.headers_mut())?;
            *request.version_mut() = Version::HTTP_11;
        }
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_| bad("malformed target"))?;
        Ok(())
    }

    fn write_host(&self, headers: &mut HeaderMap) -> Result<(), Failure> {
        let value = self.authority.parse().map_err(|_| bad("malformed Host"))?;
        headers.insert(HOST, value);
        headers::join_cookies(headers);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, uri: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = method.parse().unwrap();
        *request.uri_mut() = uri.parse().unwrap();
        for host in hosts {
            request.headers_mut().append(HOST, host.parse().unwrap());
        }
        request
    }

    #[test]
    fn the_target_names_the_host_before_the_header() {
        let head = Head::check(&request("GET", "http://A.b:81/x?y=1", &["c"])).unwrap();
        assert_eq!((&*head.authority, &*head.host), ("A.b:81", "a.b"));
        assert_eq!((&*head.path, head.query.as_deref()), ("/x", Some("y=1")));
        let dotted = Head::check(&request("GET", "/", &["A.b.:81"])).unwrap();
        assert_eq!((&*dotted.host, &*dotted.judged), ("a.b", "A.b:81"));
        let head = Head::check(&request("OPTIONS", "*", &["[::1]:80"])).unwrap();
        assert_eq!((&*head.host, &*head.path), ("[::1]", "*"));
    }

    #[test]
    fn doubtful_heads_are_refused() {
        for (method, uri, hosts, status) in [
            ("CONNECT", "a.b:80", &["a.b"][..], Some(405)),
            ("GET", "/", &[], None),
            ("GET", "/", &["a", "b"], None),
            ("GET", "/", &["user@a"], None),
            ("GET", "/", &["a b"], None),
            ("GET", "/", &[""], None),
            ("GET", "/", &["a/b"], None),
        ] {
            let refused = Head::check(&request(method, uri, hosts));
            let failure = refused.expect_err(&format!("{method} {uri} {hosts:?}"));
            assert_eq!(failure.reason, Reason::BadRequest);
            assert_eq!(failure.status.map(|s| s.as_u16()), status);
        }
    }

    #[test]
    fn each_version_gets_its_form() {
        let mut sent = request("GET", "/a/../b?q", &["h:1"]);
        let head = Head::check(&sent).unwrap();
        head.write(&mut sent, true).unwrap();
        assert_eq!(sent.uri(), "http://h:1/b?q");
        assert!(!sent.headers().contains_key(HOST));
        head.write(&mut sent, false).unwrap();
        assert_eq!(sent.uri(), "/b?q");
        assert_eq!(sent.headers()[HOST], "h:1");
    }
}
