//! Both sides over a real socket: what is told, what is answered, and what ends a connection.

use super::*;
use crate::{AgentConnection, Command, ProxySession, encode_ack};
use std::collections::BTreeSet;
use std::path::PathBuf;

struct Room {
    hub: Hub,
    scope: Scope,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

fn room() -> Room {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ztunnel.sock");
    let (hub, scope) = (Hub::new(), Scope::new());
    let listener = SeqPacketListener::bind(&path).unwrap();
    scope.spawn("agent", hub.clone().serve(listener, scope.clone()));
    Room {
        hub,
        scope,
        path,
        _folder: folder,
    }
}

impl Room {
    async fn until(&self, holds: impl FnMut(&HubStatus) -> bool) {
        self.hub.status().wait_for(holds).await.unwrap();
    }

    /// A proxy that has heard of all pods, and which.
    async fn proxy(&self) -> (AgentConnection, ProxySession, BTreeSet<String>) {
        let agent = AgentConnection::open(&self.path).await.unwrap();
        let mut session = ProxySession::new();
        loop {
            let request = agent.next().await.unwrap().unwrap();
            let command = session.take(request).unwrap();
            agent.answer(&Ok(())).await.unwrap();
            if let Command::Only(named) = command {
                return (agent, session, named);
            }
        }
    }
}

fn pod(uid: &str) -> Pod {
    Pod {
        uid: uid.into(),
        info: "demo/web-1/web".parse().unwrap(),
    }
}

#[tokio::test]
async fn pods_come_with_their_namespace_and_each_request_is_answered() {
    let room = room();
    let here = Netns::current().unwrap();
    assert_eq!(
        room.hub.add(pod("a"), here.clone()).await,
        Err(AddError::NoProxy)
    );
    room.hub.keep(pod("b")).unwrap();
    let (agent, mut session, named) = room.proxy().await;
    assert_eq!(named, ["a", "b"].map(String::from).into());
    room.until(|s| (s.pods, s.proxies) == (2, 1)).await;

    let adding = room.hub.add(pod("c"), here.clone());
    let proxy = async {
        let request = agent.next().await.unwrap().unwrap();
        let Command::Run(told, netns) = session.take(request).unwrap() else {
            panic!("not an Add");
        };
        assert_eq!((told, netns), (pod("c"), here.clone()));
        agent.answer(&Err("no room".into())).await.unwrap();
    };
    let (added, ()) = tokio::join!(adding, proxy);
    assert_eq!(added, Err(AddError::Refused("no room".into())));

    room.hub.del("a");
    let request = agent.next().await.unwrap().unwrap();
    assert_eq!(request, Request::Del("a".into()));
    agent.answer(&Ok(())).await.unwrap();
    drop(agent);
    room.until(|s| (s.pods, s.proxies) == (2, 0)).await;
}

#[tokio::test]
async fn the_newest_proxy_is_told_of_new_pods_and_an_older_one_takes_over_from_it() {
    let room = room();
    let here = Netns::current().unwrap();
    let (old, ..) = room.proxy().await;
    let (new, ..) = room.proxy().await;
    let hub = room.hub.clone();
    let adding = async move { hub.add(pod("a"), here).await };
    let proxies = async {
        assert!(matches!(new.next().await, Ok(Some(Request::Add(..)))));
        // It goes without an answer.
        drop(new);
        let told = old.next().await.unwrap().unwrap();
        assert!(matches!(told, Request::Add(p, _) if p == pod("a")));
        old.answer(&Ok(())).await.unwrap();
    };
    let (added, ()) = tokio::join!(adding, proxies);
    assert_eq!(added, Err(AddError::ProxyGone));
    room.hub.del("a");
    let told = old.next().await.unwrap().unwrap();
    assert_eq!(told, Request::Del("a".into()));
}

#[tokio::test]
async fn a_proxy_that_breaks_the_protocol_is_dropped() {
    let room = room();
    // Another version.
    let stranger = SeqPacket::connect(&room.path).unwrap();
    stranger.send(&[8, 7], &[]).await.unwrap();
    assert!(stranger.receive(64).await.unwrap().is_none());
    // An answer to nothing.
    let (agent, ..) = room.proxy().await;
    agent.answer(&Ok(())).await.unwrap();
    assert!(agent.next().await.unwrap().is_none());
    room.until(|s| s.proxies == 0).await;
}

#[tokio::test]
async fn what_comes_cut_or_without_its_descriptor_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = SeqPacketListener::bind(&path).unwrap();
    let agent = AgentConnection::open(&path).await.unwrap();
    let far = listener.accept().await.unwrap();
    assert_eq!(far.receive(64).await.unwrap().unwrap().bytes, [8, 1]);
    // An Add of interop/zds-cni.md, but nothing beside it.
    let mut add = vec![0x0a, 14, 0x0a, 1, b'u', 0x12, 9];
    add.extend([0x0a, 1, b'p', 0x12, 1, b'n', 0x1a, 1, b's']);
    far.send(&add, &[]).await.unwrap();
    let error = agent.next().await.unwrap_err().to_string();
    assert!(error.contains("0 descriptors beside Add"), "{error}");
    far.send(&[0; 1025], &[]).await.unwrap();
    let error = agent.next().await.unwrap_err().to_string();
    assert!(error.contains("longer than 1024"), "{error}");
    agent.answer(&Err(error)).await.unwrap();
    let nack = far.receive(1024).await.unwrap().unwrap().bytes;
    assert_ne!(nack, encode_ack(&Ok(())));
}
