//! `mesh explain` and `mesh status` against a running control plane.

use crate::plant::{MESH, Plant};
use serde_json::Value;

#[test]
fn explain_tells_the_verdict_by_text_and_exit_code() {
    let plant = Plant::start(&[("mesh.yaml", MESH)]).unwrap();
    let allowed = plant.mesh(&["explain", "demo/client", "web"]).unwrap();
    let text = String::from_utf8_lossy(&allowed.stdout).into_owned();
    assert_eq!(allowed.status.code(), Some(0), "{text}");
    for part in [
        "ztunnel of demo/client",
        "ztunnel of demo/web",
        "demo/readers",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }

    let denied = plant
        .mesh(&["explain", "--json", "demo/other", "web:80"])
        .unwrap();
    assert_eq!(denied.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&denied.stdout).unwrap();
    assert_eq!(answer["allowed"], Value::Bool(false));
    assert_eq!(answer["reason"], "policy_denied");

    let unreadable = plant.mesh(&["explain", "demo/client", "nowhere"]).unwrap();
    assert_eq!(unreadable.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unreadable.stderr).contains("nowhere"));
}

#[test]
fn status_lists_what_is_served_and_fails_when_it_does_not_hold() {
    let plant = Plant::start(&[("mesh.yaml", MESH)]).unwrap();
    let good = plant.mesh(&["status"]).unwrap();
    let text = String::from_utf8_lossy(&good.stdout).into_owned();
    assert!(good.status.success(), "{text}");
    assert!(
        text.contains("demo/web") && text.contains("endpoints 1/1"),
        "{text}"
    );

    let route = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: nowhere, namespace: demo}
spec:
  parentRefs: [{group: \"\", kind: Service, name: web}]
  rules: [{backendRefs: [{name: missing, port: 80}]}]
";
    plant.write("route.yaml", route).unwrap();
    plant
        .wait("status tells the backend that does not hold", |plant| {
            let output = plant.mesh(&["status", "--json"])?;
            let status: Value = serde_json::from_slice(&output.stdout)?;
            let invalid = status["routes"][0]["invalid"][0]
                .as_str()
                .unwrap_or_default();
            Ok(output.status.code() == Some(1) && invalid.contains("missing"))
        })
        .unwrap();
    let config = plant.debug_config().unwrap().to_string();
    assert!(
        config.contains("ResolvedRefs") && config.contains("BackendNotFound"),
        "{config}"
    );
}

#[test]
fn a_wrong_token_is_refused() {
    let plant = Plant::start(&[("mesh.yaml", MESH)]).unwrap();
    std::fs::write(plant.path("strata-system-mesh-cli"), "not-a-token").unwrap();
    let refused = plant.mesh(&["status"]).unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("authentication"), "{text}");
}
