//! Which endpoints are tried, and when no more are.

use super::*;
use mesh_model::{
    AppProtocol, Cidr, Reason, Resource, Service, ServiceName, ServicePort, SnapshotBuilder,
    Workload,
};
use mesh_net::ConnectError;
use mesh_telemetry::Metrics;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A service on 10.96.0.1:80 in front of as many pods.
fn mesh(pods: u8) -> Arc<Snapshot> {
    let mut builder = SnapshotBuilder::new();
    let name = ServiceName::new("demo", "shop.demo");
    let mut service = Service::new(name.clone(), "shop");
    service.vips = vec![("".into(), Cidr::host(IpAddr::from([10, 96, 0, 1])))];
    service.ports = vec![ServicePort {
        service_port: 80,
        target_port: 8080,
        app_protocol: AppProtocol::Tcp,
    }];
    builder.upsert(Resource::Service(Arc::new(service)));
    for n in 1..=pods {
        let mut pod = Workload::new(&format!("pod-{n}"), "demo", &format!("pod-{n}"));
        pod.addresses = vec![IpAddr::from([10, 0, 0, n])];
        pod.services.insert(name.clone(), Vec::new());
        builder.upsert(Resource::Workload(Arc::new(pod)));
    }
    builder.snapshot()
}

fn timeout(address: SocketAddr) -> AttemptError {
    AttemptError::Dial(DialError::Connect(ConnectError::Timeout {
        address,
        timeout: std::time::Duration::from_secs(10),
    }))
}

/// The endpoints tried when every attempt fails as `fail` says, and the refusal.
async fn tried(
    pods: u8,
    attempts_max: usize,
    fail: fn(SocketAddr) -> AttemptError,
) -> (Vec<SocketAddr>, Refusal) {
    let snapshot = mesh(pods);
    let client = Client::at("", "demo");
    let dice = RefCell::new(Dice::seeded(7));
    let vip = "10.96.0.1:80".parse().unwrap();
    let first = mesh_plan::outbound(&snapshot, &client, vip, &mut dice.borrow_mut()).unwrap();
    let ejector = Ejector::new(&Metrics::new("test"));
    let reach = Reach {
        ejector: &ejector,
        snapshot: &snapshot,
        client: &client,
        dice: &dice,
        attempts_max,
    };
    let mut tried = Vec::new();
    let refused = reach
        .open(first, async |target: &Target| {
            tried.push(target.destination);
            Err::<(), _>(fail(target.destination))
        })
        .await
        .unwrap_err();
    (tried, refused)
}

#[tokio::test]
async fn endpoints_are_tried_once_each_and_within_the_bound() {
    for (pods, bound, expected) in [(5, 3, 3), (5, 1, 1), (2, 3, 2), (1, 3, 1)] {
        let (tried, refused) = tried(pods, bound, timeout).await;
        assert_eq!(tried.len(), expected, "{pods} pods, at most {bound}");
        assert_eq!(tried.iter().collect::<BTreeSet<_>>().len(), expected);
        assert_eq!(refused.reason, Reason::ConnectTimeout);
    }
}

#[tokio::test]
async fn what_may_have_been_acted_on_and_what_is_our_fault_is_not_tried_again() {
    let (once, refused) = tried(5, 3, |_| {
        AttemptError::Dial(mesh_hbone::TunnelError::Refused(401).into())
    })
    .await;
    assert_eq!((once.len(), refused.reason), (1, Reason::TunnelRefused));
    let ours = |_| AttemptError::Ours(Refusal::new(Reason::NoIdentity, "none"));
    let (once, refused) = tried(5, 3, ours).await;
    assert_eq!((once.len(), refused.reason), (1, Reason::NoIdentity));
}

#[tokio::test]
async fn an_endpoint_that_failed_is_not_chosen_until_its_time_is_over() {
    tokio::time::pause();
    let snapshot = mesh(3);
    let vip = "10.96.0.1:80".parse().unwrap();
    let dice = RefCell::new(Dice::seeded(3));
    let ejector = Ejector::new(&Metrics::new("test"));
    let bad: SocketAddr = "10.0.0.2:8080".parse().unwrap();
    let connect = async |attempts: &RefCell<Vec<SocketAddr>>| {
        let client = Client::at("", "demo").avoiding(ejector.avoided());
        let reach = Reach {
            snapshot: &snapshot,
            client: &client,
            dice: &dice,
            ejector: &ejector,
            attempts_max: 2,
        };
        let planned = mesh_plan::outbound(&snapshot, &client, vip, &mut dice.borrow_mut());
        let opened = reach.open(planned.unwrap(), async |target: &Target| {
            attempts.borrow_mut().push(target.destination);
            if target.destination == bad {
                return Err(timeout(target.destination));
            }
            Ok(())
        });
        opened.await.unwrap();
    };
    let attempts = RefCell::new(Vec::new());
    for _ in 0..100 {
        connect(&attempts).await;
    }
    let failures = |attempts: &RefCell<Vec<SocketAddr>>| {
        attempts.borrow().iter().filter(|a| **a == bad).count()
    };
    assert_eq!(failures(&attempts), 1);
    tokio::time::advance(mesh_balance::AVOID_MIN).await;
    for _ in 0..100 {
        connect(&attempts).await;
    }
    assert_eq!(failures(&attempts), 2);
}
