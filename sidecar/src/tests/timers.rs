//! What happens when a moment comes.

use super::support::{PORT, VIP, run};
use super::waypoints::behind_waypoint;
use mesh_hbone::{ConnectRequest, Dial, Pool, PoolSettings, TunnelKey};
use mesh_model::{AppProtocol, PORT_HBONE, SpiffeId};
use mesh_net::ConnectOptions;
use mesh_tls::{Expected, WorkloadCertificate};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The certificate that proved the peer ends: GOAWAY, so that the next stream comes with a new proof,
/// while those there run on. `account` (address `n`) is asked for `authority`.
fn no_stream_after_the_end(account: &'static str, n: u8, by_service: bool) {
    run(move |mut mesh| async move {
        let port = mesh.greeter(2);
        let _proxies = behind_waypoint(&mut mesh, AppProtocol::Tcp, port);
        let app = SocketAddr::new(mesh.ip(2), port);
        let asked = if by_service {
            SocketAddr::from((VIP, PORT))
        } else {
            app
        };
        let id = |account: &str| SpiffeId::new("cluster.local", "demo", account).unwrap();
        let end = SystemTime::now() + Duration::from_secs(3);
        let certificate = WorkloadCertificate::self_signed_until(&id("client"), end).unwrap();
        let not_after = certificate.not_after();
        let dial = Dial::once(ConnectOptions::default(), Arc::new(certificate));
        let key = TunnelKey {
            source: id("client"),
            expected: Expected::AnyOf(vec![id(account)]),
            address: SocketAddr::new(mesh.ip(n), PORT_HBONE),
            source_ip: None,
        };
        let pool = Pool::new(PoolSettings::default(), &mesh.scope);
        let open = async || {
            let request = ConnectRequest {
                authority: asked.to_string(),
                headers: http::HeaderMap::new(),
            };
            pool.open(&key, dial.clone(), request).await
        };
        let mut live = open().await.unwrap();
        // The test as a whole is given 30 s.
        while open().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(SystemTime::now() >= not_after, "before its time");
        live.write_all(b"still here").await.unwrap();
        live.shutdown().await.unwrap();
        let mut answer = String::new();
        live.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "220 ready\r\nstill here");
    });
}

#[test]
fn a_sidecar_takes_no_stream_after_the_end_of_its_clients_certificate() {
    no_stream_after_the_end("shop", 2, false);
}

#[test]
fn a_waypoint_takes_no_stream_after_the_end_of_its_clients_certificate() {
    no_stream_after_the_end("way", 3, true);
}
