//! Strictness: what is refused, and that the refusal names object and field.

use super::*;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: demo, labels: {app: shop}}
spec:
  clusterIP: 10.96.0.1
  selector: {app: shop}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: admin, port: 81, targetPort: admin}
";

fn refusal(text: &str) -> ReadError {
    read(text).expect_err("was taken")
}

#[test]
fn several_documents_and_lists_are_read() {
    let text = format!(
        "{SERVICE}\n---\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {{name: demo}}\n"
    );
    let ids: Vec<String> = read(&text)
        .unwrap()
        .objects
        .iter()
        .map(|o| o.id().to_string())
        .collect();
    assert_eq!(ids, ["Service demo/shop", "Namespace demo"]);
}

#[test]
fn an_unknown_field_is_named() {
    let error = refusal(&SERVICE.replace("selector", "selektor"));
    assert_eq!(error.object.as_deref(), Some("Service demo/shop"));
    assert_eq!(error.field.as_deref(), Some("spec.selektor"));
    let error = refusal(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: demo}
spec:
  rules:
  - matches:
    - path: {typ: Exact, value: /}
",
    );
    assert_eq!(
        error.field.as_deref(),
        Some("spec.rules[0].matches[0].path.typ")
    );
    let error = refusal(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: demo}
spec:
  rules:
  - from:
    - source: {principal: [x]}
",
    );
    assert_eq!(
        error.field.as_deref(),
        Some("spec.rules[0].from[0].source.principal")
    );
}

#[test]
fn a_wrong_type_is_named() {
    let error = refusal(&SERVICE.replace("port: 80,", "port: eighty,"));
    assert_eq!(
        error.field.as_deref(),
        Some("spec.ports[0].port"),
        "{error}"
    );
}

#[test]
fn an_object_given_twice_is_refused() {
    let error = refusal(&format!("{SERVICE}\n---\n{SERVICE}"));
    assert!(error.to_string().contains("twice"), "{error}");
    assert_eq!(error.object.as_deref(), Some("Service demo/shop"));
}

#[test]
fn unknown_kinds_of_the_meshs_groups_are_refused_and_others_ignored() {
    let error = refusal(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: x}\n",
    );
    assert_eq!(error.field.as_deref(), Some("kind"));
    let file =
        read("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x, namespace: y}\n").unwrap();
    assert_eq!(file.ignored, ["Deployment y/x"]);
}

#[test]
fn names_are_dns_names() {
    let error = refusal(&SERVICE.replace("name: shop", "name: Shop_1"));
    assert_eq!(error.field.as_deref(), Some("metadata.name"));
}

#[test]
fn a_secrets_value_is_not_shown() {
    let error = refusal(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: 12345}\n",
    );
    assert!(!error.to_string().contains("12345"), "{error}");
    assert_eq!(error.field.as_deref(), Some("stringData.password"));
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused_without_panic(text in "(apiVersion: |kind: |metadata: |[a-zA-Z:{}\\[\\],&*!|>'\"%@ \n-]){0,60}") {
        read(&text).ok();
    }
}

#[test]
fn a_bomb_is_refused_before_it_grows() {
    let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for n in 1..12 {
        let of: Vec<String> = (0..10).map(|_| format!("*a{}", n - 1)).collect();
        text.push_str(&format!("a{n}: &a{n} [{}]\n", of.join(",")));
    }
    refusal(&text);
    refusal(&format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000)));
    refusal(&"x".repeat(FILE_BYTES_MAX + 1));
}
