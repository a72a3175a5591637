//! Clients against origins, in one process, over real sockets.

use super::*;
use crate::origin::{
    self, CounterOptions, GrpcOptions, HttpOptions, MysqlOptions, NextCall, SmtpOptions,
    TcpOptions, WebsocketOptions,
};
use hyper::Method;
use mesh_runtime::Scope;
use mesh_testkit::{Leaf, TestCa};
use mesh_tls::{EdgeClientSettings, EdgeTls};
use std::io;
use tokio::net::TcpListener;
use tonic::Code;

const WAIT: Duration = Duration::from_secs(10);

/// A server on a free port; it ends with the guard.
struct Running {
    target: Target,
    scope: Scope,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

fn run<Fut>(serve: impl FnOnce(TcpListener) -> Fut) -> Running
where
    Fut: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = origin::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let target = Target::new(listener.local_addr().unwrap());
    let scope = Scope::new();
    let serving = serve(listener);
    scope.spawn("origin", async move { serving.await.unwrap() });
    Running { target, scope }
}

fn http_origin(name: &str, next: Option<String>) -> Running {
    let options = HttpOptions {
        name: name.into(),
        payload: "stars".into(),
        next: next.map(|url| NextCall { url, host: None }),
    };
    run(|listener| origin::serve_http_on(listener, options))
}

#[tokio::test]
async fn an_http_origin_says_who_it_is_and_what_arrived() {
    let origin = http_origin("reviews-v1", None);
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let call = HttpCall::get("reviews.example:80", "/a?b=c")
            .header("x-user", "jason")
            .send(Method::POST, "body");
        let answer = http(&origin.target, version, &call).await.unwrap();
        let echo = answer.echo().unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(echo.name, "reviews-v1");
        assert_eq!(echo.payload, "stars");
        assert_eq!(echo.host, "reviews.example:80");
        assert_eq!(echo.path, "/a?b=c");
        assert_eq!(echo.method, "POST");
        assert_eq!(echo.body_bytes, 4);
        assert_eq!(echo.headers["x-user"], "jason");
        let protocol = match version {
            HttpVersion::Http1 => "HTTP/1.1",
            HttpVersion::Http2 => "HTTP/2.0",
        };
        assert_eq!(echo.protocol, protocol);
    }
}

#[tokio::test]
async fn a_chain_of_origins_carries_the_trace_and_embeds_each_answer() {
    let ratings = http_origin("ratings", None);
    let reviews = http_origin(
        "reviews",
        Some(format!("http://{}/ratings", ratings.target.address)),
    );
    let shop = http_origin("shop", Some(format!("http://{}/", reviews.target.address)));
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let call = HttpCall::get("shop", "/")
        .header("traceparent", trace)
        .header("x-request-id", "7")
        .header("cookie", "stays here");
    // Twice, so that kept connections are used too.
    for _ in 0..2 {
        let answer = http(&shop.target, HttpVersion::Http1, &call).await.unwrap();
        let next = answer.echo().unwrap().next.unwrap();
        assert_eq!(next.status, Some(200));
        let reviews = next.answer.unwrap();
        assert_eq!(reviews.name, "reviews");
        assert!(!reviews.headers.contains_key("cookie"));
        let ratings = reviews.next.unwrap().answer.unwrap();
        assert_eq!(ratings.name, "ratings");
        assert_eq!(ratings.path, "/ratings");
        assert_eq!(ratings.headers["traceparent"], trace);
        assert_eq!(ratings.headers["x-request-id"], "7");
    }
}

#[tokio::test]
async fn a_broken_chain_says_where_it_broke() {
    let nowhere = {
        let listener = origin::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        listener.local_addr().unwrap()
    };
    let shop = http_origin("shop", Some(format!("http://{nowhere}/")));
    let call = HttpCall::get("shop", "/");
    let answer = http(&shop.target, HttpVersion::Http1, &call).await.unwrap();
    let next = answer.echo().unwrap().next.unwrap();
    assert_eq!(next.status, None);
    assert!(next.text.unwrap().contains("connect"));
}

#[tokio::test]
async fn sequences_and_loads_are_tallied() {
    let origin = http_origin("a", None);
    let call = HttpCall::get("a", "/");
    let tally = http_sequence(&origin.target, HttpVersion::Http1, &call, 20).await;
    assert_eq!(tally.of_status(200), 20, "{tally:?}");
    assert_eq!(tally.answers["a"], 20);
    assert!(tally.p50().is_some());
    for version in [HttpVersion::Http1, HttpVersion::Http2] {
        let tally = http_load(&origin.target, version, &call, 101, 8).await;
        assert_eq!((tally.requests(), tally.failures()), (101, 0), "{tally:?}");
    }
    let failing = HttpCall::get("a", "/?status=503");
    let tally = http_sequence(&origin.target, HttpVersion::Http1, &failing, 3).await;
    assert_eq!((tally.failures(), tally.errors), (3, 0));
    let filler = HttpCall::get("a", "/?bytes=100000");
    let answer = http(&origin.target, HttpVersion::Http1, &filler).await;
    assert_eq!(answer.unwrap().body.len(), 100_000);
}

#[tokio::test]
async fn nobody_there_is_an_error_that_is_counted() {
    let target = {
        let listener = origin::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Target::new(listener.local_addr().unwrap())
    };
    let call = HttpCall::get("a", "/");
    let tally = http_sequence(&target, HttpVersion::Http1, &call, 2).await;
    assert_eq!((tally.errors, tally.error_texts.len()), (2, 1), "{tally:?}");
    let outcome = tcp_outcome(&target, b"x", WAIT).await;
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
}

/// TLS before an origin, as a gateway puts it there.
fn tls_before(origin: &Running, ca: &TestCa, host: &str) -> Running {
    let certificate = ca.issue(Leaf::new().dns(host));
    let edge = EdgeTls::new(vec![(Some(host.parse().unwrap()), certificate)]).unwrap();
    let to = origin.target.clone();
    run(move |listener| async move {
        let tasks = origin::EndOnDrop(Scope::new());
        loop {
            let (stream, _) = mesh_net::accept(&listener).await?;
            let (edge, to) = (edge.clone(), to.clone());
            tasks.0.spawn("tls", async move {
                // A client that refuses the certificate leaves here.
                if let Ok((mut down, _)) = edge.accept(stream).await {
                    let mut up = to.connect_tcp().await.unwrap();
                    let _ends = tokio::io::copy_bidirectional(&mut down, &mut up).await;
                }
            });
        }
    })
}

fn connector(ca: &TestCa, name: &str, alpn: &[&str]) -> EdgeConnector {
    let settings = EdgeClientSettings::named(name, ca.root_pem()).alpn(alpn);
    EdgeConnector::new(&settings).unwrap()
}

#[tokio::test]
async fn https_asks_for_a_name_and_checks_the_root() {
    let ca = TestCa::new();
    let origin = http_origin("shop", None);
    let edge = tls_before(&origin, &ca, "shop.example");
    let call = HttpCall::get("shop.example", "/");
    for (alpn, protocol) in [("http/1.1", "HTTP/1.1"), ("h2", "HTTP/2.0")] {
        let connector = connector(&ca, "shop.example", &[alpn]);
        let target = edge.target.clone().tls(connector);
        let answer = http(&target, HttpVersion::Http1, &call).await.unwrap();
        assert_eq!(answer.echo().unwrap().protocol, protocol);
    }
    let stranger = connector(&TestCa::new(), "shop.example", &[]);
    let target = edge.target.clone().tls(stranger);
    let error = http(&target, HttpVersion::Http1, &call).await.unwrap_err();
    assert!(error.to_string().contains("TLS"), "{error}");
}

#[tokio::test]
async fn grpc_echoes_single_messages_streams_and_failures() {
    let options = GrpcOptions {
        name: "echo-v1".into(),
    };
    let origin = run(|listener| origin::serve_grpc_on(listener, options));
    let mut client = GrpcClient::new(&origin.target, "echo.example:50051")
        .unwrap()
        .metadata("x-user", "jason")
        .unwrap();
    let answer = client.unary("hello").await.unwrap();
    assert_eq!((&*answer.name, &*answer.message), ("echo-v1", "hello"));
    assert_eq!(answer.metadata["x-user"], "jason");
    let answers = client.stream(&["a", "b", "c"]).await.unwrap();
    let got: Vec<_> = answers.iter().map(|a| (&*a.message, a.sequence)).collect();
    assert_eq!(got, [("a", 1), ("b", 2), ("c", 3)]);
    let status = client.fail(Code::ResourceExhausted).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn grpc_works_in_tls() {
    let ca = TestCa::new();
    let options = GrpcOptions {
        name: "echo".into(),
    };
    let origin = run(|listener| origin::serve_grpc_on(listener, options));
    let edge = tls_before(&origin, &ca, "echo.example");
    let target = edge
        .target
        .clone()
        .tls(connector(&ca, "echo.example", &["h2"]));
    let mut client = GrpcClient::new(&target, "echo.example").unwrap();
    assert_eq!(client.unary("hello").await.unwrap().message, "hello");
}

#[tokio::test]
async fn websockets_echo_in_plain_and_in_tls() {
    let ca = TestCa::new();
    let options = WebsocketOptions::default();
    let origin = run(|listener| origin::serve_websocket_on(listener, options));
    let edge = tls_before(&origin, &ca, "ws.example");
    let in_tls = edge
        .target
        .clone()
        .tls(connector(&ca, "ws.example", &["http/1.1"]));
    for target in [&origin.target, &in_tls] {
        let texts = websocket_echo(target, "ws.example", "/ws", &["one", "two"]).await;
        assert_eq!(texts.unwrap(), ["one", "two"]);
    }
}

#[tokio::test]
async fn a_websocket_refused_says_with_which_status() {
    let origin = http_origin("plain", None);
    let error = Websocket::open(&origin.target, "a", "/?status=403")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("403"), "{error}");
}

#[tokio::test]
async fn servers_that_speak_first_do() {
    let smtp = SmtpOptions {
        name: "mail.example".into(),
    };
    let smtp = run(|listener| origin::serve_smtp_on(listener, smtp));
    let greeting = first_bytes(&smtp.target, WAIT).await.unwrap();
    assert!(greeting.bytes.starts_with(b"220 mail.example ESMTP"));
    let session = b"EHLO me\r\nMAIL FROM:<a@b>\r\nDATA\r\nQUIT\r\n.\r\nwhat\r\nQUIT\r\n";
    let answer = tcp_exchange(&smtp.target, session, WAIT).await.unwrap();
    let text = String::from_utf8(answer).unwrap();
    let codes: Vec<&str> = text.lines().filter_map(|line| line.get(..3)).collect();
    assert_eq!(
        codes,
        ["220", "250", "250", "250", "354", "250", "502", "221"]
    );

    let mysql = MysqlOptions {
        version: "8.4.0-db".into(),
    };
    let mysql = run(|listener| origin::serve_mysql_on(listener, mysql));
    let greeting = first_bytes(&mysql.target, WAIT).await.unwrap();
    assert_eq!(greeting.bytes[4], 10);
    let login = [3, 0, 0, 1, b'x', b'y', b'z'];
    let answer = tcp_exchange(&mysql.target, &login, WAIT).await.unwrap();
    let refusal = &answer[greeting.bytes.len()..];
    assert_eq!((refusal[3], refusal[4]), (2, 0xff));
}

#[tokio::test]
async fn the_tcp_echo_keeps_its_own_side_open_until_it_is_done() {
    let options = TcpOptions::default();
    let origin = run(|listener| origin::serve_tcp_echo_on(listener, options));
    let sent = vec![7; 300_000];
    let answer = tcp_exchange(&origin.target, &sent, WAIT).await.unwrap();
    assert_eq!(answer, sent);
    let outcome = tcp_outcome(&origin.target, b"x", WAIT).await;
    assert_eq!(outcome, Outcome::Answered(b"x".to_vec()));
    let outcome = tcp_outcome(&origin.target, b"", WAIT).await;
    assert_eq!(outcome, Outcome::Ended);
}

#[tokio::test]
async fn a_counter_counts_what_arrived_and_not_the_question() {
    let options = CounterOptions::default();
    let count = options.count.clone();
    let origin = run(|listener| origin::serve_counter_on(listener, options));
    assert_eq!(count_of(&origin.target, WAIT).await.unwrap(), (0, 0));
    let answer = tcp_exchange(&origin.target, b"hello\nyou", WAIT).await;
    assert_eq!(answer.unwrap(), b"ok\n");
    assert_eq!(count_of(&origin.target, WAIT).await.unwrap(), (1, 9));
    assert_eq!((count.connections(), count.bytes()), (1, 9));
}
