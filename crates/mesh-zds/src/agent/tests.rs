//! Both sides against each other without sockets, by script and at random.

use super::*;
use crate::{Command, ProxySession};
use proptest::prelude::*;

fn pod(n: u8) -> Pod {
    Pod {
        uid: format!("u{n}"),
        info: format!("demo/web-{n}/web").parse().unwrap(),
    }
}

fn all(agent: &mut Agent<u8>, id: ConnectionId) -> Vec<Request<u8>> {
    std::iter::from_fn(|| {
        let request = agent.next(id)?;
        assert_eq!(agent.next(id), None, "asked twice without an answer");
        agent.answered(id, Ok(())).unwrap();
        Some(request)
    })
    .collect()
}

#[test]
fn a_new_proxy_is_told_everything_and_then_what_changes() {
    let mut agent = Agent::new();
    assert_eq!(agent.add(pod(1), 1), Ok(None));
    agent.keep(pod(2)).unwrap();
    let id = agent.connected().unwrap();
    let told = all(&mut agent, id);
    let wanted = [
        Request::Add(pod(1), 1),
        Request::Keep("u2".into()),
        Request::SnapshotSent,
    ];
    assert_eq!(told, wanted);
    let ticket = agent.add(pod(2), 7).unwrap();
    assert!(ticket.is_some());
    assert_eq!(agent.next(id), Some(Request::Add(pod(2), 7)));
    let ended = agent.answered(id, Err("no room".into())).unwrap();
    assert_eq!((ended.ticket, ended.ack), (ticket, Err("no room".into())));
    agent.del("u1");
    agent.del("unknown");
    assert_eq!(all(&mut agent, id), [Request::Del("u1".into())]);
    assert_eq!(agent.answered(id, Ok(())), Err(AgentError::Unasked));
}

#[test]
fn what_comes_is_told_to_the_newest_and_what_goes_to_all() {
    let mut agent = Agent::new();
    let old = agent.connected().unwrap();
    let new = agent.connected().unwrap();
    assert_eq!(all(&mut agent, old), all(&mut agent, new));
    agent.add(pod(1), 1).unwrap();
    assert_eq!(all(&mut agent, old), []);
    assert_eq!(all(&mut agent, new), [Request::Add(pod(1), 1)]);
    agent.del("u1");
    for id in [old, new] {
        assert_eq!(all(&mut agent, id), [Request::Del("u1".into())]);
    }
}

#[test]
fn an_older_proxy_that_becomes_the_newest_learns_what_it_missed() {
    let mut agent = Agent::new();
    let old = agent.connected().unwrap();
    let new = agent.connected().unwrap();
    all(&mut agent, old);
    all(&mut agent, new);
    let sent = agent.add(pod(1), 1).unwrap().unwrap();
    assert!(agent.next(new).is_some());
    let waiting = agent.add(pod(2), 2).unwrap().unwrap();
    assert_eq!(agent.disconnected(new), [sent, waiting]);
    let told = [Request::Add(pod(1), 1), Request::Add(pod(2), 2)];
    assert_eq!(all(&mut agent, old), told);
    assert_eq!(agent.disconnected(new), []);
}

#[test]
fn bounds_hold() {
    let mut agent = Agent::new();
    for _ in 0..CONNECTIONS_MAX {
        agent.connected().unwrap();
    }
    assert_eq!(agent.connected(), Err(AgentError::TooManyConnections));
    let newest = ConnectionId(CONNECTIONS_MAX as u64);
    let mut slow = Vec::new();
    for _ in 0..=QUEUE_MAX {
        agent.keep(pod(1)).unwrap();
        slow = agent.del("u1");
    }
    assert_eq!(slow.len(), CONNECTIONS_MAX, "nobody answers");
    assert_eq!(agent.add(pod(1), 1), Err(AgentError::Slow));
    agent.disconnected(newest);
    for n in 0..PODS_MAX {
        let (uid, info) = (format!("p{n}"), pod(0).info);
        assert_ne!(agent.keep(Pod { uid, info }), Err(AgentError::Slow));
    }
    assert_eq!(agent.pods(), PODS_MAX);
    assert_eq!(agent.keep(pod(2)), Err(AgentError::TooManyPods));
    assert!(agent.keep(pod(1)).is_ok(), "it is known already");
}

/// A proxy that does what it is told.
#[derive(Default)]
struct Proxy {
    session: ProxySession,
    running: BTreeMap<String, u8>,
}

impl Proxy {
    fn take(&mut self, request: Request<u8>) {
        match self.session.take(request).unwrap() {
            Command::Run(pod, netns) => drop(self.running.insert(pod.uid, netns)),
            Command::Stop(uid) => drop(self.running.remove(&uid)),
            Command::Only(named) => self.running.retain(|uid, _| named.contains(uid)),
            Command::Forget(_) | Command::Nothing => {}
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8, u8),
    Del(u8),
    Connect(usize),
    Cut(usize),
    /// One request and its answer.
    Turn(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u8..6, 0_u8..3).prop_map(|(n, netns)| Step::Add(n, netns)),
        2 => (0_u8..6).prop_map(Step::Del),
        1 => (0_usize..3).prop_map(Step::Connect),
        1 => (0_usize..3).prop_map(Step::Cut),
        6 => (0_usize..3).prop_map(Step::Turn),
    ]
}

proptest! {
    /// Whatever happens in whatever order: once all is said, the newest proxy runs exactly the pods
    /// there are, in their namespaces, and no older one runs a pod that is gone.
    #[test]
    fn once_all_is_said_the_newest_runs_what_there_is(steps in proptest::collection::vec(step(), 0..120)) {
        let mut agent = Agent::new();
        let mut pods: BTreeMap<String, u8> = BTreeMap::new();
        let mut proxies: [(Option<ConnectionId>, Proxy); 3] = Default::default();
        for step in steps {
            match step {
                Step::Add(n, netns) => {
                    pods.insert(pod(n).uid, netns);
                    agent.add(pod(n), netns).unwrap();
                }
                Step::Del(n) => {
                    pods.remove(&pod(n).uid);
                    prop_assert!(agent.del(&pod(n).uid).is_empty());
                }
                Step::Connect(i) => if proxies[i].0.is_none() {
                    proxies[i].0 = Some(agent.connected().unwrap());
                    proxies[i].1.session = ProxySession::new();
                },
                Step::Cut(i) => if let Some(id) = proxies[i].0.take() {
                    agent.disconnected(id);
                },
                Step::Turn(i) => turn(&mut agent, &mut proxies[i]),
            }
        }
        for proxy in &mut proxies {
            for _ in 0..2 * QUEUE_MAX {
                turn(&mut agent, proxy);
            }
        }
        let connected = || proxies.iter().filter(|p| p.0.is_some());
        if let Some(newest) = connected().max_by_key(|p| p.0) {
            prop_assert_eq!(&newest.1.running, &pods);
        }
        for (_, proxy) in connected() {
            prop_assert!(proxy.session.is_complete());
            prop_assert!(proxy.running.keys().all(|uid| pods.contains_key(uid)));
        }
    }
}

fn turn(agent: &mut Agent<u8>, (id, proxy): &mut (Option<ConnectionId>, Proxy)) {
    let Some(id) = *id else { return };
    if let Some(request) = agent.next(id) {
        assert!(agent.next(id).is_none(), "two requests without an answer");
        proxy.take(request);
        agent.answered(id, Ok(())).unwrap();
    }
}
