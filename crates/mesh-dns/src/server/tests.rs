//! The server between a client and scripted servers upstream, on loopback.

use super::*;
use crate::cache::CacheBounds;
use crate::upstream::{Outstanding, UpstreamSettings};
use crate::wire::Header;
use hickory_proto::op::{Edns, Message, OpCode, Query as Asked};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData, Record};
use mesh_model::{Resource, Service, ServiceName, SnapshotBuilder};
use mesh_net::{ConnectOptions, ListenOptions};
use mesh_telemetry::Metrics;
use std::future::pending;
use tokio::task::LocalSet;

fn loopback() -> ListenOptions {
    ListenOptions::new("127.0.0.1:0".parse().unwrap())
}

/// What an upstream server says to a question: any number of messages.
type Script = Box<dyn Fn(&Message, Protocol) -> Vec<Vec<u8>>>;

/// An upstream server: over UDP and TCP on one port.
struct Upstream {
    address: SocketAddr,
    asked: Rc<RefCell<Vec<Vec<u8>>>>,
}

impl Upstream {
    fn start(scope: &Scope, script: Script) -> Self {
        let listener = mesh_net::listen(&loopback()).unwrap();
        let address = listener.local_addr().unwrap();
        let socket = mesh_net::bind_udp(&ListenOptions::new(address)).unwrap();
        let asked: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
        let script = Rc::new(script);
        let (heard, says) = (asked.clone(), script.clone());
        scope.spawn_local("upstream udp", async move {
            let mut buffer = vec![0; 4096];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
                heard.borrow_mut().push(buffer[..length].to_vec());
                let question = Message::from_vec(&buffer[..length]).unwrap();
                for reply in says(&question, Protocol::Udp) {
                    socket.send_to(&reply, peer).await.unwrap();
                }
            }
        });
        let heard = asked.clone();
        scope.spawn_local("upstream tcp", async move {
            while let Ok((mut stream, _)) = mesh_net::accept(&listener).await {
                let length = stream.read_u16().await.unwrap();
                let mut bytes = vec![0; usize::from(length)];
                stream.read_exact(&mut bytes).await.unwrap();
                heard.borrow_mut().push(bytes.clone());
                let question = Message::from_vec(&bytes).unwrap();
                for reply in script(&question, Protocol::Tcp) {
                    stream.write_all(&frame(&reply).unwrap()).await.unwrap();
                }
            }
        });
        Self { address, asked }
    }

    fn count(&self) -> usize {
        self.asked.borrow().len()
    }
}

fn reply(question: &Message, records: Vec<Record>) -> Message {
    let mut reply = Message::response(question.metadata.id, OpCode::Query);
    reply.add_queries(question.queries.iter().cloned());
    reply.add_answers(records);
    reply
}

fn address(question: &Message) -> Message {
    let name = question.queries[0].name().clone();
    let data = RData::A(A::new(192, 0, 2, 1));
    reply(question, vec![Record::from_rdata(name, 60, data)])
}

fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap()
}

fn code(question: &Message, code: ResponseCode) -> Vec<u8> {
    let mut reply = reply(question, Vec::new());
    reply.metadata.response_code = code;
    bytes(&reply)
}

/// The server under test and its client.
struct Bed {
    scope: Scope,
    metrics: Metrics,
    udp: SocketAddr,
    tcp: SocketAddr,
    outstanding: Outstanding,
}

impl Bed {
    fn start(
        scope: &Scope,
        servers: Vec<SocketAddr>,
        change: impl Fn(&mut UpstreamSettings),
    ) -> Self {
        let mut settings = UpstreamSettings {
            servers,
            connect: ConnectOptions::default(),
            timeout: Duration::from_secs(4),
            cache: CacheBounds::default(),
        };
        change(&mut settings);
        let socket = mesh_net::bind_udp(&loopback()).unwrap();
        let listener = mesh_net::listen(&loopback()).unwrap();
        let (udp, tcp) = (socket.local_addr().unwrap(), listener.local_addr().unwrap());
        if settings.servers.is_empty() && settings.cache.entries_max == 0 {
            settings.servers = vec![udp];
        }
        let mut web = Service::new(
            ServiceName::new("demo", "web.demo.svc.cluster.local"),
            "web",
        );
        web.vips = vec![("".into(), "10.96.0.1".parse().unwrap())];
        let mut builder = SnapshotBuilder::new();
        builder.upsert(Resource::Service(Arc::new(web)));
        let view = View {
            snapshot: builder.snapshot(),
            namespace: "demo".into(),
            network: "".into(),
            source: None,
        };
        let metrics = Metrics::new("test");
        let outstanding = Outstanding::new(2);
        let server = Server::new(
            Arc::new(Zone::new("cluster.local")),
            move || view.clone(),
            Forwarder::new(settings, outstanding.clone()),
            DnsMetrics::new(&metrics),
            Dice::seeded(1),
            scope,
        );
        scope.spawn_local("udp", server.clone().serve_udp(socket, pending()));
        scope.spawn_local("tcp", server.serve_tcp(listener, pending()));
        Self {
            scope: scope.clone(),
            metrics,
            udp,
            tcp,
            outstanding,
        }
    }

    async fn raw(&self, query: &[u8]) -> Vec<u8> {
        let socket = mesh_net::connect_udp(self.udp, &ConnectOptions::default()).unwrap();
        socket.send(query).await.unwrap();
        let mut buffer = vec![0; 65535];
        let length = socket.recv(&mut buffer).await.unwrap();
        buffer.truncate(length);
        buffer
    }

    async fn ask(&self, query: &Message) -> Message {
        let got = Message::from_vec(&self.raw(&bytes(query)).await).unwrap();
        assert_eq!(got.metadata.id, query.metadata.id);
        got
    }

    async fn ask_tcp(&self, queries: &[Message]) -> Vec<Message> {
        let mut stream = mesh_net::connect(self.tcp, &ConnectOptions::default())
            .await
            .unwrap();
        let all: Vec<u8> = queries
            .iter()
            .flat_map(|q| frame(&bytes(q)).unwrap())
            .collect();
        stream.write_all(&all).await.unwrap();
        let mut replies = Vec::new();
        for query in queries {
            let length = stream.read_u16().await.unwrap();
            let mut reply = vec![0; usize::from(length)];
            stream.read_exact(&mut reply).await.unwrap();
            let reply = Message::from_vec(&reply).unwrap();
            assert_eq!(reply.metadata.id, query.metadata.id);
            replies.push(reply);
        }
        replies
    }
}

fn query(name: &str) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Asked::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message
}

fn with_edns(name: &str, payload: u16) -> Message {
    let mut message = query(name);
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

async fn on_worker(test: impl AsyncFnOnce(&Scope)) {
    let local = LocalSet::new();
    local
        .run_until(async {
            let scope = Scope::new();
            test(&scope).await;
            scope.cancel();
            scope.finished().await;
        })
        .await;
}

#[tokio::test]
async fn names_of_the_mesh_need_no_upstream_and_others_fail_without() {
    on_worker(async |scope| {
        let bed = Bed::start(scope, Vec::new(), |_| {});
        let names = ["web.demo.svc.cluster.local.", "wEb.demo.", "web."];
        let queries: Vec<Message> = names.iter().map(|n| query(n)).collect();
        for reply in bed.ask_tcp(&queries).await {
            assert_eq!(reply.answers[0].data.ip_addr(), Some([10, 96, 0, 1].into()));
        }
        for (name, query) in names.iter().zip(&queries) {
            let reply = bed.ask(query).await;
            assert!(reply.metadata.authoritative);
            assert_eq!(reply.answers[0].name.to_ascii(), *name);
        }
        let reply = bed.ask(&query("example.com.")).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        let text = bed.metrics.encode();
        let udp = "{request_query_type=\"a\",request_protocol=\"udp\"";
        assert!(
            text.contains(&format!("istio_dns_requests_total{udp}")),
            "{text}"
        );
        assert!(
            text.contains(&format!("istio_dns_upstream_failures_total{udp}")),
            "{text}"
        );
    })
    .await;
}

#[tokio::test]
async fn what_is_forwarded_goes_as_it_came_and_comes_back_so() {
    on_worker(async |scope| {
        let upstream = Upstream::start(
            scope,
            Box::new(|question, _| {
                let mut reply = address(question);
                let name = question.queries[0].name().to_lowercase();
                // A server that writes every name in lower case.
                reply.queries[0].set_name(name);
                reply.set_edns(question.edns.clone().unwrap());
                vec![bytes(&reply)]
            }),
        );
        let bed = Bed::start(scope, vec![upstream.address], |_| {});
        let asked = with_edns("Www.Example.com.", 1400);
        let reply = bed.ask(&asked).await;
        assert_eq!(reply.queries[0].name().to_ascii(), "Www.Example.com.");
        assert_eq!(reply.answers[0].data.ip_addr(), Some([192, 0, 2, 1].into()));
        assert_eq!(reply.edns.unwrap().max_payload(), 1400);
        // All but the id.
        assert_eq!(upstream.asked.borrow()[0][2..], bytes(&asked)[2..]);
        // The next one is answered from what is kept, in its own letters.
        let again = bed.ask(&with_edns("www.EXAMPLE.com.", 1232)).await;
        assert_eq!(again.queries[0].name().to_ascii(), "www.EXAMPLE.com.");
        assert_eq!(again.answers.len(), 1);
        assert_eq!(upstream.count(), 1);
        assert_eq!(bed.outstanding.count(), 0);
    })
    .await;
}

#[tokio::test]
async fn only_the_answer_to_the_question_is_taken() {
    on_worker(async |scope| {
        let upstream = Upstream::start(
            scope,
            Box::new(|question, _| {
                let mut wrong_id = address(question);
                wrong_id.metadata.id = question.metadata.id.wrapping_add(1);
                let mut wrong_name = address(question);
                wrong_name.queries[0].set_name("other.example.".parse().unwrap());
                let mut question_back = question.clone();
                question_back.add_answers(address(question).answers);
                let lies = [&wrong_id, &wrong_name, &question_back].map(bytes);
                if question.queries[0].name().to_ascii().starts_with("lies") {
                    return lies.iter().cycle().take(40).cloned().collect();
                }
                let mut all = lies.to_vec();
                all.push(vec![1, 2, 3]);
                let name = question.queries[0].name().clone();
                let data = RData::A(A::new(192, 0, 2, 7));
                all.push(bytes(&reply(
                    question,
                    vec![Record::from_rdata(name, 60, data)],
                )));
                all
            }),
        );
        let bed = Bed::start(scope, vec![upstream.address], |_| {});
        let reply = bed.ask(&query("www.example.com.")).await;
        assert_eq!(reply.answers[0].data.ip_addr(), Some([192, 0, 2, 7].into()));
        let reply = bed.ask(&query("lies.example.com.")).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        // Each question and each try has an id of its own.
        let ids: std::collections::BTreeSet<Vec<u8>> = upstream
            .asked
            .borrow()
            .iter()
            .map(|b| b[..2].to_vec())
            .collect();
        assert_eq!(upstream.count(), 4);
        assert!(ids.len() > 1);
    })
    .await;
}

#[tokio::test]
async fn a_dead_or_silent_upstream_is_a_failure_in_time() {
    on_worker(async |scope| {
        let closed = mesh_net::bind_udp(&loopback())
            .unwrap()
            .local_addr()
            .unwrap();
        let dead = Bed::start(scope, vec![closed], |_| {});
        let silent = Upstream::start(scope, Box::new(|_, _| Vec::new()));
        let short = |s: &mut UpstreamSettings| s.timeout = Duration::from_millis(50);
        let silent = Bed::start(scope, vec![silent.address], short);
        for bed in [&dead, &silent] {
            let reply = bed.ask(&query("www.example.com.")).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
            assert_eq!(bed.outstanding.count(), 0);
        }
        let reply = dead.ask_tcp(&[query("www.example.com.")]).await;
        assert_eq!(reply[0].metadata.response_code, ResponseCode::ServFail);
    })
    .await;
}

#[tokio::test]
async fn another_server_takes_over_and_is_asked_first_from_then_on() {
    on_worker(async |scope| {
        let closed = mesh_net::bind_udp(&loopback())
            .unwrap()
            .local_addr()
            .unwrap();
        let cannot = |q: &Message, _| vec![code(q, ResponseCode::Refused)];
        let cannot = Upstream::start(scope, Box::new(cannot));
        let good = Upstream::start(scope, Box::new(|q, _| vec![bytes(&address(q))]));
        let servers = vec![closed, cannot.address, good.address];
        let bed = Bed::start(scope, servers, |_| {});
        for name in ["a.example.com.", "b.example.com."] {
            assert_eq!(bed.ask(&query(name)).await.answers.len(), 1);
        }
        assert_eq!((cannot.count(), good.count()), (1, 2));
        // With nobody else to ask, the refusal is the answer.
        let bed = Bed::start(scope, vec![cannot.address], |_| {});
        let reply = bed.ask(&query("a.example.com.")).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
        assert_eq!(cannot.count(), 2);
    })
    .await;
}

#[tokio::test]
async fn what_is_cut_short_is_asked_again_over_tcp() {
    on_worker(async |scope| {
        let script = |question: &Message, by| {
            let name = question.queries[0].name().clone();
            let text = RData::TXT(TXT::new(vec!["x".repeat(200); 10]));
            let mut reply = reply(question, vec![Record::from_rdata(name, 60, text)]);
            if by == Protocol::Udp {
                reply = reply.truncate();
            }
            vec![bytes(&reply)]
        };
        let upstream = Upstream::start(scope, Box::new(script));
        let bed = Bed::start(scope, vec![upstream.address], |_| {});
        let mut asked = query("long.example.com.");
        asked.queries[0].set_query_type(RecordType::TXT);
        let reply = bed.ask(&asked).await;
        assert!(reply.metadata.truncation && reply.answers.is_empty());
        let full = bed.ask_tcp(std::slice::from_ref(&asked)).await;
        assert!(!full[0].metadata.truncation);
        assert_eq!(full[0].answers.len(), 1);
        assert_eq!(upstream.count(), 2);
        // What was kept from TCP is too long for UDP, and says so.
        let raw = bed.raw(&bytes(&asked)).await;
        assert!(raw.len() <= 512 && Header::read(&raw).unwrap().has(Header::TRUNCATED));
        assert_eq!(upstream.count(), 2);
    })
    .await;
}

#[tokio::test]
async fn questions_under_way_are_bounded() {
    on_worker(async |scope| {
        let upstream = Upstream::start(scope, Box::new(|_, _| Vec::new()));
        let bed = Bed::start(scope, vec![upstream.address], |_| {});
        let socket = mesh_net::connect_udp(bed.udp, &ConnectOptions::default()).unwrap();
        for n in 0..3 {
            let asked = bytes(&query(&format!("n{n}.example.com.")));
            socket.send(&asked).await.unwrap();
        }
        // Two wait for the server; the third has its answer.
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).await.unwrap();
        let reply = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(bed.outstanding.count(), 2);
        // Names of the mesh are not held up.
        assert_eq!(bed.ask(&query("web.")).await.answers.len(), 1);
        assert!(bed.scope.tasks() > 2);
    })
    .await;
}

#[tokio::test]
async fn nonsense_is_refused_or_dropped_and_nothing_breaks() {
    on_worker(async |scope| {
        let bed = Bed::start(scope, Vec::new(), |_| {});
        let socket = mesh_net::connect_udp(bed.udp, &ConnectOptions::default()).unwrap();
        let mut response = query("web.");
        response.metadata.message_type = hickory_proto::op::MessageType::Response;
        for dropped in [vec![], vec![1, 2, 3], bytes(&response), vec![0; 5000]] {
            socket.send(&dropped).await.unwrap();
        }
        let mut two = query("web.");
        two.add_query(Asked::query("b.".parse().unwrap(), RecordType::A));
        let cut = bytes(&query("web."));
        for refused in [bytes(&two), cut[..cut.len() - 2].to_vec()] {
            let reply = Message::from_vec(&bed.raw(&refused).await).unwrap();
            assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
        }
        // Nothing came back for what was dropped.
        socket.send(&bytes(&query("web."))).await.unwrap();
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).await.unwrap();
        let reply = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(reply.answers.len(), 1);
        // Over TCP the connection ends.
        let mut stream = mesh_net::connect(bed.tcp, &ConnectOptions::default())
            .await
            .unwrap();
        stream.write_all(&[0xff, 0xff, 1, 2]).await.unwrap();
        assert!(stream.read_u8().await.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_question_that_comes_back_to_us_ends() {
    on_worker(async |scope| {
        // With nothing kept, the server's own address is its upstream.
        let to_itself = |s: &mut UpstreamSettings| s.cache.entries_max = 0;
        let bed = Bed::start(scope, Vec::new(), to_itself);
        let reply = bed.ask(&query("www.example.com.")).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(bed.outstanding.count(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_stopped_server_answers_what_is_under_way() {
    on_worker(async |scope| {
        let (release, held) = tokio::sync::oneshot::channel::<()>();
        let upstream = mesh_net::bind_udp(&loopback()).unwrap();
        let settings = UpstreamSettings {
            servers: vec![upstream.local_addr().unwrap()],
            connect: ConnectOptions::default(),
            timeout: Duration::from_secs(4),
            cache: CacheBounds::default(),
        };
        let view = View {
            snapshot: SnapshotBuilder::new().snapshot(),
            namespace: "demo".into(),
            network: "".into(),
            source: None,
        };
        let server = Server::new(
            Arc::new(Zone::new("cluster.local")),
            move || view.clone(),
            Forwarder::new(settings, Outstanding::new(2)),
            DnsMetrics::new(&Metrics::new("test")),
            Dice::seeded(1),
            scope,
        );
        let socket = mesh_net::bind_udp(&loopback()).unwrap();
        let client =
            mesh_net::connect_udp(socket.local_addr().unwrap(), &ConnectOptions::default());
        let client = client.unwrap();
        let (done, ended) = tokio::sync::oneshot::channel();
        scope.spawn_local("udp", async move {
            server
                .serve_udp(socket, async move { drop(held.await) })
                .await;
            done.send(()).unwrap();
        });
        client
            .send(&bytes(&query("www.example.com.")))
            .await
            .unwrap();
        let mut buffer = [0; 512];
        let (length, peer) = upstream.recv_from(&mut buffer).await.unwrap();
        release.send(()).unwrap();
        tokio::task::yield_now().await;
        let question = Message::from_vec(&buffer[..length]).unwrap();
        upstream
            .send_to(&bytes(&address(&question)), peer)
            .await
            .unwrap();
        let length = client.recv(&mut buffer).await.unwrap();
        assert_eq!(
            Message::from_vec(&buffer[..length]).unwrap().answers.len(),
            1
        );
        ended.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_host_name_is_resolved_whatever_one_family_says() {
    on_worker(async |scope| {
        let script = |question: &Message, by| {
            let asked = &question.queries[0];
            if asked.query_type() == RecordType::AAAA {
                return vec![code(question, ResponseCode::ServFail)];
            }
            let name = asked.name().clone();
            let other = Name::from_ascii("other.example.").unwrap();
            let alias = hickory_proto::rr::rdata::CNAME(other.clone());
            let records = vec![
                Record::from_rdata(name, 60, RData::CNAME(alias)),
                Record::from_rdata(other.clone(), 40, RData::A(A::new(192, 0, 2, 1))),
                Record::from_rdata(other, 4, RData::A(A::new(192, 0, 2, 2))),
            ];
            let reply = reply(question, records);
            match by {
                Protocol::Udp => vec![bytes(&reply.truncate())],
                Protocol::Tcp => vec![bytes(&reply)],
            }
        };
        let upstream = Upstream::start(scope, Box::new(script));
        let forwarder = |servers| {
            let settings = UpstreamSettings {
                servers,
                connect: ConnectOptions::default(),
                timeout: Duration::from_secs(4),
                cache: CacheBounds::default(),
            };
            Forwarder::new(settings, Outstanding::new(8))
        };
        let asks = forwarder(vec![upstream.address]);
        let got = asks.resolve("Api.example.com", true).await.unwrap();
        let addresses = [[192, 0, 2, 1], [192, 0, 2, 2]].map(std::net::IpAddr::from);
        assert_eq!(got.addresses, addresses);
        assert_eq!(got.holds, Duration::from_secs(5));
        // A over UDP and TCP, AAAA once.
        assert_eq!(upstream.count(), 3);
        assert_eq!(asks.resolve("api.example.com", false).await.unwrap(), got);
        assert_eq!(upstream.count(), 3);
        let nobody = forwarder(Vec::new()).resolve("a.example", true).await;
        assert!(matches!(nobody, Err(UpstreamError::NoServer)));
        let none = asks.resolve("a..b", true).await;
        assert!(matches!(none, Err(UpstreamError::NoName)));
    })
    .await;
}
