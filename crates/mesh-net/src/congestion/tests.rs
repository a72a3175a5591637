//! The tests of [`super`].

use super::*;
use crate::{ConnectOptions, ListenOptions, accept, connect, listen};
use std::os::fd::AsFd;

fn name(socket: &impl AsFd) -> String {
    let name = SockRef::from(socket).tcp_congestion().unwrap();
    let name = String::from_utf8(name).unwrap();
    name.trim_end_matches('\0').to_owned()
}

fn named(name: &str) -> Algorithm {
    Algorithm::Named(name.to_owned())
}

/// The settings are of the process, and so is this test's place for them all.
#[tokio::test]
async fn each_link_has_its_own_at_both_ends() {
    set_congestion(&Congestion {
        machine: named("reno"),
        tunnel: Algorithm::Kernel,
    });
    let kernels = kernels().unwrap();
    let cases = [
        (Link::Machine, "reno"),
        (Link::Tunnel, &kernels),
        (Link::Network, &kernels),
    ];
    for (link, expected) in cases {
        let mut at = ListenOptions::new("127.0.0.1:0".parse().unwrap());
        at.link = link;
        let listener = listen(&at).unwrap();
        let to = listener.local_addr().unwrap();
        let options = ConnectOptions {
            link,
            ..ConnectOptions::default()
        };
        let (client, accepted) = tokio::join!(connect(to, &options), accept(&listener));
        assert_eq!(name(&client.unwrap()), expected, "{link:?}");
        assert_eq!(name(&accepted.unwrap().0), expected, "{link:?}");
    }
}

#[test]
fn nothing_is_changed_where_the_kernels_choice_does_not_pace() {
    let pacing = paces(&kernels().unwrap());
    let decided = decide(&Congestion::default());
    assert_eq!(decided.far.is_some(), pacing);
    for near in [decided.machine, decided.tunnel] {
        assert_eq!(near.is_some(), pacing);
        assert!(near.is_none_or(|name| !paces(&name)));
    }
}

#[test]
fn what_is_named_is_used_for_tunnels_of_any_length() {
    let decided = decide(&Congestion {
        machine: Algorithm::Kernel,
        tunnel: named("reno"),
    });
    assert_eq!(decided.machine, None);
    assert_eq!(decided.tunnel.as_deref(), Some("reno"));
    assert_eq!(decided.far, None);
}

#[tokio::test]
async fn the_round_trip_over_loopback_is_known_and_short() {
    let listener = listen(&ListenOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
    let to = listener.local_addr().unwrap();
    let client = connect(to, &ConnectOptions::default()).await.unwrap();
    let time = round_trip(&client).unwrap();
    assert!(!time.is_zero());
    // Not that of a connection that was never made, which is none, nor the kernel's first guess of a second.
    assert!(time < Duration::from_secs(1), "{time:?}");
}

#[test]
fn an_algorithm_that_is_not_there_is_refused() {
    check_congestion("reno").unwrap();
    for bad in ["", "renowned", "reno-and-sixteen-more"] {
        assert!(check_congestion(bad).is_err(), "{bad}");
    }
}
