//! TCPRoute: one resource a rule.

use super::Mesh;
use super::backend::Backends;
use super::http_route::weight;
use super::output::Output;
use super::route_parents::{Asking, Parents};
use super::service::Services;
use crate::objects::{Objects, created_unix_s};
use mesh_model::{Resource, RouteRuleName, TcpRouteRule, WeightedBackend};
use std::sync::Arc;

const KIND: &str = "TCPRoute";

pub(super) fn translate(
    objects: &Objects,
    parents: &Parents<'_>,
    services: &Services,
    mesh: &Mesh,
    out: &mut Output,
) {
    for (name, route) in &objects.tcp_routes {
        let asking = Asking {
            kind: KIND,
            name,
            hostnames: &[],
        };
        let accepted = parents.accepted(&asking, &route.spec.parent_refs, out);
        if accepted.is_empty() {
            continue;
        }
        let backends = Backends {
            objects,
            services,
            mesh,
            kind: KIND,
            route: name,
        };
        for (number, object) in (0_u16..).zip(&route.spec.rules) {
            let refs = object.backend_refs.iter().enumerate();
            let backends = refs.map(|(i, r)| WeightedBackend {
                backend: backends.resolve(
                    r,
                    &format!("spec.rules[{number}].backendRefs[{i}]"),
                    out,
                ),
                weight: weight(r.weight),
                filters: Vec::new(),
            });
            let rule = TcpRouteRule {
                name: RouteRuleName {
                    route: name.clone(),
                    rule: number,
                },
                created_unix_s: created_unix_s(&route.metadata),
                parents: accepted.clone(),
                backends: backends.collect(),
            };
            out.put(Resource::TcpRoute(Arc::new(rule)));
        }
        out.references_hold(KIND, name);
    }
}
