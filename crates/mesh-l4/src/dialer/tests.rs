//! Targets reached, and not reached, over real sockets.

use super::*;
use mesh_hbone::{PoolSettings, ServerSettings};
use mesh_model::{AppProtocol, SpiffeId};
use mesh_net::{ListenOptions, accept, listen};
use mesh_plan::TargetKind;
use mesh_runtime::{Drain, Scope};
use mesh_tls::WorkloadCertificate;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

fn target(address: SocketAddr, transport: Transport) -> Target {
    Target {
        address,
        transport,
        workload: None,
        service: None,
        service_port: None,
        kind: TargetKind::Endpoint,
        app_protocol: AppProtocol::Unknown,
        destination: address,
    }
}

fn local_listener() -> (TcpListener, SocketAddr) {
    let listener = listen(&ListenOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn plain() -> Dialer {
    Dialer {
        connect: ConnectOptions::default(),
        tunnels: None,
    }
}

#[tokio::test]
async fn a_plain_target_is_reached() {
    let (listener, address) = local_listener();
    let dialer = plain();
    let target = target(address, Transport::Plain);
    let (opened, accepted) =
        tokio::join!(dialer.open(&target, HeaderMap::new()), accept(&listener));
    opened.unwrap().write_all(b"x").await.unwrap();
    let (mut server, _) = accepted.unwrap();
    assert_eq!(server.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn a_refusal_and_a_missing_certificate_have_their_reasons() {
    let (listener, address) = local_listener();
    drop(listener);
    let refused = plain()
        .open(&target(address, Transport::Plain), HeaderMap::new())
        .await
        .err()
        .unwrap();
    assert_eq!(refused.reason(), Reason::ConnectFailed);
    assert!(refused.retry_is_safe());

    let hbone = Transport::Hbone {
        authority: "10.0.0.1:80".into(),
        expected: vec![],
    };
    let nobody = plain()
        .open(&target(address, hbone), HeaderMap::new())
        .await
        .err()
        .unwrap();
    assert_eq!(nobody.reason(), Reason::NoIdentity);
    assert!(!nobody.retry_is_safe());
}

#[tokio::test]
async fn a_tunnelled_target_is_asked_for_by_its_authority() {
    tokio::task::LocalSet::new().run_until(tunnelled()).await;
}

async fn tunnelled() {
    let identity: SpiffeId = "spiffe://cluster.local/ns/a/sa/b".parse().unwrap();
    // Self-signed: the two sides trust each other because they are one and the same.
    let certificate = Arc::new(WorkloadCertificate::self_signed(&identity).unwrap());
    let (listener, address) = local_listener();
    let (scope, drain) = (Scope::new(), Drain::new());
    let (server_scope, of_server) = (scope.clone(), certificate.clone());
    scope.spawn_local("server", async move {
        let (tcp, _) = accept(&listener).await.unwrap();
        let (tls, peer) = mesh_tls::accept_mesh(tcp, &of_server).await.unwrap();
        assert_eq!(peer.identity.service_account(), "b");
        let settings = ServerSettings::default();
        let served = mesh_hbone::serve(
            tls,
            &settings,
            &drain,
            &server_scope,
            |incoming| async move {
                assert_eq!(incoming.authority(), "10.0.0.1:80");
                assert_eq!(incoming.headers()["forwarded"], "for=x");
                let mut stream = incoming.accept(&HeaderMap::new()).unwrap();
                stream.write_all(b"tunnelled").await.unwrap();
                stream.shutdown().await.unwrap();
            },
        );
        served.await.ok();
    });

    let (_keep, receiver) = watch::channel(Some(certificate));
    let dialer = Dialer {
        connect: ConnectOptions::default(),
        tunnels: Some(Tunnels {
            pool: Pool::new(PoolSettings::default(), &scope),
            certificate: receiver,
        }),
    };
    let hbone = Transport::Hbone {
        authority: "10.0.0.1:80".into(),
        expected: vec![identity],
    };
    let headers = HeaderMap::from_iter([(http::header::FORWARDED, "for=x".parse().unwrap())]);
    let mut stream = dialer.open(&target(address, hbone), headers).await.unwrap();
    let mut got = String::new();
    stream.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "tunnelled");
    scope.cancel();
}
