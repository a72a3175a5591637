//! DNS: what a pod asks, what a server upstream says, and the resolver's configuration.

use crate::input::Input;
use mesh_dns::wire::{Header, Layout, TYPE_OPT};
use mesh_dns::{
    Cache, CacheBounds, Client, Decision, Query, QueryFault, ResolvConf, Zone, answer, reply,
};
use mesh_model::{Dice, Resource, Service, ServiceName, Snapshot, SnapshotBuilder, Workload};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// One service with addresses, one without, one of every name below.
static MESH: LazyLock<Arc<Snapshot>> = LazyLock::new(|| {
    let mut builder = SnapshotBuilder::new();
    for (host, vip) in [
        ("web.demo.svc.cluster.local", Some("10.96.0.1")),
        ("db.demo.svc.cluster.local", None),
        ("*.example.com", Some("240.240.0.1")),
    ] {
        let mut service = Service::new(ServiceName::new("demo", host), host);
        let vip = vip.and_then(|v| v.parse().ok());
        service.vips = vip.map(|v| ("".into(), v)).into_iter().collect();
        builder.upsert(Resource::Service(Arc::new(service)));
    }
    for n in 0..100u8 {
        let mut workload = Workload::new(&n.to_string(), "demo", "db");
        workload.addresses = vec![[10, 0, 0, n].into()];
        let of = ServiceName::new("demo", "db.demo.svc.cluster.local");
        workload.services.insert(of, Vec::new());
        builder.upsert(Resource::Workload(Arc::new(workload)));
    }
    builder.snapshot()
});

/// A query of any bytes gets a message with its own id and question, within its bounds, or nothing;
/// what came from upstream is kept and given as it came, but for times to live, which never grow. The
/// query with its length before it, then the response.
pub fn dns(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let read = ResolvConf::parse(text);
        assert!(read.servers.len() <= mesh_dns::SERVERS_MAX);
    }
    let mut input = Input::new(data);
    let asked = input.chunk();
    let response = input.rest();
    let query = match Query::read(asked) {
        Ok(query) => query,
        Err(QueryFault::Drop) => return,
        Err(QueryFault::Refuse { reply, .. }) => return is_reply(asked, &reply),
    };
    assert_eq!(query.bytes, asked);
    is_reply(
        asked,
        &reply::failure(&query, hickory_proto::op::ResponseCode::ServFail),
    );
    decided(&query);
    kept(&query, response);
}

/// A whole message that is the response to these bytes.
fn is_reply(asked: &[u8], reply: &[u8]) {
    let layout = Layout::of(reply).unwrap_or_else(|e| panic!("{e}: {reply:?}"));
    assert!(layout.header.has(Header::RESPONSE));
    assert_eq!(asked.get(..2), reply.get(..2));
}

fn decided(query: &Query) {
    let client = Client {
        namespace: "demo",
        network: "",
    };
    let question = (&query.name, query.kind, query.class);
    let zone = Zone::new("cluster.local");
    let Decision::Answer(found) = answer(&MESH, &zone, client, question, &mut Dice::seeded(7))
    else {
        return;
    };
    for bytes_max in [query.udp_bytes_max(), usize::from(u16::MAX)] {
        let Some(reply) = reply::of_mesh(query, &found, bytes_max) else {
            continue;
        };
        is_reply(&query.bytes, &reply);
        assert!(reply.len() <= bytes_max);
        assert_eq!(reply.get(12..query.question_end), Some(query.question()));
    }
}

fn kept(query: &Query, response: &[u8]) {
    let mut cache = Cache::new(CacheBounds::default());
    let now = Instant::now();
    cache.put(query, response, now);
    let Some(mut got) = cache.get(query, now + Duration::from_secs(1)) else {
        return;
    };
    assert_eq!(got.len(), response.len());
    let (before, after) = match (Layout::of(response), Layout::of(&got)) {
        (Ok(before), Ok(after)) => (before, after),
        _ => panic!("kept, though it is no message"),
    };
    for (before, after) in before.records.iter().zip(&after.records) {
        assert_eq!(before.data, after.data);
        assert!(after.ttl < before.ttl || before.kind == TYPE_OPT || before.ttl == 0);
    }
    reply::for_client(query, &mut got);
    assert_eq!(got.len(), response.len());
    is_reply(&query.bytes, &reply::truncated(query, &got));
}
