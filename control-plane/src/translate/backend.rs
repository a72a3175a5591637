//! References to backends.

use super::output::{Condition, Output};
use super::service::{ServiceInfo, Services};
use super::{Mesh, grants};
use crate::objects::Objects;
use gateway_api::httproutes::HttpRouteRulesBackendRefs;
use mesh_model::{Backend, ObjectName};

/// Resolves the references of one route.
pub(super) struct Backends<'a> {
    pub(super) objects: &'a Objects,
    pub(super) services: &'a Services,
    pub(super) mesh: &'a Mesh,
    /// `HTTPRoute` or `TCPRoute`.
    pub(super) kind: &'static str,
    pub(super) route: &'a ObjectName,
}

impl Backends<'_> {
    /// The backend; when the reference does not hold, one that answers with an error, and a
    /// condition that says why.
    pub(super) fn resolve(
        &self,
        r: &HttpRouteRulesBackendRefs,
        field: &str,
        out: &mut Output,
    ) -> Backend {
        match self.find(r) {
            Ok((service, port)) => Backend::Service {
                name: service.name.clone(),
                port,
            },
            Err((reason, why)) => {
                let message = format!("{field}: {why}");
                let condition = Condition::new("ResolvedRefs", false, reason, message);
                out.condition(self.kind, self.route, condition);
                Backend::Invalid { why: why.into() }
            }
        }
    }

    fn find(
        &self,
        r: &HttpRouteRulesBackendRefs,
    ) -> Result<(&ServiceInfo, u16), (&'static str, String)> {
        let own = &*self.route.namespace;
        let namespace = r.namespace.as_deref().unwrap_or(own);
        let (group, kind) = (
            r.group.as_deref().unwrap_or(""),
            r.kind.as_deref().unwrap_or("Service"),
        );
        let service = match (group, kind) {
            ("" | "core", "Service") => {
                self.check_grant(namespace, &r.name)?;
                let name = ObjectName::new(namespace, r.name.as_str());
                let missing = || ("BackendNotFound", format!("Service {name} does not exist"));
                self.services.of_object(&name).ok_or_else(missing)?
            }
            // Istio's way to name a ServiceEntry's host.
            ("networking.istio.io", "Hostname") => {
                let missing = || ("BackendNotFound", format!("host {} is not known", r.name));
                let found = self.services.of_hostname(own, &r.name.to_ascii_lowercase());
                found.ok_or_else(missing)?
            }
            _ => return Err(("InvalidKind", format!("{kind} of group '{group}'"))),
        };
        let port = r
            .port
            .and_then(|p| u16::try_from(p).ok())
            .filter(|p| *p != 0);
        let port = port.ok_or_else(|| ("BackendNotFound", "port is required".to_owned()))?;
        if !service.ports.iter().any(|p| p.port.service_port == port) {
            let host = &service.name.hostname;
            return Err(("BackendNotFound", format!("{host} has no port {port}")));
        }
        Ok((service, port))
    }

    fn check_grant(&self, namespace: &str, name: &str) -> Result<(), (&'static str, String)> {
        let reference = grants::Reference {
            from_kind: self.kind,
            from_namespace: &self.route.namespace,
            to_group: "",
            to_kind: "Service",
            to_namespace: namespace,
            to_name: name,
        };
        if grants::permitted(self.objects, &reference) {
            Ok(())
        } else {
            let host = self.mesh.service_name(namespace, name).hostname;
            Err((
                "RefNotPermitted",
                format!("{host} is not granted by a ReferenceGrant"),
            ))
        }
    }
}
