//! The traffic of the demo, and what must come of it.

use super::chain;
use super::check::{self, Outcome, Question};
use super::report::Check;
use anyhow::{Result, ensure};
use hyper::Method;
use mesh_lab::capture::Captured;
use mesh_lab::client::{
    GrpcClient, HttpCall, HttpVersion, Outcome as Ended, Target, Websocket, first_bytes, http,
    http_sequence, tcp_outcome,
};
use mesh_lab::postgres;
use mesh_lab::world::configuration::CHAT;
use mesh_lab::world::{PAYLOAD, World};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a refused connection may take to end.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);
/// Stands in messages that the demo's clients send through the mesh.
pub(crate) const MESSAGE: &str = "strata-demo-message-c41d";

/// An address of the lab: parsed once, at the start of each check.
pub(crate) fn at(address: &str) -> Result<SocketAddr> {
    Ok(address.parse()?)
}

/// Every check but the one of the wire.
pub(crate) async fn all(world: &mut World, requests: usize) -> Result<Vec<Check>> {
    let mut checks = vec![chain::split(world, requests).await?];
    checks.push(database(world, requests).await?);
    checks.push(waypoint_get(world, requests).await?);
    checks.push(waypoint_delete(world).await?);
    checks.push(stranger(world).await?);
    checks.push(plaintext(world).await?);
    checks.push(grpc_unary(world, requests).await?);
    checks.push(grpc_stream(world).await?);
    checks.push(websocket(world, requests).await?);
    checks.push(speaks_first(world, "smtp behind a sidecar", Mail::SIDECAR_SMTP).await?);
    checks.push(speaks_first(world, "mysql behind a sidecar", Mail::SIDECAR_MYSQL).await?);
    checks.push(speaks_first(world, "smtp behind a ztunnel", Mail::AMBIENT_SMTP).await?);
    checks.push(speaks_first(world, "mysql behind a ztunnel", Mail::AMBIENT_MYSQL).await?);
    Ok(checks)
}

/// A database through the gateway: PostgreSQL, or what stands in for it.
async fn database(world: &World, requests: usize) -> Result<Check> {
    let questions = [Question::connection(
        "gateway:demo/edge/postgres",
        "demo/postgres",
        5432,
    )];
    let name = "database through the gateway";
    check::run(world, name, &questions, async |world| {
        if world.has_postgres() {
            postgres_outcome(world, requests).await
        } else {
            stand_in_outcome(world).await
        }
    })
    .await
}

async fn postgres_outcome(world: &World, requests: usize) -> Result<Outcome> {
    let internet = world.place("internet")?;
    let (edge, plain) = (at("10.42.1.10:5432")?, at("10.42.2.30:5432")?);
    let answer = postgres::query(internet, edge, "SELECT 1").await?;
    let secret = postgres::query(internet, edge, &format!("SELECT '{MESSAGE}'")).await?;
    let mesh = postgres::timings(internet, edge, "SELECT 1", requests).await?;
    let direct = postgres::timings(internet, plain, "SELECT 1", requests).await?;
    Ok(Outcome {
        ok: answer == "1" && secret == MESSAGE,
        detail: format!("a real PostgreSQL answered SELECT 1 with {answer}"),
        p50_us_mesh: check::p50_us(mesh),
        p50_us_direct: check::p50_us(direct),
    })
}

async fn stand_in_outcome(world: &World) -> Result<Outcome> {
    let internet = world.place("internet")?;
    let target =
        |address: &str| Ok::<_, anyhow::Error>(Target::new(at(address)?).from_place(internet));
    let mesh = greetings(&target("10.42.1.10:5432")?).await?;
    let direct = greetings(&target("10.42.2.30:5432")?).await?;
    Ok(Outcome {
        ok: true,
        detail: format!(
            "PostgreSQL is not installed: a server of ours that speaks first (MySQL's handshake) \
             greeted {GREETINGS} of {GREETINGS} clients"
        ),
        p50_us_mesh: check::p50_us(mesh),
        p50_us_direct: check::p50_us(direct),
    })
}

async fn waypoint_get(world: &World, requests: usize) -> Result<Check> {
    let questions = [Question::request(
        "demo/client",
        "demo/orders",
        80,
        "GET",
        "/orders/1",
    )];
    check::run(
        world,
        "waypoint lets a GET pass",
        &questions,
        async |world| {
            let target = Target::new(at("10.96.0.7:80")?).from_place(world.place("client")?);
            let call = HttpCall::get("orders.demo", "/orders/1").header("x-secret", MESSAGE);
            let mesh = http_sequence(&target, HttpVersion::Http1, &call, requests).await;
            let plain = Target::new(at("10.42.2.30:9080")?).from_place(world.place("internet")?);
            let call = HttpCall::get("orders.demo", "/orders/1");
            let direct = http_sequence(&plain, HttpVersion::Http1, &call, requests).await;
            Ok(Outcome {
                ok: mesh.of_status(200) == requests,
                detail: format!(
                    "{} of {requests} answered 200 {:?}",
                    mesh.of_status(200),
                    mesh.error_texts
                ),
                p50_us_mesh: check::p50_us(mesh.times),
                p50_us_direct: check::p50_us(direct.times),
            })
        },
    )
    .await
}

async fn waypoint_delete(world: &World) -> Result<Check> {
    let questions =
        [Question::request("demo/client", "demo/orders", 80, "DELETE", "/orders/1").denied()];
    check::run(
        world,
        "waypoint refuses a DELETE",
        &questions,
        async |world| {
            let target = Target::new(at("10.96.0.7:80")?).from_place(world.place("client")?);
            let call = HttpCall::get("orders.demo", "/orders/1").send(Method::DELETE, "");
            let answer = http(&target, HttpVersion::Http1, &call).await?;
            Ok(Outcome {
                ok: answer.status == 403,
                detail: format!("answered {} {}", answer.status, answer.body.trim()),
                ..Outcome::default()
            })
        },
    )
    .await
}

async fn stranger(world: &World) -> Result<Check> {
    let questions = [Question::connection("demo/stranger", "demo/ratings", 9080).denied()];
    check::run(
        world,
        "unnamed identity refused at L4",
        &questions,
        async |world| {
            let target = Target::new(at("10.96.0.5:9080")?).from_place(world.place("stranger")?);
            let request = b"GET /ratings HTTP/1.1\r\nhost: ratings\r\n\r\n";
            let ended = tcp_outcome(&target, request, REFUSED_WITHIN).await;
            Ok(Outcome {
                ok: matches!(ended, Ended::Ended | Ended::Reset),
                detail: format!("the connection was {ended:?} without a byte"),
                ..Outcome::default()
            })
        },
    )
    .await
}

async fn plaintext(world: &World) -> Result<Check> {
    let questions = [Question::connection("10.42.1.20", "10.42.2.12", 9080).denied()];
    check::run(
        world,
        "plaintext from outside refused",
        &questions,
        async |world| {
            let target = Target::new(at("10.42.2.12:9080")?).from_place(world.place("internet")?);
            let request = b"GET /ratings HTTP/1.1\r\nhost: ratings\r\n\r\n";
            let ended = tcp_outcome(&target, request, REFUSED_WITHIN).await;
            Ok(Outcome {
                ok: matches!(ended, Ended::Ended | Ended::Reset),
                detail: format!("STRICT: the connection was {ended:?} without a byte"),
                ..Outcome::default()
            })
        },
    )
    .await
}

fn echo(world: &World, plain: bool) -> Result<GrpcClient> {
    let (address, place) = if plain {
        ("10.42.2.30:50051", "internet")
    } else {
        ("10.96.0.8:50051", "frontend")
    };
    let target = Target::new(at(address)?).from_place(world.place(place)?);
    GrpcClient::new(&target, "echo.demo.svc.cluster.local:50051")
}

const UNARY: &str = "/lab.echo.v1.Echo/Unary";
const STREAM: &str = "/lab.echo.v1.Echo/Stream";

async fn grpc_unary(world: &World, requests: usize) -> Result<Check> {
    let questions = [Question::request(
        "demo/frontend",
        "demo/echo",
        50051,
        "POST",
        UNARY,
    )];
    check::run(
        world,
        "gRPC unary through sidecars",
        &questions,
        async |world| {
            let (mesh, good) = unary_times(echo(world, false)?, MESSAGE, requests).await?;
            let (direct, _) = unary_times(echo(world, true)?, "plain", requests).await?;
            Ok(Outcome {
                ok: good == requests,
                detail: format!("{good} of {requests} calls echoed"),
                p50_us_mesh: check::p50_us(mesh),
                p50_us_direct: check::p50_us(direct),
            })
        },
    )
    .await
}

async fn unary_times(
    mut client: GrpcClient,
    message: &str,
    requests: usize,
) -> Result<(Vec<Duration>, usize)> {
    let mut times = Vec::new();
    let mut good = 0;
    for _ in 0..requests {
        let answer = client.unary(message).await?;
        good += usize::from(answer.message == message);
        times.push(answer.took);
    }
    Ok((times, good))
}

async fn grpc_stream(world: &World) -> Result<Check> {
    let questions = [Question::request(
        "demo/frontend",
        "demo/echo",
        50051,
        "POST",
        STREAM,
    )];
    check::run(
        world,
        "gRPC streaming through sidecars",
        &questions,
        async |world| {
            let messages = [MESSAGE; 100];
            let answers = echo(world, false)?.stream(&messages).await?;
            let in_order = answers
                .iter()
                .zip(1..)
                .all(|(a, n)| a.sequence == n && a.message == MESSAGE);
            Ok(Outcome {
                ok: in_order && answers.len() == messages.len(),
                detail: format!(
                    "{} of {} messages echoed in order",
                    answers.len(),
                    messages.len()
                ),
                ..Outcome::default()
            })
        },
    )
    .await
}

async fn websocket(world: &World, requests: usize) -> Result<Check> {
    let questions =
        [Question::request("gateway:demo/edge/https", "demo/chat", 8443, "GET", "/").host(CHAT)];
    check::run(
        world,
        "WebSocket through the gateway",
        &questions,
        async |world| {
            let edge = chain::edge(world, CHAT)?;
            let (mesh, good) = echo_times(&edge, MESSAGE, requests).await?;
            let plain = Target::new(at("10.42.2.30:8081")?).from_place(world.place("internet")?);
            let (direct, _) = echo_times(&plain, "plain", requests).await?;
            Ok(Outcome {
                ok: good == requests,
                detail: format!("{good} of {requests} messages echoed"),
                p50_us_mesh: check::p50_us(mesh),
                p50_us_direct: check::p50_us(direct),
            })
        },
    )
    .await
}

async fn echo_times(
    target: &Target,
    message: &str,
    requests: usize,
) -> Result<(Vec<Duration>, usize)> {
    let mut socket = Websocket::open(target, CHAT, "/").await?;
    let mut times = Vec::new();
    let mut good = 0;
    for _ in 0..requests {
        let start = Instant::now();
        good += usize::from(socket.echo(message).await? == message);
        times.push(start.elapsed());
    }
    socket.close().await?;
    Ok((times, good))
}

/// Who asks which mail server, and how its greeting begins.
struct Mail {
    from: &'static str,
    service: &'static str,
    port: u16,
    address: &'static str,
    plain: &'static str,
}

impl Mail {
    const SIDECAR_SMTP: Self = Self {
        from: "frontend",
        service: "demo/mail-sidecar",
        port: 25,
        address: "10.96.0.11:25",
        plain: "10.42.2.30:2525",
    };
    const SIDECAR_MYSQL: Self = Self {
        port: 3306,
        address: "10.96.0.11:3306",
        plain: "10.42.2.30:3306",
        ..Self::SIDECAR_SMTP
    };
    const AMBIENT_SMTP: Self = Self {
        from: "client",
        service: "demo/mail-ambient",
        address: "10.96.0.12:25",
        ..Self::SIDECAR_SMTP
    };
    const AMBIENT_MYSQL: Self = Self {
        from: "client",
        service: "demo/mail-ambient",
        address: "10.96.0.12:3306",
        ..Self::SIDECAR_MYSQL
    };
}

/// Connections whose first byte is measured: each is a new one.
const GREETINGS: usize = 20;

async fn speaks_first(world: &World, name: &'static str, mail: Mail) -> Result<Check> {
    let from = format!("demo/{}", mail.from);
    let questions = [Question::connection(&from, mail.service, mail.port)];
    check::run(world, name, &questions, async |world| {
        let target = Target::new(at(mail.address)?).from_place(world.place(mail.from)?);
        let plain = Target::new(at(mail.plain)?).from_place(world.place("internet")?);
        let mesh = greetings(&target).await?;
        let direct = greetings(&plain).await?;
        let slowest = mesh.iter().max().copied().unwrap_or_default();
        Ok(Outcome {
            ok: true,
            detail: format!(
                "the server's first byte came within {:.1} ms at the slowest of {GREETINGS}",
                slowest.as_secs_f64() * 1000.0
            ),
            p50_us_mesh: check::p50_us(mesh),
            p50_us_direct: check::p50_us(direct),
        })
    })
    .await
}

async fn greetings(target: &Target) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..GREETINGS {
        let first = first_bytes(target, REFUSED_WITHIN).await?;
        ensure!(!first.bytes.is_empty(), "an empty greeting");
        times.push(first.after);
    }
    Ok(times)
}

/// What the capture on the wire between the nodes must show.
pub(crate) fn wire(captured: &Captured) -> Result<Check> {
    let mut found = 0;
    for text in [PAYLOAD, MESSAGE] {
        found += captured.packets_with(text.as_bytes())?;
    }
    Ok(Check {
        name: "nothing readable on the wire",
        ok: captured.bytes > 0 && found == 0,
        layers: "wire".into(),
        hops: Vec::new(),
        identities: Vec::new(),
        p50_us_mesh: None,
        p50_us_direct: None,
        detail: format!(
            "{} bytes in {} packets captured between the nodes, {found} with a known payload",
            captured.bytes, captured.packets
        ),
    })
}
