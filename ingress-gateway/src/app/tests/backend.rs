//! What stands behind the gateway.

use mesh_hbone::{Incoming, ServerSettings};
use mesh_model::{
    Action, Host, ObjectName, PolicyScope, PolicyTarget, Resource, TlsCertificatePem,
};
use mesh_net::{ConnectOptions, Counters, ListenOptions, accept, connect, listen, pump};
use mesh_runtime::{Drain, Scope};
use mesh_tls::{EdgeTls, WorkloadCertificate};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, split};
use tokio::net::TcpListener;

fn anywhere() -> (TcpListener, SocketAddr) {
    let listener = listen(&ListenOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn echo_over<S: AsyncRead + AsyncWrite>(stream: S) {
    let (mut read, mut write) = split(stream);
    copy(&mut read, &mut write).await.ok();
    write.shutdown().await.ok();
}

/// Sends back what it gets.
pub(super) fn echo(scope: &Scope) -> SocketAddr {
    let (listener, address) = anywhere();
    let tasks = scope.clone();
    scope.spawn("echo", async move {
        while let Ok((stream, _)) = accept(&listener).await {
            tasks.spawn("echo connection", echo_over(stream));
        }
    });
    address
}

/// The same, in TLS of its own.
pub(super) fn tls_echo(scope: &Scope, host: Host, certificate: TlsCertificatePem) -> SocketAddr {
    let (listener, address) = anywhere();
    let tls = EdgeTls::new(vec![(Some(host), certificate)]).unwrap();
    let tasks = scope.clone();
    scope.spawn("tls echo", async move {
        while let Ok((stream, _)) = accept(&listener).await {
            let tls = tls.clone();
            tasks.spawn("tls echo connection", async move {
                if let Ok((stream, _)) = tls.accept(stream).await {
                    echo_over(stream).await;
                }
            });
        }
    });
    address
}

/// Answers each HTTP/1.1 connection's first request with the head it got.
pub(super) fn http_backend(scope: &Scope) -> SocketAddr {
    let (listener, address) = anywhere();
    let tasks = scope.clone();
    scope.spawn("http backend", async move {
        while let Ok((mut stream, _)) = accept(&listener).await {
            tasks.spawn("http backend connection", async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let length = head.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
                );
                stream.write_all(answer.as_bytes()).await.ok();
                stream.write_all(&head).await.ok();
            });
        }
    });
    address
}

/// One CONNECT that a pod's proxy got.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) peer: String,
    pub(super) authority: String,
    pub(super) forwarded: String,
}

/// A pod of the mesh: HBONE on port 15008 of its address, and applications that live elsewhere, found
/// by the port asked for. Gives the CONNECTs it gets. Needs a local set.
pub(super) fn hbone_pod(
    scope: &Scope,
    ip: &str,
    certificate: WorkloadCertificate,
    applications: [SocketAddr; 2],
) -> Rc<RefCell<Vec<Seen>>> {
    let address = SocketAddr::new(ip.parse().unwrap(), mesh_model::PORT_HBONE);
    let listener = listen(&ListenOptions::new(address)).unwrap();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let (tasks, log, drain) = (scope.clone(), seen.clone(), Drain::new());
    scope.spawn_local("pod", async move {
        while let Ok((tcp, _)) = accept(&listener).await {
            let (tls, peer) = mesh_tls::accept_mesh(tcp, &certificate).await.unwrap();
            let (log, streams, drain) = (log.clone(), tasks.clone(), drain.clone());
            let peer = peer.identity.to_string();
            tasks.spawn_local("tunnel", async move {
                let settings = ServerSettings::default();
                let handler = move |incoming: Incoming| {
                    let forwarded = incoming.headers().get("forwarded").cloned();
                    log.borrow_mut().push(Seen {
                        peer: peer.clone(),
                        authority: incoming.authority().to_owned(),
                        forwarded: forwarded
                            .map_or_else(String::new, |v| v.to_str().unwrap().to_owned()),
                    });
                    carry(incoming, applications)
                };
                mesh_hbone::serve(tls, &settings, &drain, &streams, handler)
                    .await
                    .ok();
            });
        }
    });
    seen
}

async fn carry(incoming: Incoming, applications: [SocketAddr; 2]) {
    let asked: SocketAddr = incoming.authority().parse().unwrap();
    let application = applications.into_iter().find(|a| a.port() == asked.port());
    let options = ConnectOptions::default();
    let mut up = connect(application.unwrap(), &options).await.unwrap();
    let mut down = incoming.accept(&::http::HeaderMap::new()).unwrap();
    pump(&mut down, &mut up, &Counters::new()).await;
}

/// A policy on a Gateway that lets nobody through.
pub(super) fn refuse_all(gateway: &str) -> Resource {
    let mut policy =
        mesh_testkit::resources::policy("edge/nobody", PolicyScope::Targets, Action::Allow, &[]);
    let ObjectName { namespace, name } = gateway.parse().unwrap();
    policy.targets = vec![PolicyTarget {
        kind: "Gateway".into(),
        namespace,
        name,
    }];
    Resource::HttpPolicy(Arc::new(policy))
}
