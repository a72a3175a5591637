//! Translation of each kind: YAML in, model out.

mod gateways;
mod networks;
mod policies;
mod services;
mod workloads;

use super::*;
use crate::objects::{Objects, read};
use mesh_model::{
    AuthorizationPolicy, HttpRouteRule, ObjectName, Resource, ResourceKey, ResourceKind, Service,
    Workload,
};

fn mesh() -> Mesh {
    Mesh {
        trust_domain: "cluster.local".into(),
        cluster: "Kubernetes".into(),
        network: "".into(),
        root_namespace: "istio-system".into(),
        domain: "cluster.local".into(),
        encrypt_same_node: false,
    }
}

/// Reads and translates several texts.
fn translated(texts: &[&str]) -> Translation {
    let mut objects = Objects::default();
    for text in texts {
        for object in read(text).unwrap_or_else(|e| panic!("{e}\n{text}")).objects {
            objects.insert(object);
        }
    }
    translate(&objects, &mesh())
}

impl Translation {
    fn get(&self, kind: ResourceKind, name: &str) -> Option<&Resource> {
        let name = name.into();
        self.resources.get(&ResourceKey { kind, name })
    }

    fn workload(&self, uid: &str) -> &Workload {
        match self.get(ResourceKind::Workload, uid) {
            Some(Resource::Workload(w)) => w,
            _ => panic!("no workload {uid} among {:?}", self.resources.keys()),
        }
    }

    fn pod(&self, name: &str) -> &Workload {
        self.workload(&format!("Kubernetes//Pod/{name}"))
    }

    fn service(&self, name: &str) -> &Service {
        match self.get(ResourceKind::Service, name) {
            Some(Resource::Service(s)) => s,
            _ => panic!("no service {name} among {:?}", self.resources.keys()),
        }
    }

    fn policy(&self, name: &str) -> Option<&AuthorizationPolicy> {
        match self.get(ResourceKind::Policy, name) {
            Some(Resource::Policy(p)) => Some(p),
            _ => None,
        }
    }

    fn http_policy(&self, name: &str) -> Option<&AuthorizationPolicy> {
        match self.get(ResourceKind::HttpPolicy, name) {
            Some(Resource::HttpPolicy(p)) => Some(p),
            _ => None,
        }
    }

    fn http_rule(&self, name: &str) -> Option<&HttpRouteRule> {
        match self.get(ResourceKind::HttpRoute, name) {
            Some(Resource::HttpRoute(r)) => Some(r),
            _ => None,
        }
    }

    /// The conditions of a kind of an object.
    fn conditions(&self, object: &str, kind: &str) -> Vec<&Condition> {
        let of = self
            .status
            .iter()
            .filter(|s| s.object.to_string() == object);
        of.flat_map(|s| &s.conditions)
            .filter(|c| c.kind == kind)
            .collect()
    }

    fn reason(&self, object: &str, kind: &str) -> &'static str {
        let conditions = self.conditions(object, kind);
        conditions.last().map_or("none", |c| c.reason)
    }
}

fn name(text: &str) -> ObjectName {
    text.parse().unwrap()
}

/// A pod with an address; labels and annotations as flow mappings.
fn pod(name: &str, ip: &str, labels: &str, annotations: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: demo, labels: {labels}, annotations: {annotations}}}
spec:
  nodeName: node-1
  serviceAccountName: {name}-account
  containers:
  - name: app
    ports:
    - {{name: web, containerPort: 8080}}
status:
  phase: Running
  podIP: {ip}
  conditions:
  - {{type: Ready, status: \"True\"}}
"
    )
}

/// A service over pods labelled `app: <name>`; `more` goes into metadata.
fn service(name: &str, ip: &str, more: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: demo{more}}}
spec:
  clusterIP: {ip}
  selector: {{app: {name}}}
  ports:
  - {{name: http, port: 80, targetPort: web}}
  - {{name: grpc-admin, port: 81, targetPort: 9090}}
"
    )
}

#[test]
fn the_same_objects_give_the_same_resources() {
    let texts = [
        &*pod("a", "10.0.0.1", "{app: a}", "{}"),
        &*service("a", "10.96.0.1", ""),
    ];
    assert_eq!(translated(&texts), translated(&texts));
}

#[test]
fn the_demo_translates_without_a_mistake() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/demo");
    let texts: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let made = translated(&texts);
    assert!(
        made.pod("demo/orders")
            .authorization_policies
            .contains(&name("demo/orders-through-waypoint"))
    );
    assert!(
        made.service("demo/orders.demo.svc.cluster.local")
            .waypoint
            .is_some()
    );
    assert_eq!(
        made.reason("HTTPRoute demo/reviews-split", "Accepted"),
        "Accepted"
    );
}
