//! What happens when a moment comes.

use super::mesh::{Mesh, local};
use super::{Expected, PATIENCE};
use http::HeaderMap;
use mesh_hbone::{ConnectRequest, Dial, Pool, PoolSettings, TunnelKey};
use mesh_model::SpiffeId;
use mesh_net::ConnectOptions;
use mesh_tls::WorkloadCertificate;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The certificate that proved the peer ends: GOAWAY, so that the next stream comes with a new proof,
/// while those there run on.
#[test]
fn a_tunnel_takes_no_stream_after_the_end_of_its_clients_certificate() {
    let mesh = Mesh::start("");
    local(async |scope| {
        let id = |account: &str| SpiffeId::new("cluster.local", "demo", account).unwrap();
        let end = SystemTime::now() + Duration::from_secs(3);
        let certificate = WorkloadCertificate::self_signed_until(&id("client"), end).unwrap();
        let not_after = certificate.not_after();
        let dial = Dial::once(ConnectOptions::default(), Arc::new(certificate));
        let key = TunnelKey {
            source: id("client"),
            expected: Expected::AnyOf(vec![id("server")]),
            address: SocketAddr::new(mesh.app.ip(), mesh_model::PORT_HBONE),
            source_ip: None,
        };
        let pool = Pool::new(PoolSettings::default(), &scope);
        let open = async || {
            let request = ConnectRequest {
                authority: mesh.app.to_string(),
                headers: HeaderMap::new(),
            };
            pool.open(&key, dial.clone(), request).await
        };
        let mut live = open().await.unwrap();
        let begin = Instant::now();
        while open().await.is_ok() {
            assert!(begin.elapsed() < PATIENCE, "it takes streams for ever");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(SystemTime::now() >= not_after, "before its time");
        live.write_all(b"still here").await.unwrap();
        live.shutdown().await.unwrap();
        let mut answer = Vec::new();
        live.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"still here");
        scope.cancel();
    });
}
