//! What would happen to a connection or request, hop by hop, by the functions that carry traffic.

mod arrive;
mod describe;
mod display;
mod gateway;
mod message;
mod question;
mod walk;

use mesh_model::{Reason, Snapshot};
use serde::{Serialize, Serializer};
use walk::Walk;

/// The question.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExplainRequest {
    /// Who asks: a pod `namespace/name`, or `gateway:namespace/name[/listener]` for an internet
    /// client of that gateway, or the IP of a client that the mesh does not know.
    pub from: String,
    /// What for: a service (or pod) `namespace/name`, a host name, a virtual or pod IP.
    pub to: String,
    /// The port asked for.
    pub port: u16,
    /// Method, when it is an HTTP request; `GET` when only a path is given.
    pub method: Option<String>,
    /// Path with optional query; `/` when only a method is given.
    pub path: Option<String>,
    /// Host header; else the name asked for.
    pub host: Option<String>,
    /// Request headers.
    pub headers: Vec<(String, String)>,
}

/// The layer at which a proxy looks at the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Layer {
    /// Connections.
    L4,
    /// HTTP requests.
    L7,
}

/// One endpoint and its share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndpointShare {
    /// The workload, or the backend service of a route.
    pub name: String,
    /// Its address, for an endpoint.
    pub address: Option<String>,
    /// Its share relative to the others.
    pub weight: u32,
}

/// What one proxy does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// Which proxy, such as `ztunnel of demo/frontend`.
    pub proxy: String,
    /// The layer it works at.
    pub layer: Layer,
    /// The identity it presents to the next hop; where the way ends, the one presented to it. None:
    /// plain text.
    pub presented: Option<String>,
    /// The identities of which the next hop must prove one.
    pub expected: Vec<String>,
    /// The policy that decided here, and how.
    pub policy: Option<String>,
    /// The route rule that took the request.
    pub route: Option<String>,
    /// What is chosen from.
    pub endpoints: Vec<EndpointShare>,
    /// What happens, in words.
    pub detail: String,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What each proxy does, in order.
    pub hops: Vec<Hop>,
    /// Whether the traffic arrives, or is answered with a redirect on its way.
    pub allowed: bool,
    /// The code.
    #[serde(serialize_with = "code")]
    pub reason: Reason,
    /// Why, in words.
    pub detail: String,
}

fn code<S: Serializer>(reason: &Reason, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(reason.code())
}

/// Answers the question. A question that cannot be understood (an unknown pod, a name that does not
/// resolve) is answered too: not allowed, with the reason and no hops.
pub fn explain(snapshot: &Snapshot, request: &ExplainRequest) -> Explanation {
    let mut walk = Walk::new(snapshot, request);
    let end = walk.run(request);
    let (allowed, reason, detail) = match end {
        Ok(detail) => (true, Reason::Ok, detail),
        Err(refusal) => (false, refusal.reason, refusal.detail),
    };
    Explanation {
        hops: walk.into_hops(),
        allowed,
        reason,
        detail,
    }
}

#[cfg(test)]
mod tests;
