//! What a route hangs on: listeners of Gateways, or Services.

use super::gateway::{Gateways, ListenerInfo};
use super::output::{Condition, Output};
use super::service::Services;
use super::waypoint::namespace_allowed;
use super::{CLASS_GATEWAY, Mesh};
use crate::objects::Objects;
use gateway_api::httproutes::HttpRouteParentRefs;
use mesh_model::{Host, ListenerProtocol, ObjectName, ParentRef};

const GROUP: &str = "gateway.networking.k8s.io";

/// A route asking for its parents.
pub(super) struct Asking<'a> {
    /// `HTTPRoute` or `TCPRoute`.
    pub(super) kind: &'static str,
    pub(super) name: &'a ObjectName,
    pub(super) hostnames: &'a [Host],
}

/// Everything a route can hang on.
pub(super) struct Parents<'a> {
    objects: &'a Objects,
    mesh: &'a Mesh,
    gateways: &'a Gateways<'a>,
    services: &'a Services,
}

impl<'a> Parents<'a> {
    pub(super) fn new(
        objects: &'a Objects,
        mesh: &'a Mesh,
        gateways: &'a Gateways<'a>,
        services: &'a Services,
    ) -> Self {
        Self {
            objects,
            mesh,
            gateways,
            services,
        }
    }

    /// The parents that take the route; a condition says so of each it asks for, but for those of
    /// other controllers.
    pub(super) fn accepted(
        &self,
        asking: &Asking<'_>,
        refs: &[HttpRouteParentRefs],
        out: &mut Output,
    ) -> Vec<ParentRef> {
        let mut all = Vec::new();
        for r in refs {
            let namespace = r.namespace.as_deref().unwrap_or(&asking.name.namespace);
            let name = ObjectName::new(namespace, r.name.as_str());
            let group = r.group.as_deref().unwrap_or(GROUP);
            let kind = r.kind.as_deref().unwrap_or("Gateway");
            let found = match (group, kind) {
                (GROUP, "Gateway") if self.is_foreign(&name) => continue,
                (GROUP, "Gateway") => self.gateway(asking, r, &name),
                ("" | "core", "Service") => self.service(asking, r, &name),
                _ => Err(("InvalidKind", format!("{kind} of group '{group}'"))),
            };
            let about = match &r.section_name {
                Some(section) => format!("{kind} {name}/{section}"),
                None => format!("{kind} {name}"),
            };
            let condition = match found {
                Ok(parents) => {
                    all.extend(parents);
                    Condition::new("Accepted", true, "Accepted", "")
                }
                Err((reason, message)) => Condition::new("Accepted", false, reason, message),
            };
            out.condition(asking.kind, asking.name, condition.about(&about));
        }
        all
    }

    fn is_foreign(&self, name: &ObjectName) -> bool {
        let gateway = self.objects.gateways.get(name);
        gateway.is_some_and(|g| g.spec.gateway_class_name != CLASS_GATEWAY)
    }

    fn gateway(
        &self,
        asking: &Asking<'_>,
        r: &HttpRouteParentRefs,
        name: &ObjectName,
    ) -> Result<Vec<ParentRef>, (&'static str, String)> {
        let listeners = self
            .gateways
            .listeners(name)
            .ok_or_else(|| ("NoMatchingParent", format!("no Gateway {name}")))?;
        let asked = |l: &&ListenerInfo<'_>| {
            let (section, port) = (r.section_name.as_deref(), r.port);
            section.is_none_or(|s| s == &*l.listener.key.name)
                && port.is_none_or(|p| p == i32::from(l.listener.port))
        };
        let asked: Vec<_> = listeners.iter().filter(asked).collect();
        if asked.is_empty() {
            let message = format!("Gateway {name} has no such working listener");
            return Err(("NoMatchingParent", message));
        }
        let allowed: Vec<_> = asked
            .into_iter()
            .filter(|l| self.allows(l, asking, name))
            .collect();
        if allowed.is_empty() {
            let message = "no listener allows routes of this kind and namespace".to_owned();
            return Err(("NotAllowedByListeners", message));
        }
        let hosted: Vec<_> = allowed.into_iter().filter(|l| hosts(l, asking)).collect();
        if hosted.is_empty() {
            let message = "no host of the route is one of the listener's".to_owned();
            return Err(("NoMatchingListenerHostname", message));
        }
        let parent = |l: &ListenerInfo<'_>| ParentRef::Gateway {
            name: name.clone(),
            section: Some(l.listener.key.name.clone()),
            port: None,
        };
        Ok(hosted.into_iter().map(parent).collect())
    }

    fn allows(&self, l: &ListenerInfo<'_>, asking: &Asking<'_>, gateway: &ObjectName) -> bool {
        let by_protocol = match l.listener.protocol {
            ListenerProtocol::Http | ListenerProtocol::Https => asking.kind == "HTTPRoute",
            ListenerProtocol::Tcp => asking.kind == "TCPRoute",
            ListenerProtocol::TlsPassthrough => asking.kind == "TLSRoute",
        };
        let routes = l.object.allowed_routes.as_ref();
        let kinds = routes.and_then(|r| r.kinds.as_ref());
        let by_kind = kinds.is_none_or(|kinds| {
            kinds
                .iter()
                .any(|k| k.group.as_deref().unwrap_or(GROUP) == GROUP && k.kind == asking.kind)
        });
        let namespaces = routes.and_then(|r| r.namespaces.as_ref());
        let (own, other) = (&gateway.namespace, &asking.name.namespace);
        by_protocol && by_kind && namespace_allowed(self.objects, namespaces, own, other)
    }

    fn service(
        &self,
        asking: &Asking<'_>,
        r: &HttpRouteParentRefs,
        name: &ObjectName,
    ) -> Result<Vec<ParentRef>, (&'static str, String)> {
        let info = self.services.of_object(name).ok_or_else(|| {
            (
                "NoMatchingParent",
                format!(
                    "no Service {}",
                    self.mesh.service_name(&name.namespace, &name.name)
                ),
            )
        })?;
        if name.namespace != asking.name.namespace {
            // Such a route would count for clients of its own namespace only (GEP-1294).
            let message = "routes of another namespace than the Service's are not supported";
            return Err(("UnsupportedValue", message.to_owned()));
        }
        let port = match r.port {
            None => None,
            Some(port) => {
                let port = u16::try_from(port).ok();
                let known = port.filter(|p| info.ports.iter().any(|i| i.port.service_port == *p));
                let known = known.ok_or_else(|| {
                    (
                        "NoMatchingParent",
                        format!("Service {name} has no port {}", r.port.unwrap_or(0)),
                    )
                })?;
                Some(known)
            }
        };
        Ok(vec![ParentRef::Service {
            name: info.name.clone(),
            port,
        }])
    }
}

fn hosts(l: &ListenerInfo<'_>, asking: &Asking<'_>) -> bool {
    match &l.listener.hostname {
        Some(own) if !asking.hostnames.is_empty() => {
            asking.hostnames.iter().any(|h| h.intersect(own).is_some())
        }
        _ => true,
    }
}
