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
        match &self.presented {
            Some(identity) => line("identity", identity)?,
            // A hop that got no further than its plan has met nobody to present anything to.
            None if self.policy.is_none() && self.endpoints.is_empty() => {}
            None => line("identity", "none (plain text)")?,
        }
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
            let label = match endpoint.address {
                Some(_) => "endpoint",
                None => "backend",
            };
            line(label, &endpoint.to_string())?;
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
