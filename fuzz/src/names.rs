//! Names and expressions: what certificates, routes and policies are made of.

use crate::input::lines;
use mesh_model::{Host, ObjectName, Regex, ServiceName, SpiffeId};

/// SPIFFE ids, names of objects and services, host names: what is read is written back the same, and
/// host names meet where both match. One name on the first line, a second host on the second.
pub fn names(data: &[u8]) {
    let Some(mut lines) = lines(data) else { return };
    let text = lines.next().unwrap_or_default();
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.to_string(), text);
        let again = SpiffeId::new(id.trust_domain(), id.namespace(), id.service_account());
        assert_eq!(again.as_ref(), Ok(&id));
        assert_eq!(format!("spiffe://{}", id.principal()), text);
    }
    if let Ok(name) = text.parse::<ObjectName>() {
        assert_eq!(name.to_string(), text);
    }
    if let Ok(name) = text.parse::<ServiceName>() {
        assert_eq!(name.to_string().parse::<ServiceName>().as_ref(), Ok(&name));
    }
    let Ok(host) = text.parse::<Host>() else {
        return;
    };
    assert_eq!(host.as_str(), text.to_ascii_lowercase());
    assert_eq!(host.as_str().parse::<Host>().as_ref(), Ok(&host));
    assert_eq!(host.intersect(&host).as_ref(), Some(&host));
    assert!(host.is_wildcard() || host.matches(host.as_str()));
    if let Some(Ok(other)) = lines.next().map(str::parse::<Host>) {
        hosts_meet(&host, &other);
    }
}

fn hosts_meet(a: &Host, b: &Host) {
    let both = a.intersect(b);
    assert_eq!(both, b.intersect(a), "{a} and {b}");
    if !b.is_wildcard() {
        assert_eq!(a.matches(b.as_str()), both.as_ref() == Some(b), "{a} {b}");
    }
    if let Some(both) = both {
        let some = both.as_str().replace('*', "some");
        for host in [a, b, &both] {
            assert!(host.matches(&some), "{host} does not match {some}");
        }
    }
}

/// Regular expressions of routes: one that is taken is one by itself, and matches whole texts only.
/// The expression on the first line, a text on the second.
pub fn regex(data: &[u8]) {
    let Some(mut lines) = lines(data) else { return };
    let source = lines.next().unwrap_or_default();
    let Ok(expression) = Regex::new(source) else {
        return;
    };
    assert_eq!(expression.source(), source);
    let alone = regex::Regex::new(source);
    let alone = alone.unwrap_or_else(|e| panic!("taken, though it is none by itself: {e}"));
    let text = lines.next().unwrap_or_default();
    if expression.matches(text) {
        assert!(alone.is_match(text), "/{source}/ is not in '{text}'");
    }
}
