//! Filters on real header maps; what they do is data from mesh-routing.

use crate::head::{Failure, Head};
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use mesh_model::{HeaderModifier, HttpFilter, Reason, UrlRewrite};
use mesh_routing::HeaderChange;

/// Makes the changes of a modifier. A name or value that no header may hold is left out: the control
/// plane refuses such filters, so this is the second line.
pub(crate) fn modify(headers: &mut HeaderMap, modifier: &HeaderModifier) {
    for change in mesh_routing::header_changes(modifier) {
        match change {
            HeaderChange::Set(name, value) => {
                if let Some((name, value)) = header(name, value) {
                    headers.insert(name, value);
                }
            }
            HeaderChange::Add(name, value) => {
                if let Some((name, value)) = header(name, value) {
                    headers.append(name, value);
                }
            }
            HeaderChange::Remove(name) => {
                headers.remove(name);
            }
        }
    }
}

fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((name.parse().ok()?, value.parse().ok()?))
}

/// Applies the request's side of the filters, in order.
pub(crate) fn on_request(
    filters: &[HttpFilter],
    prefix: Option<&str>,
    headers: &mut HeaderMap,
    head: &mut Head,
) -> Result<(), Failure> {
    for filter in filters {
        match filter {
            HttpFilter::RequestHeaders(modifier) => {
                modify(headers, modifier);
                // `set: Host` is a rewrite of the host by another name.
                if let Some(host) = changed_host(modifier, headers) {
                    head.authority = host;
                }
            }
            HttpFilter::Rewrite(rewrite) => apply(rewrite, prefix, head),
            HttpFilter::ResponseHeaders(_) => {}
            HttpFilter::Redirect(_) => {
                let detail = "a redirect among the filters of a forwarded request";
                return Err(Failure::new(Reason::Internal, detail));
            }
        }
    }
    Ok(())
}

fn changed_host(modifier: &HeaderModifier, headers: &HeaderMap) -> Option<String> {
    modifier
        .set
        .iter()
        .any(|h| h.name.eq_ignore_ascii_case("host"))
        .then(|| headers.get(HOST)?.to_str().ok().map(str::to_owned))
        .flatten()
}

fn apply(rewrite: &UrlRewrite, prefix: Option<&str>, head: &mut Head) {
    if let Some(host) = &rewrite.hostname {
        head.authority = host.to_string();
    }
    if let Some(path) = &rewrite.path {
        head.path = mesh_routing::rewrite_path(path, &head.path, prefix);
    }
}

/// Applies the response's side of the filters, in order.
pub(crate) fn on_response(filters: &[HttpFilter], headers: &mut HeaderMap) {
    for filter in filters {
        if let HttpFilter::ResponseHeaders(modifier) = filter {
            modify(headers, modifier);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use mesh_model::{Header, PathModifier};

    #[test]
    fn filters_change_head_and_headers_in_order() {
        let mut request = Request::get("http://a.b/old/x?q=1").body(()).unwrap();
        let mut head = Head::check(&request).unwrap();
        let set = |name: &str, value: &str| Header {
            name: name.into(),
            value: value.into(),
        };
        let filters = [
            HttpFilter::RequestHeaders(HeaderModifier {
                set: vec![set("x-a", "1"), set("bad name", "1")],
                add: vec![set("x-a", "2")],
                remove: vec!["x-gone".into()],
            }),
            HttpFilter::Rewrite(UrlRewrite {
                hostname: Some("c.d".into()),
                path: Some(PathModifier::ReplacePrefix("/new".into())),
            }),
        ];
        request.headers_mut().insert("x-gone", "1".parse().unwrap());
        on_request(&filters, Some("/old"), request.headers_mut(), &mut head).unwrap();
        let values: Vec<_> = request.headers().get_all("x-a").iter().collect();
        assert_eq!(values, ["1", "2"]);
        assert!(!request.headers().contains_key("x-gone"));
        assert_eq!((&*head.authority, &*head.path), ("c.d", "/new/x"));
    }
}
