//! What the kernel is told, word by word, and how what stands becomes what should stand.

use crate::transaction::{Standing, install, uninstall};
use crate::{
    Family, InPodOptions, LoopExclusion, Mode, Ports, RuleSet, SidecarOptions, Table, Target,
};

fn in_pod(options: InPodOptions) -> RuleSet {
    RuleSet::new(&Mode::InPod(options))
}

fn sidecar(options: SidecarOptions) -> RuleSet {
    RuleSet::new(&Mode::Sidecar(options))
}

/// One chain's lines, without the chain.
fn chain(text: &str, table: &str, name: &str) -> Vec<String> {
    let start = format!("*{table}\n");
    let Some((_, rest)) = text.split_once(&start) else {
        return Vec::new();
    };
    let (table, _) = rest.split_once("COMMIT").unwrap();
    let prefix = format!("-A {name} ");
    let lines = table.lines().filter_map(|line| line.strip_prefix(&prefix));
    lines.map(str::to_owned).collect()
}

#[test]
fn in_pod_rules_of_ipv4() {
    let text = in_pod(InPodOptions::default()).render(Family::V4);
    assert_eq!(
        text,
        "\
*mangle
:ISTIO_PRERT - [0:0]
:ISTIO_OUTPUT - [0:0]
-A PREROUTING -j ISTIO_PRERT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_PRERT -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
-A ISTIO_OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
COMMIT
*nat
:ISTIO_PRERT - [0:0]
:ISTIO_OUTPUT - [0:0]
-A PREROUTING -j ISTIO_PRERT
-A ISTIO_PRERT -s 169.254.7.127/32 -p tcp -j ACCEPT
-A ISTIO_PRERT ! -d 127.0.0.0/8 -p tcp ! --dport 15008 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -d 169.254.7.127/32 -p tcp -j ACCEPT
-A ISTIO_OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A ISTIO_OUTPUT ! -d 127.0.0.0/8 -o lo -j ACCEPT
-A ISTIO_OUTPUT ! -d 127.0.0.0/8 -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
COMMIT
"
    );
}

#[test]
fn in_pod_rules_of_ipv6_differ_in_addresses_only() {
    let set = in_pod(InPodOptions::default());
    let translated = set
        .render(Family::V4)
        .replace(
            "169.254.7.127/32",
            "fd16:9254:7127:1337:ffff:ffff:ffff:ffff/128",
        )
        .replace("127.0.0.0/8", "::1/128");
    assert_eq!(set.render(Family::V6), translated);
}

#[test]
fn in_pod_options_change_their_rules() {
    let edge = in_pod(InPodOptions {
        capture_inbound: false,
        ..InPodOptions::default()
    });
    let rules = chain(&edge.render(Family::V4), "nat", "ISTIO_PRERT");
    assert!(rules.is_empty(), "{rules:?}");

    let machine = in_pod(InPodOptions {
        virtual_interfaces: vec!["k6t-eth0".parse().unwrap()],
        ..InPodOptions::default()
    });
    let rules = chain(&machine.render(Family::V6), "nat", "ISTIO_PRERT");
    assert_eq!(rules[0], "-i k6t-eth0 -p tcp -j REDIRECT --to-ports 15001");
    assert_eq!(rules[1], "-i k6t-eth0 -j RETURN");

    let dns = in_pod(InPodOptions {
        capture_dns: true,
        ..InPodOptions::default()
    });
    let text = dns.render(Family::V4);
    let outgoing = chain(&text, "nat", "ISTIO_OUTPUT");
    assert_eq!(
        outgoing[1..3],
        [
            "! -o lo -p udp --dport 53 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15053",
            "! -d 127.0.0.0/8 -p tcp --dport 53 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15053",
        ]
    );
    assert_eq!(
        chain(&text, "raw", "ISTIO_OUTPUT"),
        ["-p udp --dport 53 -m mark --mark 0x539/0xfff -j CT --zone 1"]
    );
    assert_eq!(
        chain(&text, "raw", "ISTIO_PRERT"),
        ["-p udp --sport 53 -m mark ! --mark 0x539/0xfff -j CT --zone 1"]
    );
}

#[test]
fn sidecar_rules_of_ipv4() {
    let text = sidecar(SidecarOptions::default()).render(Family::V4);
    assert_eq!(
        text,
        "\
*nat
:ISTIO_OUTPUT - [0:0]
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15000 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15020 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15021 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15090 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -m mark --mark 0x539/0xfff -j RETURN
-A ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
-A ISTIO_OUTPUT -o lo -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.0/8 -j RETURN
-A ISTIO_OUTPUT -p tcp -j ISTIO_REDIRECT
COMMIT
"
    );
}

#[test]
fn sidecar_rules_of_ipv6_differ_in_addresses_only() {
    let set = sidecar(SidecarOptions::default());
    let translated = set
        .render(Family::V4)
        .replace("127.0.0.6/32", "::6/128")
        .replace("127.0.0.0/8", "::1/128");
    assert_eq!(set.render(Family::V6), translated);
}

#[test]
fn sidecar_options_change_their_rules() {
    let ranges = |list: &[&str]| list.iter().map(|range| range.parse().unwrap()).collect();
    let set = sidecar(SidecarOptions {
        exclusion: LoopExclusion::Owner {
            uid: 1337,
            gid: 1337,
        },
        include_inbound_ports: Ports::Only(vec![8080]),
        // 15021 is excluded anyway, and not twice.
        exclude_inbound_ports: vec![9000, 15021],
        include_outbound_ports: vec![443],
        exclude_outbound_ports: vec![5432],
        include_outbound_ranges: Some(ranges(&["10.0.0.0/8", "fd00::/8"])),
        exclude_outbound_ranges: ranges(&["10.1.0.0/16", "fd00:1::/32"]),
        exclude_interfaces: vec!["eth1".parse().unwrap()],
    });
    let text = set.render(Family::V4);
    assert_eq!(
        chain(&text, "nat", "ISTIO_OUTPUT"),
        [
            "-m owner --uid-owner 1337 -j RETURN",
            "-m owner --gid-owner 1337 -j RETURN",
            "-s 127.0.0.6/32 -o lo -j RETURN",
            "-o lo -j RETURN",
            "-d 127.0.0.0/8 -j RETURN",
            "-o eth1 -j RETURN",
            "-p tcp --dport 5432 -j RETURN",
            "-d 10.1.0.0/16 -j RETURN",
            "-p tcp --dport 443 -j ISTIO_REDIRECT",
            "-p tcp -d 10.0.0.0/8 -j ISTIO_REDIRECT",
        ]
    );
    let inbound = chain(&text, "nat", "ISTIO_INBOUND");
    assert_eq!(inbound[0], "-i eth1 -j RETURN");
    assert_eq!(
        inbound[6..],
        [
            "-p tcp --dport 9000 -j RETURN",
            "-p tcp --dport 8080 -j ISTIO_IN_REDIRECT"
        ]
    );
    let outbound = chain(&set.render(Family::V6), "nat", "ISTIO_OUTPUT");
    assert_eq!(outbound[9], "-p tcp -d fd00::/8 -j ISTIO_REDIRECT");
}

#[test]
fn every_capture_spares_what_the_proxy_marked() {
    // In-pod by a condition of each capture; in a sidecar by the first rule of the chain.
    let set = in_pod(InPodOptions {
        capture_dns: true,
        virtual_interfaces: vec!["vm0".parse().unwrap()],
        ..InPodOptions::default()
    });
    for family in [Family::V4, Family::V6] {
        for rule in set.rules(family) {
            let from_machine = rule
                .matches
                .iter()
                .any(|m| matches!(m, crate::Match::In(_)));
            if matches!(rule.target, Target::Redirect(_)) && !from_machine {
                let spared = crate::Match::NotPacketMark(crate::PROXY_MARK);
                assert!(rule.matches.contains(&spared), "{rule}");
            }
        }
        let text = sidecar(SidecarOptions::default()).render(family);
        let first = &chain(&text, "nat", "ISTIO_OUTPUT")[0];
        assert_eq!(first, "-m mark --mark 0x539/0xfff -j RETURN");
    }
}

#[test]
fn what_stands_is_replaced_and_not_doubled() {
    let mut standing = Standing::default();
    standing.read(
        Table::Nat,
        "-P PREROUTING ACCEPT\n-N ISTIO_PRERT\n-N ISTIO_INBOUND\n-N FOREIGN\n\
         -A PREROUTING -p tcp -j ISTIO_INBOUND\n-A PREROUTING -p tcp -j ISTIO_INBOUND\n\
         -A PREROUTING -j FOREIGN\n-A ISTIO_INBOUND -p tcp -j RETURN\n",
    );
    standing.read(Table::Raw, "-N ISTIO_OUTPUT\n-A OUTPUT -j ISTIO_OUTPUT\n");
    let set = in_pod(InPodOptions {
        capture_inbound: false,
        ..InPodOptions::default()
    });
    let text = install(set.rules(Family::V4), &standing);
    // Both jumps of the other mode go, its chain too, and so does a whole table that has no use.
    assert_eq!(
        text.matches("-D PREROUTING -p tcp -j ISTIO_INBOUND\n")
            .count(),
        2
    );
    assert!(text.contains("-X ISTIO_INBOUND\n"), "{text}");
    assert!(text.contains(
        "*raw\n:ISTIO_OUTPUT - [0:0]\n-D OUTPUT -j ISTIO_OUTPUT\n-X ISTIO_OUTPUT\nCOMMIT\n"
    ));
    assert!(!text.contains("FOREIGN"), "{text}");

    let text = uninstall(&standing).unwrap();
    assert!(text.starts_with("*nat\n"), "{text}");
    assert!(
        text.contains("-X ISTIO_PRERT\n") && text.contains("-X ISTIO_INBOUND\n"),
        "{text}"
    );
    assert!(!text.contains("-A ") && !text.contains("FOREIGN"), "{text}");
    assert_eq!(uninstall(&Standing::default()), None);
}

#[test]
fn names_that_would_break_a_rule_are_refused() {
    for bad in [
        "",
        "-j",
        "eth0 -j ACCEPT",
        "eth0\n-A",
        "sixteen-letters-",
        "eth*",
    ] {
        assert!(
            bad.parse::<crate::Interface>().is_err(),
            "{bad:?} was taken"
        );
    }
    assert_eq!(
        "eth0.7".parse::<crate::Interface>().unwrap().to_string(),
        "eth0.7"
    );
}
