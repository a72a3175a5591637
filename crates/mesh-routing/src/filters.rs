//! What filters do, as functions from data to data.

use mesh_model::{HeaderModifier, PathModifier, Redirect};

/// One change of a header table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderChange<'a> {
    /// Overwrite all values of the name with one.
    Set(&'a str, &'a str),
    /// Append a value.
    Add(&'a str, &'a str),
    /// Remove all values of the name.
    Remove(&'a str),
}

/// The changes of a modifier, in the order they are to be made: set, add, remove.
pub fn header_changes(modifier: &HeaderModifier) -> impl Iterator<Item = HeaderChange<'_>> {
    let set = modifier.set.iter();
    let add = modifier.add.iter();
    set.map(|h| HeaderChange::Set(&h.name, &h.value))
        .chain(add.map(|h| HeaderChange::Add(&h.name, &h.value)))
        .chain(modifier.remove.iter().map(|n| HeaderChange::Remove(n)))
}

/// The path after a modifier. `path` is without query; `prefix` is the path prefix that the rule
/// matched ([`crate::RouteMatch::prefix`]), which [`PathModifier::ReplacePrefix`] replaces as whole
/// elements; without one it replaces nothing.
pub fn rewrite_path(modifier: &PathModifier, path: &str, prefix: Option<&str>) -> String {
    match modifier {
        PathModifier::ReplaceFull(new) => absolute(new),
        PathModifier::ReplacePrefix(new) => {
            let matched = prefix.map(|p| p.trim_end_matches('/'));
            match matched.and_then(|p| path.strip_prefix(p)) {
                Some(rest) => joined(new, rest),
                None => absolute(path),
            }
        }
    }
}

/// `/xyz` or `/xyz/` and `/bar` give `/xyz/bar`; an empty rest keeps the new prefix as written.
fn joined(prefix: &str, rest: &str) -> String {
    if rest.is_empty() {
        return absolute(prefix);
    }
    let prefix = prefix.trim_end_matches('/');
    absolute(&format!(
        "{prefix}/{}",
        rest.strip_prefix('/').unwrap_or(rest)
    ))
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

/// The request that is redirected.
#[derive(Debug, Clone, Copy)]
pub struct RedirectFrom<'a> {
    /// `http` or `https`, as the client used it.
    pub scheme: &'a str,
    /// Host without port.
    pub host: &'a str,
    /// The listener's port.
    pub port: u16,
    /// Path without query.
    pub path: &'a str,
    /// Query without `?`; it is kept.
    pub query: Option<&'a str>,
    /// The path prefix that the rule matched.
    pub prefix: Option<&'a str>,
}

/// The `Location` of a redirect (Gateway API, `HTTPRequestRedirectFilter`): a given port is used;
/// else that of a given scheme; else the listener's. A scheme's well-known port is left out.
pub fn redirect_location(redirect: &Redirect, from: &RedirectFrom<'_>) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(from.scheme);
    let host = redirect.hostname.as_deref().unwrap_or(from.host);
    let known = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let of_scheme = redirect.scheme.as_ref().and(known);
    let port = redirect.port.or(of_scheme).unwrap_or(from.port);
    let path = match &redirect.path {
        Some(modifier) => rewrite_path(modifier, from.path, from.prefix),
        None => absolute(from.path),
    };
    let mut location = format!("{scheme}://{host}");
    if Some(port) != known {
        location.push_str(&format!(":{port}"));
    }
    location.push_str(&path);
    if let Some(query) = from.query {
        location.push('?');
        location.push_str(query);
    }
    location
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_model::Header;
    use proptest::prelude::*;

    #[test]
    fn a_prefix_is_replaced_as_whole_elements() {
        // The table of Gateway API, HTTPPathModifier.replacePrefixMatch.
        for (path, prefix, new, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
        ] {
            let modifier = PathModifier::ReplacePrefix(new.into());
            let got = rewrite_path(&modifier, path, Some(prefix));
            assert_eq!(got, expected, "{path} {prefix} -> {new}");
        }
        let modifier = PathModifier::ReplacePrefix("/x".into());
        assert_eq!(rewrite_path(&modifier, "/a", None), "/a");
        let modifier = PathModifier::ReplaceFull("/new".into());
        assert_eq!(rewrite_path(&modifier, "/a/b", Some("/a")), "/new");
    }

    #[test]
    fn locations_are_built_of_what_is_given() {
        let from = RedirectFrom {
            scheme: "http",
            host: "shop.example",
            port: 8080,
            path: "/a/b",
            query: Some("q=1"),
            prefix: Some("/a"),
        };
        let plain = Redirect {
            scheme: None,
            hostname: None,
            path: None,
            port: None,
            status: 302,
        };
        let location = |redirect: &Redirect| redirect_location(redirect, &from);
        assert_eq!(location(&plain), "http://shop.example:8080/a/b?q=1");
        let mut to = plain.clone();
        to.scheme = Some("https".into());
        assert_eq!(location(&to), "https://shop.example/a/b?q=1");
        to.port = Some(8443);
        assert_eq!(location(&to), "https://shop.example:8443/a/b?q=1");
        to = plain.clone();
        to.port = Some(80);
        to.hostname = Some("other".into());
        assert_eq!(location(&to), "http://other/a/b?q=1");
        to = plain;
        to.path = Some(PathModifier::ReplacePrefix("/z".into()));
        assert_eq!(location(&to), "http://shop.example:8080/z/b?q=1");
    }

    #[test]
    fn header_changes_come_in_order() {
        let header = |name: &str| Header {
            name: name.into(),
            value: "1".into(),
        };
        let modifier = HeaderModifier {
            remove: vec!["r".into()],
            add: vec![header("a")],
            set: vec![header("s")],
        };
        let changes: Vec<HeaderChange<'_>> = header_changes(&modifier).collect();
        assert_eq!(
            changes,
            [
                HeaderChange::Set("s", "1"),
                HeaderChange::Add("a", "1"),
                HeaderChange::Remove("r")
            ]
        );
    }

    proptest! {
        #[test]
        fn a_rewritten_path_is_absolute_and_keeps_the_rest(
            prefix in "(/[ab]{1,2}){0,2}/?",
            rest in "(/[ab]{0,2}){0,3}",
            new in "(/[xy]{1,2}){0,2}/?",
        ) {
            let path = format!("{}{rest}", prefix.trim_end_matches('/'));
            let modifier = PathModifier::ReplacePrefix(new.into());
            let got = rewrite_path(&modifier, &path, Some(&prefix));
            prop_assert!(got.starts_with('/'));
            prop_assert!(got.ends_with(&rest));
        }
    }
}
