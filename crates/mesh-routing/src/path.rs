//! Path normalisation, before policies and routes look at a path and before it goes on.
//!
//! What is decided on must be what the application sees, so the normalised path replaces the one
//! that came. As Istio's default (`BASE`): RFC 3986 section 6.2.2 - percent-encoded unreserved
//! characters decoded, hex digits in upper case, dot segments removed - and backslash read as slash.
//! Also as there, `//` stays: to most applications it is another path than `/`.
//! A `%` that begins no escape is encoded, so that a second decoder sees what the first one saw.

use std::borrow::Cow;

/// Normalises an absolute path without query. Other forms (`*`, empty) come back as they are.
pub fn normalise_path(path: &str) -> Cow<'_, str> {
    if !path.starts_with('/') || is_normal(path) {
        return Cow::Borrowed(path);
    }
    Cow::Owned(without_dot_segments(&decoded(path)))
}

/// Whether nothing can change: the common case, told in one pass.
fn is_normal(path: &str) -> bool {
    !path.contains(['%', '\\']) && !path.contains("/.")
}

fn decoded(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\']) {
        let (before, tail) = rest.split_at(at);
        out.push_str(before);
        let mut after = tail.chars();
        if after.next() == Some('\\') {
            out.push('/');
            rest = after.as_str();
            continue;
        }
        match (digit(after.next()), digit(after.next())) {
            (Some(high), Some(low)) => {
                push_octet(&mut out, high, low);
                rest = after.as_str();
            }
            _ => {
                // Encoded, or the next characters could make it an escape that was not there.
                out.push_str("%25");
                rest = tail.strip_prefix('%').unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}

fn digit(c: Option<char>) -> Option<u32> {
    c.and_then(|c| c.to_digit(16))
}

fn push_octet(out: &mut String, high: u32, low: u32) {
    let octet = char::from_u32(high * 16 + low).unwrap_or('%');
    if octet.is_ascii_alphanumeric() || matches!(octet, '-' | '.' | '_' | '~') {
        out.push(octet);
        return;
    }
    // An encoded backslash is a slash to the servers that read backslashes as slashes.
    if octet == '\\' {
        out.push('/');
        return;
    }
    out.push('%');
    for nibble in [high, low] {
        out.extend(char::from_digit(nibble, 16).map(|c| c.to_ascii_uppercase()));
    }
}

/// RFC 3986 section 5.2.4 on an absolute path.
fn without_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let last = segments.len().saturating_sub(1);
    for (n, segment) in segments.into_iter().enumerate() {
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if n == last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in kept {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_usual_evasions_end_at_the_same_path() {
        for (path, want) in [
            ("/admin", "/admin"),
            ("/public/../admin", "/admin"),
            ("/public/%2e%2E/admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("/./admin/.", "/admin/"),
            ("/a/b/..", "/a/"),
            ("/../../x", "/x"),
            ("/..", "/"),
            ("/a\\..\\admin", "/admin"),
            ("/a%5c..%5Cadmin", "/admin"),
            ("/a%2fb", "/a%2Fb"),
            ("/100%", "/100%25"),
            ("/%zz/%4", "/%25zz/%254"),
            ("/%%32e%%32e/admin", "/%252e%252e/admin"),
            ("/a//b", "/a//b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a/...", "/a/..."),
            ("*", "*"),
            ("", ""),
        ] {
            assert_eq!(normalise_path(path), want, "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_path_stays_as_it_is(path in "/[a-c./%2eE5\\\\fF~ü]{0,40}") {
            let once = normalise_path(&path).into_owned();
            prop_assert!(once.starts_with('/'));
            prop_assert!(!once.contains("/../") && !once.ends_with("/.."));
            let twice = normalise_path(&once).into_owned();
            prop_assert_eq!(once, twice);
        }
    }
}
