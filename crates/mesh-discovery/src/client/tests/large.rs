//! A mesh of 100,000 workloads, from a control plane over a real stream: it converges, an update
//! changes one path, and a burst comes as few notices. What it costs is printed, not asserted.

use super::*;
use std::net::IpAddr;
use std::time::Instant;

const WORKLOADS: u32 = 100_000;
const SERVICES: u32 = 2_000;
const NODES: u32 = 1_000;
const POLICIES: u32 = 1_000;

fn big_service(n: u32) -> ServiceName {
    let namespace = format!("ns-{}", n % 100);
    ServiceName::new(
        namespace.as_str(),
        &format!("svc-{n}.{namespace}.svc.cluster.local"),
    )
}

fn big_workload(n: u32, revision: &str) -> WireResource {
    let service = big_service(n % SERVICES);
    let uid = format!("Kubernetes//Pod/{}/pod-{n}", service.namespace);
    let mut w = Workload::new(&uid, &service.namespace, &format!("pod-{n}"));
    w.addresses = vec![IpAddr::from((0x0a00_0000 + n).to_be_bytes())];
    w.node = format!("node-{}", n % NODES).into();
    w.service_account = format!("sa-{}", n % SERVICES).into();
    w.workload_name = format!("deploy-{}", n % SERVICES).into();
    w.canonical_name = w.workload_name.clone();
    w.canonical_revision = revision.into();
    w.cluster = "Kubernetes".into();
    w.authorization_policies = vec![ObjectName::new("ns-0", format!("p{}", n % POLICIES))];
    let port = ServicePort {
        service_port: 80,
        target_port: 8080,
        app_protocol: mesh_model::AppProtocol::Unknown,
    };
    w.services.insert(service, vec![port]);
    wire(&Resource::Workload(Arc::new(w)), revision)
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

fn everything() -> (Vec<WireResource>, Vec<WireResource>) {
    let policies = (0..POLICIES).map(|n| {
        let policy = AuthorizationPolicy::unreadable(
            ObjectName::new("ns-0", format!("p{n}")),
            PolicyScope::WorkloadSelector,
            "",
        );
        wire(&Resource::Policy(Arc::new(policy)), "v1")
    });
    let services = (0..SERVICES).map(|n| {
        let mut service = Service::new(big_service(n), &format!("svc-{n}"));
        let vip = mesh_model::Cidr::host(IpAddr::from((0x0ac0_0000 + n).to_be_bytes()));
        service.vips = vec![("".into(), vip)];
        wire(&Resource::Service(Arc::new(service)), "v1")
    });
    let workloads = (0..WORKLOADS).map(|n| big_workload(n, "v1"));
    (policies.collect(), services.chain(workloads).collect())
}

fn revision(snapshot: &Snapshot, n: u32) -> Option<Arc<str>> {
    let uid = format!(
        "Kubernetes//Pod/{}/pod-{n}",
        big_service(n % SERVICES).namespace
    );
    let workload = snapshot.workload(&WorkloadUid(uid.into()))?;
    Some(workload.canonical_revision.clone())
}

#[tokio::test]
async fn a_hundred_thousand_workloads_are_held_and_an_update_is_cheap() {
    let before_mib = resident_mib();
    let mut world = World::start();
    let (mut session, _) = world.session().await;
    let (policies, addresses) = everything();
    let script_mib = resident_mib();
    let began = Instant::now();
    session
        .respond(response(TYPE_AUTHORIZATION, "1", policies))
        .await;
    session
        .respond(response(TYPE_ADDRESS, "2", addresses))
        .await;
    let full = world
        .until(|s| s.workloads().count() == usize::try_from(WORKLOADS).unwrap())
        .await;
    let converged = began.elapsed();
    println!(
        "{WORKLOADS} workloads, {SERVICES} services, {POLICIES} policies: converged in \
         {converged:?}; resident {before_mib} MiB before, {script_mib} MiB with the script's \
         messages, {} MiB now",
        resident_mib()
    );
    let per_service = usize::try_from(WORKLOADS / SERVICES).unwrap();
    assert_eq!(full.endpoints(&big_service(7)).count(), per_service);
    let per_node = usize::try_from(WORKLOADS / NODES).unwrap();
    assert_eq!(full.workloads_on("node-7").count(), per_node);

    // One workload changes: the rest is the same memory in both snapshots.
    let began = Instant::now();
    let change = response(TYPE_ADDRESS, "3", vec![big_workload(4711, "v2")]);
    session.respond(change).await;
    let after = world
        .until(|s| revision(s, 4711).as_deref() == Some("v2"))
        .await;
    println!("one workload changed and seen after {:?}", began.elapsed());
    let shared = full.workloads().filter(|w| {
        let now = after.workload(&w.uid).unwrap();
        Arc::ptr_eq(w, now)
    });
    assert_eq!(shared.count(), usize::try_from(WORKLOADS - 1).unwrap());

    // A thousand single changes: every one arrives, in far fewer notices.
    world.discovery.snapshots.mark_unchanged();
    let mut snapshots = world.discovery.snapshots.clone();
    let (done, count) = tokio::sync::oneshot::channel();
    world.scope.spawn("counting", async move {
        let mut notices = 0;
        while revision(&snapshots.borrow_and_update(), 999).as_deref() != Some("v3") {
            snapshots.changed().await.unwrap();
            notices += 1;
        }
        done.send(notices).unwrap();
    });
    let began = Instant::now();
    for n in 0..1000 {
        let change = response(TYPE_ADDRESS, "x", vec![big_workload(n, "v3")]);
        session.respond(change).await;
    }
    let notices = count.await.unwrap();
    let took = began.elapsed();
    println!(
        "1000 changes one by one: {took:?}, {notices} notices; resident {} MiB",
        resident_mib()
    );
    assert!(notices < 1000, "{notices} notices of 1000 changes");
    drop((full, after));
}
