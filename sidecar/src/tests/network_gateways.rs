//! A network gateway between a client of another network, played by the test, and a pod with a sidecar.

use super::support::{Mesh, PORT, TestProxy, policy, run, shop};
use crate::settings::Role;
use mesh_hbone::{ConnectRequest, Dial, HboneStream, Pool, PoolSettings, TunnelError, TunnelKey};
use mesh_model::{
    Action, AppProtocol, PORT_HBONE, PolicyMatch, PolicyScope, PolicyTarget, Resource, SpiffeId,
    StringMatch,
};
use mesh_net::ConnectOptions;
use mesh_tls::{Expected, WorkloadCertificate};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "demo", account).unwrap()
}

/// `shop` (address 2) and the gateway `edge` (address 3) of its network.
fn behind_gateway(mesh: &mut Mesh, port: u16) -> (TestProxy, TestProxy) {
    mesh.pod("shop", 2, Some(port));
    mesh.pod("edge", 3, None);
    mesh.shop(AppProtocol::Tcp, |_| ());
    (
        mesh.proxy(Role::NetworkGateway, "edge", 3),
        mesh.proxy(Role::Sidecar, "shop", 2),
    )
}

struct Client {
    pool: Pool,
    dial: Dial,
}

impl Client {
    fn new(mesh: &Mesh) -> Self {
        let certificate = WorkloadCertificate::self_signed(&id("client")).unwrap();
        Self {
            pool: Pool::new(PoolSettings::default(), &mesh.scope),
            dial: Dial::once(ConnectOptions::default(), Arc::new(certificate)),
        }
    }

    async fn outer(&self, mesh: &Mesh, authority: &str) -> Result<HboneStream, TunnelError> {
        let key = TunnelKey {
            source: id("client"),
            expected: Expected::AnyOf(vec![id("edge")]),
            address: SocketAddr::new(mesh.ip(3), PORT_HBONE),
            source_ip: None,
        };
        self.pool
            .open(&key, self.dial.clone(), request(authority))
            .await
    }

    async fn connect(&self, mesh: &Mesh) -> Result<HboneStream, TunnelError> {
        let outer = self.outer(mesh, &asked()).await?;
        let expected = Expected::AnyOf(vec![id("shop")]);
        let request = request(&asked());
        let inner = self
            .pool
            .open_within(outer, &self.dial, &expected, &request);
        let (stream, peer) = inner.await?;
        assert_eq!(peer, id("shop"));
        Ok(stream)
    }
}

fn request(authority: &str) -> ConnectRequest {
    ConnectRequest {
        authority: authority.into(),
        headers: http::HeaderMap::new(),
    }
}

fn asked() -> String {
    format!("{}:{PORT}", shop().hostname)
}

fn of_client() -> PolicyMatch {
    PolicyMatch {
        principals: vec![StringMatch::Exact("cluster.local/ns/demo/sa/client".into())],
        ..PolicyMatch::default()
    }
}

#[test]
fn an_inner_tunnel_is_passed_on_to_the_endpoint_as_it_is() {
    run(|mut mesh| async move {
        let port = mesh.greeter(2);
        let (mut edge, mut shop) = behind_gateway(&mut mesh, port);
        let client = Client::new(&mesh);
        let mut stream = client.connect(&mesh).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"220 ready\r\nhello");
        drop(stream);
        let at_pod = shop.record().await;
        let client = "spiffe://cluster.local/ns/demo/sa/client";
        assert_eq!(at_pod["src.identity"], client, "{at_pod}");
        assert_eq!(at_pod["reason"], "ok", "{at_pod}");
        let at_edge = edge.record().await;
        for (field, value) in [
            ("reason", "ok"),
            ("src.identity", client),
            ("transport", "double_hbone"),
            ("dst.workload", "shop"),
            ("dst.service", &shop_host()),
            ("dst.hbone_addr", &asked()),
        ] {
            assert_eq!(at_edge[field], value, "{at_edge}");
        }
        assert!(at_edge.get("dst.identity").is_none(), "{at_edge}");
    });
}

fn shop_host() -> String {
    shop().hostname.to_string()
}

#[test]
fn what_is_not_of_this_network_is_refused_with_a_reason() {
    run(|mut mesh| async move {
        let port = mesh.greeter(2);
        let (mut edge, _shop) = behind_gateway(&mut mesh, port);
        let client = Client::new(&mesh);
        for (authority, status) in [
            (format!("{}:{PORT}", mesh.ip(2)), 400),
            ("other.demo.svc.cluster.local:80".to_owned(), 400),
            (format!("{}:81", shop().hostname), 503),
        ] {
            let refused = client.outer(&mesh, &authority).await.err().unwrap();
            let got = matches!(refused, TunnelError::Refused(s) if s == status);
            assert!(got, "{authority}: {refused}");
        }
        let reasons: Vec<_> = edge
            .records(3)
            .await
            .iter()
            .map(|r| r["reason"].clone())
            .collect();
        assert_eq!(
            reasons,
            ["wrong_destination", "wrong_destination", "no_endpoint"]
        );
    });
}

#[test]
fn the_gateways_own_policies_are_kept_by_whatever_they_name_it() {
    run(|mut mesh| async move {
        let port = mesh.greeter(2);
        let (mut edge, _shop) = behind_gateway(&mut mesh, port);
        let client = Client::new(&mesh);
        let mut live = client.connect(&mesh).await.unwrap();
        // The Gateway is known by the Service of its name.
        let service = mesh_model::ServiceName::new("demo", "edge.demo.svc.cluster.local");
        let entry = mesh_model::Service::new(service.clone(), "edge");
        mesh.put(Resource::Service(Arc::new(entry)));
        mesh.stands_behind("edge", 3, service);
        let mut denial = policy(Action::Deny, vec![of_client()]);
        denial.scope = PolicyScope::Targets;
        denial.targets = vec![PolicyTarget {
            kind: "Gateway".into(),
            namespace: "demo".into(),
            name: "edge".into(),
        }];
        mesh.put(Resource::HttpPolicy(Arc::new(denial)));
        // A cut shows as an error or an end.
        let mut rest = Vec::new();
        live.read_to_end(&mut rest).await.ok();
        let cut = edge.record().await;
        assert_eq!(cut["reason"], "policy_revoked", "{cut}");
        let refused = client.outer(&mesh, &asked()).await.err().unwrap();
        assert!(matches!(refused, TunnelError::Refused(401)), "{refused}");
        let records = edge.records(2).await;
        assert_eq!(records[1]["reason"], "policy_denied");
        assert_eq!(records[1]["policy"], "demo/policy", "{records:?}");
    });
}

#[test]
fn an_endpoint_that_does_not_answer_is_told_before_anything_is_sent() {
    run(|mut mesh| async move {
        mesh.pod("shop", 2, Some(7000));
        mesh.pod("edge", 3, None);
        mesh.shop(AppProtocol::Tcp, |_| ());
        let mut edge = mesh.proxy(Role::NetworkGateway, "edge", 3);
        let client = Client::new(&mesh);
        let refused = client.connect(&mesh).await.err().unwrap();
        assert!(matches!(refused, TunnelError::Refused(503)), "{refused}");
        let record = edge.record().await;
        assert_eq!(record["reason"], "connect_failed", "{record}");
    });
}
