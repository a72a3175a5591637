//! The pods of a node as an agent tells them to its proxy (ZDS).

use crate::input::Input;
use mesh_zds::{
    Command, ERROR_BYTES_MAX, MESSAGE_BYTES_MAX, MessageError, PODS_MAX, ProxySession, Request,
    decode_ack, decode_hello, decode_request, encode_ack, encode_hello, encode_request,
};
use std::collections::BTreeSet;

/// One connection: what is understood survives its bytes and has the descriptors that belong to it, and
/// the pods that stay at the end of the snapshot are those named before it. Each datagram is a byte for
/// its descriptors and a chunk.
pub fn zds(data: &[u8]) {
    let mut input = Input::new(data);
    let mut session = ProxySession::new();
    let mut named = BTreeSet::new();
    while !input.is_empty() {
        let descriptors = usize::from(input.below(4));
        let bytes = input.chunk();
        // The socket's reader has a buffer of this size and refuses what does not fit.
        let bytes = bytes.get(..MESSAGE_BYTES_MAX).unwrap_or(bytes);
        hello_and_ack(bytes);
        match decode_request(bytes, vec![(); descriptors]) {
            Ok(request) => {
                survives_its_bytes(&request, descriptors);
                if !taken(&mut session, &mut named, request) {
                    return;
                }
            }
            // The text goes back to the agent.
            Err(error) => acknowledged(&error),
        }
    }
}

fn hello_and_ack(bytes: &[u8]) {
    if let Ok(hello) = decode_hello(bytes) {
        assert_eq!(decode_hello(&encode_hello(hello)), Ok(hello));
    }
    if let Ok(ack) = decode_ack(bytes) {
        let again = decode_ack(&encode_ack(&ack)).expect("our own acknowledgement");
        match (ack, again) {
            (Ok(()), Ok(())) => {}
            (Err(before), Err(after)) => assert!(before.starts_with(&after) && !after.is_empty()),
            other => panic!("{other:?}"),
        }
    }
}

fn survives_its_bytes(request: &Request<()>, descriptors: usize) {
    let wanted = usize::from(matches!(request, Request::Add(..)));
    assert_eq!(descriptors, wanted);
    // What is not known of a message is left out, and ours is the shortest form of the rest.
    let bytes = encode_request(request).expect("no longer than it came");
    let again = decode_request(&bytes, vec![(); descriptors]);
    assert_eq!(again.as_ref(), Ok(request));
}

fn acknowledged(error: &MessageError) {
    let text = error.to_string();
    assert!(!text.is_empty());
    let bytes = encode_ack(&Err(text));
    assert!(bytes.len() <= ERROR_BYTES_MAX + 8);
    assert!(decode_ack(&bytes).is_ok_and(|ack| ack.is_err()));
}

/// Whether the connection goes on.
fn taken(session: &mut ProxySession, named: &mut BTreeSet<String>, request: Request<()>) -> bool {
    let complete = session.is_complete();
    match &request {
        Request::Add(pod, ()) => named.insert(pod.uid.clone()),
        Request::Keep(uid) => named.insert(uid.clone()),
        Request::Del(uid) => named.remove(uid),
        Request::SnapshotSent => false,
    };
    match session.take(request.clone()) {
        Ok(Command::Only(stay)) => {
            assert!(!complete && session.is_complete() && stay.len() <= PODS_MAX);
            assert_eq!(&stay, named);
        }
        Ok(command) => {
            let as_asked = match (&request, command) {
                (Request::Add(pod, ()), Command::Run(run, ())) => *pod == run,
                (Request::Keep(_), Command::Nothing) => !complete,
                (Request::Del(uid), Command::Forget(forgotten)) => !complete && *uid == forgotten,
                (Request::Del(uid), Command::Stop(stopped)) => complete && *uid == stopped,
                _ => false,
            };
            assert!(as_asked, "{request:?}");
            assert_eq!(session.is_complete(), complete);
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(complete || named.len() > PODS_MAX);
            return false;
        }
    }
    true
}
