//! What becomes of pooled tunnels whose far side is trusted no longer.

use crate::support::{echo, id, local, request};
use http::HeaderMap;
use mesh_hbone::{
    Dial, HboneStream, Incoming, Pool, PoolSettings, ServerSettings, TunnelError, TunnelKey,
    serve_session,
};
use mesh_model::Reason;
use mesh_net::{ConnectOptions, ListenOptions};
use mesh_runtime::{Drain, Scope};
use mesh_testkit::TestCa;
use mesh_testkit::ca::DAY;
use mesh_tls::{Expected, Revocations, TlsError, TlsPolicy, WorkloadCertificate};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

/// A server that echoes, whose certificate can be changed, and a client's pool.
struct World {
    pool: Pool,
    retired: Rc<RefCell<Vec<Reason>>>,
    server: Rc<RefCell<Arc<WorkloadCertificate>>>,
    connections: Rc<Cell<usize>>,
    client: watch::Sender<Option<Arc<WorkloadCertificate>>>,
    address: SocketAddr,
}

impl World {
    fn start(scope: &Scope, server: WorkloadCertificate, client: WorkloadCertificate) -> Self {
        let listener = mesh_net::listen(&ListenOptions::new("127.0.0.1:0".parse().unwrap()));
        let listener = listener.unwrap();
        let retired: Rc<RefCell<Vec<Reason>>> = Rc::default();
        let told = retired.clone();
        let count = move |reason| told.borrow_mut().push(reason);
        let world = Self {
            pool: Pool::counting(PoolSettings::default(), scope, count),
            retired,
            server: Rc::new(RefCell::new(Arc::new(server))),
            connections: Rc::default(),
            client: watch::Sender::new(Some(Arc::new(client))),
            address: listener.local_addr().unwrap(),
        };
        let (tasks, certificate) = (scope.clone(), world.server.clone());
        let connections = world.connections.clone();
        scope.spawn_local("server", async move {
            loop {
                let (tcp, _) = mesh_net::accept(&listener).await.unwrap();
                let (certificate, scope) = (certificate.borrow().clone(), tasks.clone());
                let connections = connections.clone();
                tasks.spawn_local("server connection", async move {
                    let Ok(session) = mesh_tls::accept_session(tcp, &certificate).await else {
                        return;
                    };
                    connections.set(connections.get() + 1);
                    let handler = async |incoming: Incoming| {
                        echo(incoming.accept(&HeaderMap::new()).unwrap()).await;
                    };
                    let (settings, drain) = (ServerSettings::default(), Drain::new());
                    let never = std::future::pending();
                    let served = serve_session(session, &settings, &drain, &scope, never, handler);
                    drop(served.await);
                });
            }
        });
        world
    }

    async fn open(&self) -> Result<HboneStream, TunnelError> {
        let key = TunnelKey {
            source: id("client"),
            expected: Expected::AnyOf(vec![id("server")]),
            address: self.address,
            source_ip: None,
        };
        let dial = Dial {
            options: ConnectOptions::default(),
            certificate: self.client.borrow().clone().unwrap(),
            successors: self.client.subscribe(),
        };
        self.pool.open(&key, dial, request("10.0.0.9:80")).await
    }

    /// A stream on which bytes have come back.
    async fn live(&self) -> HboneStream {
        let mut stream = self.open().await.unwrap();
        still_lives(&mut stream).await;
        stream
    }

    fn retired(&self) -> Vec<Reason> {
        self.retired.borrow().clone()
    }
}

async fn still_lives(stream: &mut HboneStream) {
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
}

/// Why a stream was cut, in either direction.
async fn cut(mut stream: HboneStream) -> Option<Reason> {
    let reading = stream.read_u8().await.unwrap_err();
    let writing = stream.write_all(b"x").await.unwrap_err();
    let reason = TunnelError::distrust(&reading);
    assert_eq!(reason, TunnelError::distrust(&writing));
    reason
}

fn why(error: TunnelError) -> TlsError {
    match error {
        TunnelError::Tls(error) => TlsError::clone(&error),
        other => panic!("{other}"),
    }
}

#[test]
fn a_tunnel_takes_no_stream_after_the_end_of_its_servers_certificate() {
    local(async |scope| {
        let ca = TestCa::new();
        let server = ca.workload_for(&id("server"), Duration::from_secs(2));
        let end = server.not_after();
        let world = World::start(&scope, server, ca.workload(&id("client")));
        let mut early = world.live().await;
        assert_eq!(early.key_exchange(), Some("X25519MLKEM768"));
        *world.server.borrow_mut() = Arc::new(ca.workload(&id("server")));
        while world.retired().is_empty() {
            assert_eq!(world.connections.get(), 1);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(SystemTime::now() >= end, "before its time");
        assert_eq!(world.retired(), [Reason::TlsFailure]);
        let mut late = world.live().await;
        assert_eq!(world.connections.get(), 2, "dialled anew");
        // What was there runs on, and its tunnel ends with it.
        still_lives(&mut early).await;
        early.shutdown().await.unwrap();
        assert_eq!(early.read(&mut [0]).await.unwrap(), 0);
        still_lives(&mut late).await;
        assert_eq!(world.pool.connections(), 1);
        scope.cancel();
    });
}

#[test]
fn streams_to_a_server_that_is_revoked_are_cut_and_say_why() {
    local(async |scope| {
        let ca = TestCa::new();
        let counted = Arc::new(std::sync::Mutex::new(Vec::new()));
        let events = counted.clone();
        let lists = Revocations::new(move |event, side| events.lock().unwrap().push((event, side)));
        let policy = TlsPolicy::new(lists.clone());
        let client = ca.workload_with(&id("client"), ca.root_pem(), DAY, &policy);
        let server = ca.workload(&id("server"));
        let serial = server.serial().to_owned();
        let world = World::start(&scope, server, client);
        let (one, two) = (world.live().await, world.live().await);
        assert_eq!(world.connections.get(), 1);
        ca.revoke(&lists, &["0102"]);
        let mut three = world.live().await;
        assert_eq!(world.connections.get(), 1, "another's list changes nothing");
        ca.revoke(&lists, &[&serial]);
        assert_eq!(cut(one).await, Some(Reason::CertRevoked));
        assert_eq!(cut(two).await, Some(Reason::CertRevoked));
        assert!(three.write_all(b"x").await.is_err());
        assert_eq!(world.retired(), [Reason::CertRevoked]);
        assert_eq!(world.pool.connections(), 0);
        let error = world.open().await.err().unwrap();
        assert_eq!(error.reason(), Reason::CertRevoked);
        assert!(matches!(why(error), TlsError::Revoked { .. }));
        assert_eq!(
            counted.lock().unwrap().len(),
            2,
            "the tunnel, the handshake"
        );
        // With another certificate it is a peer again.
        *world.server.borrow_mut() = Arc::new(ca.workload(&id("server")));
        world.live().await;
        scope.cancel();
    });
}

#[test]
fn a_root_is_added_and_the_old_one_withdrawn_without_a_restart() {
    local(async |scope| {
        let (old, new) = (TestCa::new(), TestCa::new());
        let both = format!("{}{}", old.root_pem(), new.root_pem());
        let policy = TlsPolicy::default();
        let of = |ca: &TestCa, account: &str, roots: &str| {
            ca.workload_with(&id(account), roots, DAY, &policy)
        };
        let world = World::start(
            &scope,
            old.workload(&id("server")),
            old.workload(&id("client")),
        );
        let mut first = world.live().await;

        // Both roots in the bundle: nothing ends, and servers of either are verified.
        world.client.send_replace(some(of(&old, "client", &both)));
        *world.server.borrow_mut() = Arc::new(of(&old, "server", &both));
        let mut second = world.live().await;
        world.client.send_replace(some(of(&new, "client", &both)));
        still_lives(&mut first).await;
        still_lives(&mut second).await;
        assert_eq!(world.retired(), []);
        assert_eq!(world.connections.get(), 1);

        // Only the new one: what rests on the old ends, and the old server is refused.
        world.client.send_replace(some(new.workload(&id("client"))));
        assert_eq!(cut(first).await, Some(Reason::PolicyRevoked));
        assert_eq!(cut(second).await, Some(Reason::PolicyRevoked));
        assert_eq!(world.retired(), [Reason::PolicyRevoked]);
        let error = why(world.open().await.err().unwrap());
        assert!(matches!(error, TlsError::UnknownRoot { .. }), "{error}");

        // The server follows.
        *world.server.borrow_mut() = Arc::new(new.workload(&id("server")));
        let mut third = world.live().await;
        still_lives(&mut third).await;
        scope.cancel();
    });
}

fn some(certificate: WorkloadCertificate) -> Option<Arc<WorkloadCertificate>> {
    Some(Arc::new(certificate))
}
