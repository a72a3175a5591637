//! The head of an HTTP request, as mesh-l7 takes it from its codecs.

use crate::input::lines;
use crate::l7::head::Head;
use crate::l7::headers;
use http::header::HOST;
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};

/// A head that is taken says the same to whoever gets it next, in either version of HTTP: what was
/// decided on is what is served. Method, target, version and header fields, a line each.
pub fn request_head(data: &[u8]) {
    let Some(mut request) = request(data) else {
        return;
    };
    let Ok(head) = Head::check(&request) else {
        return;
    };
    assert_eq!(head.host, head.host.to_ascii_lowercase());
    assert!(head.path == "*" || head.path.starts_with('/'));
    let before: Vec<_> = request.headers().keys().cloned().collect();
    headers::strip_hop_by_hop(request.headers_mut());
    for name in ["connection", "transfer-encoding", "upgrade", "keep-alive"] {
        assert!(
            !request.headers().contains_key(name),
            "{name} of {before:?}"
        );
    }
    headers::set_edge(request.headers_mut(), [10, 0, 0, 1].into(), true);
    let proto = headers::joined(request.headers(), "x-forwarded-proto");
    assert_eq!(proto.as_deref(), Some("https"));
    let chain = headers::joined(request.headers(), "x-forwarded-for");
    assert!(chain.is_some_and(|chain| chain.ends_with("10.0.0.1")));
    for http2 in [true, false] {
        let mut next = request.clone();
        if head.write(&mut next, http2).is_err() || head.authority.is_empty() {
            continue;
        }
        let again = Head::check(&next).expect("a head of ours");
        assert_eq!((&again.host, &again.path), (&head.host, &head.path));
        assert_eq!((&again.query, &again.method), (&head.query, &head.method));
        assert_eq!(again.authority, head.authority);
        assert!(http2 || next.headers().get_all(HOST).iter().count() == 1);
    }
}

fn request(data: &[u8]) -> Option<Request<()>> {
    let mut lines = lines(data)?;
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(lines.next()?.as_bytes()).ok()?;
    *request.uri_mut() = lines.next()?.parse::<Uri>().ok()?;
    *request.version_mut() = match lines.next()? {
        "1.0" => Version::HTTP_10,
        "2" => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    for line in lines.take(16) {
        let (name, value) = line.split_once(':')?;
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let value = HeaderValue::from_str(value.trim()).ok()?;
        request.headers_mut().append(name, value);
    }
    Some(request)
}
