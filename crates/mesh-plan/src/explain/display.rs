//! The explanation as text for people.

use super::{EndpointShare, Explanation, Hop, Layer};
use std::fmt;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.allowed { "allowed" } else { "denied" };
        writeln!(f, "{verdict} ({}): {}", self.reason.code(), self.detail)?;
        for (n, hop) in self.hops.iter().enumerate() {
            writeln!(f, "{:>3}. {}", n + 1, hop)?;
        }
        Ok(())
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L4 => "L4",
            Self::L7 => "L7",
        })
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.proxy, self.layer)?;
        let mut line = |label: &str, text: &str| write!(f, "\n       {label:<9} {text}");
        line(
            "identity",
            self.presented.as_deref().unwrap_or("none (plain text)"),
        )?;
        for expected in &self.expected {
            line("expects", expected)?;
        }
        if let Some(policy) = &self.policy {
            line("policy", policy)?;
        }
        if let Some(route) = &self.route {
            line("route", route)?;
        }
        for endpoint in &self.endpoints {
            line("endpoint", &endpoint.to_string())?;
        }
        line("result", &self.detail)
    }
}

impl fmt::Display for EndpointShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(address) = &self.address {
            write!(f, " at {address}")?;
        }
        write!(f, ", weight {}", self.weight)
    }
}
