//! Paths: normalised before anything is decided, rewritten by routes, and put into redirects.

use crate::input::lines;
use http::Uri;
use mesh_model::{PathModifier, Redirect};
use mesh_routing::normalise_path as normalise;
use mesh_routing::{RedirectFrom, redirect_location, rewrite_path};

/// A normal path has no way up and no second spelling, a rewritten one is absolute and keeps the rest,
/// and a redirect leads to the host it names. Path, prefix, new prefix and query, a line each.
pub fn paths(data: &[u8]) {
    let Some(mut lines) = lines(data) else { return };
    let path = lines.next().unwrap_or_default();
    let normal = normalise(path);
    assert_eq!(normalise(&normal), normal, "of {path}");
    if !path.starts_with('/') {
        return assert_eq!(normal, path);
    }
    is_normal(&normal);
    let (prefix, new) = (lines.next(), lines.next().unwrap_or_default());
    rewritten(&normal, prefix, new);
    redirected(&normal, prefix, new, lines.next());
}

fn is_normal(path: &str) {
    assert!(path.starts_with('/') && !path.contains('\\'), "{path}");
    assert!(
        path.split('/').all(|part| part != "." && part != ".."),
        "{path}"
    );
    let mut escapes = path.split('%');
    escapes.next();
    for after in escapes {
        let digits = after.as_bytes().get(..2).expect("two digits");
        let upper = |b: &u8| b.is_ascii_digit() || (b'A'..=b'F').contains(b);
        assert!(digits.iter().all(upper), "{path}");
        let digits = std::str::from_utf8(digits).expect("digits");
        let octet = u8::from_str_radix(digits, 16).expect("a number");
        let plain = octet.is_ascii_alphanumeric() || b"-._~\\".contains(&octet);
        assert!(!plain, "{path} holds {octet} in disguise");
    }
}

fn rewritten(path: &str, prefix: Option<&str>, new: &str) {
    let full = rewrite_path(&PathModifier::ReplaceFull(new.into()), path, prefix);
    assert!(full.starts_with('/') && full.ends_with(new));
    let by_prefix = rewrite_path(&PathModifier::ReplacePrefix(new.into()), path, prefix);
    assert!(by_prefix.starts_with('/'));
    let elements = prefix.map(|p| p.trim_end_matches('/'));
    match elements.and_then(|p| path.strip_prefix(p)) {
        // What routes match: whole elements.
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            assert!(by_prefix.ends_with(rest), "{path} {prefix:?} {new}");
        }
        Some(_) => {}
        None => assert_eq!(by_prefix, path),
    }
}

fn redirected(path: &str, prefix: Option<&str>, new: &str, query: Option<&str>) {
    let from = RedirectFrom {
        scheme: "http",
        host: "shop.example",
        port: 8080,
        path,
        query,
        prefix,
    };
    for path in [
        None,
        Some(PathModifier::ReplaceFull(new.into())),
        Some(PathModifier::ReplacePrefix(new.into())),
    ] {
        let redirect = Redirect {
            scheme: None,
            hostname: None,
            path,
            port: None,
            status: 302,
        };
        let location = redirect_location(&redirect, &from);
        if let Ok(uri) = location.parse::<Uri>() {
            assert_eq!(
                uri.authority().map(|a| a.as_str()),
                Some("shop.example:8080")
            );
        }
    }
}
