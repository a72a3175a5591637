//! Host names with wildcards, and compiled regular expressions that compare by their text.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A Gateway API host name: a precise name, or `*.suffix`. Lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(Arc<str>);

/// Why a text is not a host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a host name (a DNS name, or '*.' and a DNS name)")]
pub struct HostError(String);

impl Host {
    /// The text, lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `*.suffix`.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// Whether a precise, lower-case host (without port) is matched. `*.a.b` matches `x.a.b` and
    /// `y.x.a.b`, never `a.b` (Gateway API, HTTPRouteSpec.hostnames).
    pub fn matches(&self, host: &str) -> bool {
        match self.0.strip_prefix('*') {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => host == &*self.0,
        }
    }

    /// The narrower of two hosts where they overlap, as when a route meets a listener.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        match (self.is_wildcard(), other.is_wildcard()) {
            (false, _) => other.covers(self).then(|| self.clone()),
            (true, false) => self.covers(other).then(|| other.clone()),
            (true, true) if other.covers(self) => Some(self.clone()),
            (true, true) => self.covers(other).then(|| other.clone()),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        self == other
            || match (self.0.strip_prefix('*'), other.0.strip_prefix('*')) {
                (Some(suffix), Some(narrower)) => narrower.ends_with(suffix),
                (Some(suffix), None) => other.0.len() > suffix.len() && other.0.ends_with(suffix),
                (None, _) => false,
            }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let label_ok = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if text.len() <= 253 && name.split('.').all(label_ok) {
            Ok(Self(text.to_ascii_lowercase().into()))
        } else {
            Err(HostError(text.chars().take(64).collect()))
        }
    }
}

/// A compiled regular expression (RE2-like syntax, linear time), matched against the whole text.
#[derive(Clone)]
pub struct Regex {
    source: Arc<str>,
    compiled: regex::Regex,
}

/// Why an expression does not compile, or is too large (over 64 KiB compiled).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("regular expression '{pattern}': {why}")]
pub struct RegexError {
    pattern: String,
    why: String,
}

impl Regex {
    /// Compiles an expression.
    ///
    /// # Errors
    /// When it does not parse, or its program would pass 64 KiB.
    pub fn new(source: &str) -> Result<Self, RegexError> {
        let compile = |text: &str| {
            regex::RegexBuilder::new(text)
                .size_limit(64 * 1024)
                .build()
                .map_err(|e| RegexError {
                    pattern: source.chars().take(128).collect(),
                    why: e.to_string(),
                })
        };
        // By itself first: `a)|(b` is none, but closes the group that anchors it.
        compile(source)?;
        let compiled = compile(&format!("^(?:{source})$"))?;
        Ok(Self {
            source: source.into(),
            compiled,
        })
    }

    /// The expression as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the whole text matches.
    pub fn matches(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Regex {}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_subdomains_only() {
        let host: Host = "*.Example.com".parse().unwrap();
        assert!(host.matches("a.example.com"));
        assert!(host.matches("b.a.example.com"));
        assert!(!host.matches("example.com"));
        assert!(!host.matches("aexample.com"));
    }

    #[test]
    fn intersection_is_the_narrower_host() {
        let host = |t: &str| t.parse::<Host>().unwrap();
        assert_eq!(host("*.a.b").intersect(&host("x.a.b")), Some(host("x.a.b")));
        assert_eq!(host("x.a.b").intersect(&host("*.a.b")), Some(host("x.a.b")));
        assert_eq!(
            host("*.a.b").intersect(&host("*.c.a.b")),
            Some(host("*.c.a.b"))
        );
        assert_eq!(host("*.a.b").intersect(&host("a.b")), None);
        assert_eq!(host("x.a.b").intersect(&host("y.a.b")), None);
    }

    #[test]
    fn regex_is_anchored_and_bounded() {
        assert!(Regex::new("/v[0-9]+").unwrap().matches("/v12"));
        assert!(!Regex::new("/v[0-9]+").unwrap().matches("/v12/x"));
        assert!(Regex::new("(").is_err());
        for escaping in ["/a)|(?:/b", "/a)|.*|(/b", "/a)(?:/b"] {
            assert!(Regex::new(escaping).is_err(), "{escaping} was taken");
        }
        assert!(Regex::new("(a{1000}){1000}").is_err());
    }
}
