//! Routes on real requests: split, filters, redirect, gateway listeners.

use super::support::{World, backend, get, run, shop, status, talk, text};
use crate::context::{OwnedScope, Role};
use http::Response;
use mesh_model::{
    GatewayListener, Header, HeaderModifier, HttpFilter, HttpMatch, ListenerKey, ListenerProtocol,
    ObjectName, ParentRef, PathMatch, PathModifier, Redirect, Resource, ServiceName, UrlRewrite,
};
use std::sync::Arc;

fn named(world: &World, name: &'static str) -> std::net::SocketAddr {
    world.origin(move |_| async move { Response::new(text(name)) })
}

#[test]
fn weights_split_the_requests() {
    run(|mut world| async move {
        let (blue, green) = (named(&world, "blue"), named(&world, "green"));
        let other = ServiceName::new("demo", "green.demo.svc.cluster.local");
        world.service(&shop(), &[blue]);
        world.service(&other, &[green]);
        world.rule(|rule| rule.backends = vec![backend(&shop(), 1), backend(&other, 3)]);
        let proxy = world.proxy();
        let mut green = 0;
        for _ in 0..200 {
            let answer = get(proxy, "/").await;
            green += usize::from(answer.ends_with("green"));
        }
        // 150 expected, standard deviation 6: out of this range once in 10^15 runs.
        assert!((100..=199).contains(&green), "{green} of 200");
        let records = world.records(200).await;
        assert!(records.iter().all(|r| r["route_name"] == "demo/route/0"));
    });
}

#[test]
fn filters_work_on_both_messages() {
    run(|mut world| async move {
        let origin = world.origin(|request| async move {
            let headers = request.headers();
            let seen = format!(
                "{} {} {}",
                request.uri(),
                headers["host"].to_str().unwrap(),
                headers["x-set"].to_str().unwrap()
            );
            let mut response = Response::new(text(&seen));
            response
                .headers_mut()
                .insert("x-secret", "1".parse().unwrap());
            response
        });
        world.service(&shop(), &[origin]);
        let header = |name: &str, value: &str| Header {
            name: name.into(),
            value: value.into(),
        };
        world.rule(|rule| {
            rule.matches = vec![HttpMatch {
                path: Some(PathMatch::Prefix("/old".into())),
                ..HttpMatch::default()
            }];
            rule.filters = vec![
                HttpFilter::RequestHeaders(HeaderModifier {
                    set: vec![header("x-set", "yes")],
                    ..HeaderModifier::default()
                }),
                HttpFilter::Rewrite(UrlRewrite {
                    hostname: Some("inner".into()),
                    path: Some(PathModifier::ReplacePrefix("/new".into())),
                }),
                HttpFilter::ResponseHeaders(HeaderModifier {
                    add: vec![header("x-added", "a")],
                    remove: vec!["x-secret".into()],
                    ..HeaderModifier::default()
                }),
            ];
        });
        let answer = get(world.proxy(), "/old/x?q=1").await;
        assert!(answer.ends_with("/new/x?q=1 inner yes"), "{answer}");
        assert!(
            answer.contains("x-added: a") && !answer.contains("x-secret"),
            "{answer}"
        );
    });
}

#[test]
fn a_redirect_is_answered_here() {
    run(|mut world| async move {
        world.service(&shop(), &[]);
        world.rule(|rule| {
            rule.backends = Vec::new();
            rule.filters = vec![HttpFilter::Redirect(Redirect {
                scheme: Some("https".into()),
                hostname: None,
                path: None,
                port: None,
                status: 301,
            })];
        });
        let answer = get(world.proxy(), "/a?b").await;
        assert_eq!(status(&answer), 301);
        assert!(
            answer.contains("location: https://shop/a?b\r\n"),
            "{answer}"
        );
        let record = world.record().await;
        assert_eq!(
            (&record["response_code"], &record["reason"]),
            (&301.into(), &"ok".into())
        );
    });
}

fn gateway(world: &mut World, hosts: &[&str]) {
    let gateway = ObjectName::new("demo", "edge");
    for host in hosts {
        world.put(Resource::Listener(Arc::new(GatewayListener {
            key: ListenerKey {
                gateway: gateway.clone(),
                name: (*host).into(),
            },
            port: 443,
            protocol: ListenerProtocol::Https,
            hostname: Some(host.parse().unwrap()),
            certificates: Vec::new(),
        })));
    }
    world.rule(|rule| {
        rule.parents = vec![ParentRef::Gateway {
            name: gateway.clone(),
            section: None,
            port: None,
        }];
    });
    world.context.scope = OwnedScope::Gateway { gateway, port: 443 };
    world.context.role = Role::Edge { secure: true };
}

#[test]
fn a_gateway_takes_the_hosts_of_its_listeners() {
    run(|mut world| async move {
        let origin = named(&world, "here");
        world.service(&shop(), &[origin]);
        gateway(&mut world, &["a.example", "*.b.example"]);
        let proxy = world.proxy();
        let ask = |host: &'static str| async move {
            let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            talk(proxy, &request).await
        };
        assert!(ask("A.example:443").await.ends_with("here"));
        assert!(ask("x.b.example").await.ends_with("here"));
        assert_eq!(status(&ask("c.example").await), 404);
        let reasons = world.records(3).await;
        assert_eq!(reasons[2]["reason"], "no_route");
    });
}

/// A browser may reuse a connection for a host of another certificate: it is told to make a new one.
#[test]
fn a_host_of_another_listener_is_misdirected() {
    run(|mut world| async move {
        let origin = named(&world, "here");
        world.service(&shop(), &[origin]);
        gateway(&mut world, &["a.example", "b.example"]);
        world.context.server_name = Some("a.example".into());
        let request = "GET / HTTP/1.1\r\nhost: b.example\r\nconnection: close\r\n\r\n";
        let answer = talk(world.proxy(), request).await;
        assert_eq!(status(&answer), 421);
        assert_eq!(world.record().await["response_code"], 421);
    });
}
