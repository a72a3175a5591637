//! The laboratory on this machine: isolation, network, processes, capture, the way in from the host.
//!
//! It has its own `main`: the program isolates itself and runs the tests inside. With the argument
//! `hold`, `exit` or `forward` it is instead the program that a test of the isolation starts.

#![expect(
    clippy::print_stdout,
    reason = "a test program of its own speaks to its terminal"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use mesh_lab::capture::Capture;
use mesh_lab::isolate::{Inside, Side, isolate};
use mesh_lab::process::{Process, ProcessSpec, Ready};
use mesh_lab::topology::{NodeSpec, PodSpec, Topology, WIRE};
use mesh_lab::{Place, forward, packages, postgres, probe};
use mesh_runtime::Scope;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// No wait of these tests may take longer.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> Result<ExitCode> {
    match std::env::args().nth(1).as_deref() {
        Some("hold") => hold(),
        Some("exit") => exit(),
        Some("forward") => forwarded(),
        _ => tests(),
    }
}

fn tests() -> Result<ExitCode> {
    let arguments = Arguments::from_args();
    if mesh_lab::isolate::is_isolated() {
        return inside(&arguments);
    }
    if let Err(error) = packages::ensure(packages::NETWORK, |text| println!("{text}")) {
        println!("SKIPPED: the laboratory cannot be made here: {error:#}");
        return Ok(ExitCode::SUCCESS);
    }
    let outer = vec![
        Trial::test(
            "outer::the_exit_code_is_passed_on",
            the_exit_code_is_passed_on,
        ),
        Trial::test(
            "outer::a_killed_runner_leaves_nothing",
            a_killed_runner_leaves_nothing,
        ),
        Trial::test(
            "outer::the_host_reaches_into_the_lab",
            the_host_reaches_into_the_lab,
        ),
    ];
    match isolate(Vec::new()) {
        Ok(Side::Outside(code)) if code == ExitCode::SUCCESS => {}
        Ok(Side::Outside(code)) => return Ok(code),
        Ok(Side::Inside(_)) => unreachable!("handled above"),
        Err(error) => {
            println!("SKIPPED: the laboratory cannot be made here: {error:#}");
            return Ok(ExitCode::SUCCESS);
        }
    }
    Ok(libtest_mimic::run(&arguments, outer).exit_code())
}

/// Makes one laboratory and runs the tests in it.
fn inside(arguments: &Arguments) -> Result<ExitCode> {
    let Side::Inside(inside) = isolate(Vec::new())? else {
        unreachable!("is_isolated said so");
    };
    let before = Instant::now();
    let lab: &Topology = Box::leak(Box::new(small()?));
    println!("2 nodes and 14 pods took {:?}", before.elapsed());
    let user_namespace = inside.user_namespace;
    let trials = vec![
        trial("pods_reach_each_other_over_both_families", || reach(lab)),
        trial("a_service_address_has_a_route_and_is_refused", || {
            unrouted(lab)
        }),
        trial("processes_start_restart_and_end", || processes(lab)),
        trial("the_wire_is_captured", || captured(lab)),
        trial("postgres_answers_another_pod", move || {
            database(lab, user_namespace)
        }),
        trial("a_second_laboratory_is_refused_a_name_twice", || {
            collisions()
        }),
    ];
    Ok(libtest_mimic::run(arguments, trials).exit_code())
}

fn trial<F: Future<Output = Result<()>>>(
    name: &str,
    test: impl FnOnce() -> F + Send + 'static,
) -> Trial {
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let test = runtime.block_on(async { tokio::time::timeout(PATIENCE * 2, test()).await });
        test?.map_err(|error| Failed::from(format!("{error:#}")))
    })
}

fn small() -> Result<Topology> {
    let nodes = [1, 2].map(|number| NodeSpec {
        name: format!("node-{number}"),
        number,
    });
    let pods: Vec<PodSpec> = (0..14)
        .map(|index: u8| PodSpec {
            name: format!("pod-{index}"),
            node: format!("node-{}", index % 2 + 1),
            address: [10, 42, index % 2 + 1, 10 + index].into(),
        })
        .collect();
    Topology::create(&nodes, &pods)
}

/// An echo server in one place, spoken to from another.
async fn echo(server: &Place, client: &Place, address: SocketAddr) -> Result<()> {
    let (ready, listening) = tokio::sync::oneshot::channel();
    let served = server.run_in(move || async move {
        let listener = mesh_net::listen(&mesh_net::ListenOptions::new(address))?;
        let _no_one_else = ready.send(());
        let (mut stream, from) = listener.accept().await?;
        let mut text = [0; 4];
        stream.read_exact(&mut text).await?;
        stream.write_all(&text).await?;
        std::io::Result::Ok(from)
    });
    let asked = async {
        listening.await?;
        let answer = client.run_in(move || async move {
            let mut stream =
                mesh_net::connect(address, &mesh_net::ConnectOptions::default()).await?;
            stream.write_all(b"echo").await?;
            let mut text = Vec::new();
            stream.read_to_end(&mut text).await?;
            anyhow::Ok(text)
        });
        ensure!(answer.await?? == b"echo");
        anyhow::Ok(())
    };
    let (from, asked) = tokio::join!(served, asked);
    asked?;
    let from = from??.ip();
    ensure!(
        [client.v4().into(), client.v6().into()].contains(&from),
        "came from {from}"
    );
    Ok(())
}

async fn reach(lab: &Topology) -> Result<()> {
    // Same node, other node, from a node, from outside.
    let server = lab.pod("pod-0")?;
    for client in [
        lab.pod("pod-2")?,
        lab.pod("pod-1")?,
        lab.node("node-2")?,
        lab.outside(),
    ] {
        for ip in [server.v4().into(), server.v6().into()] {
            echo(server, client, SocketAddr::new(ip, 7000)).await?;
        }
    }
    Ok(())
}

async fn unrouted(lab: &Topology) -> Result<()> {
    for address in ["10.96.0.10:80", "[fd96::10]:80"] {
        let refused = probe::connect(lab.pod("pod-0")?, address.parse()?).await;
        let Err(error) = refused else {
            anyhow::bail!("{address} was connected")
        };
        let text = format!("{error:#}");
        ensure!(
            text.contains("unreachable") || text.contains("No route"),
            "{text}"
        );
    }
    Ok(())
}

async fn processes(lab: &Topology) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let script = "trap 'exit 3' TERM; echo started with $WHO; while :; do sleep 0.05; done";
    let spec = ProcessSpec::new("shell", "sh", folder.path().join("logs/shell.log"))
        .args(["-c", script])
        .env("WHO", "someone");
    let mut shell = Process::start(lab.pod("pod-3")?, spec)?;
    // It never listens, so readiness runs into the deadline and quotes the log.
    let nobody = Ready::Tcp("127.0.0.1:1".parse()?);
    let refused = shell.ready(&nobody, Duration::from_millis(300)).await;
    let text = format!(
        "{:#}",
        refused.err().ok_or_else(|| anyhow::anyhow!("ready"))?
    );
    ensure!(
        text.contains("started with someone") && text.contains("not ready"),
        "{text}"
    );
    ensure!(shell.resident_bytes()? > 100_000);
    let first = shell.pid();
    shell.restart()?;
    ensure!(shell.pid() != first);
    while shell.log()?.matches("started").count() < 2 {
        tokio::task::yield_now().await;
    }
    let status = shell.terminate(PATIENCE).await?;
    ensure!(status.code() == Some(3), "{status}");
    let ended = shell.ready(&nobody, PATIENCE).await;
    ensure!(
        format!("{:#}", ended.err().ok_or_else(|| anyhow::anyhow!("ready"))?).contains("ended")
    );
    Ok(())
}

async fn captured(lab: &Topology) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let capture = Capture::start(lab.outside(), WIRE, &folder.path().join("wire.pcap")).await?;
    let (server, client) = (lab.pod("pod-4")?, lab.pod("pod-5")?);
    echo(server, client, SocketAddr::new(server.v4().into(), 7001)).await?;
    let captured = capture.stop().await?;
    ensure!(captured.packets_with(b"echo")? >= 2, "{captured:?}");
    ensure!(captured.packets_with(b"never sent")? == 0, "{captured:?}");
    ensure!(captured.bytes > captured.packets * 42, "{captured:?}");
    Ok(())
}

async fn database(lab: &Topology, user_namespace: bool) -> Result<()> {
    if !packages::missing(packages::POSTGRES).is_empty() {
        println!("SKIPPED: PostgreSQL is not installed");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let server = lab.pod("pod-6")?;
    let postgres = postgres::Postgres::start(server, folder.path(), user_namespace).await?;
    let address = SocketAddr::new(server.v4().into(), postgres::PORT);
    let rows = postgres::query(lab.pod("pod-7")?, address, "select 40 + 2").await?;
    ensure!(rows == "42", "{rows}");
    ensure!(
        postgres::query(lab.pod("pod-7")?, address, "select nonsense")
            .await
            .is_err()
    );
    drop(postgres);
    Ok(())
}

#[expect(clippy::unused_async, reason = "all tests of the laboratory are")]
async fn collisions() -> Result<()> {
    let node = NodeSpec {
        name: "node-9".into(),
        number: 9,
    };
    let pod = |name: &str, node: &str, last| PodSpec {
        name: name.into(),
        node: node.into(),
        address: [10, 42, 9, last].into(),
    };
    for pods in [
        vec![pod("node-9", "node-9", 10)],
        vec![pod("a", "node-9", 10), pod("b", "node-9", 10)],
        vec![pod("a", "node-9", 1)],
        vec![pod("a", "node-8", 10)],
        vec![pod("../a", "node-9", 10)],
    ] {
        ensure!(
            Topology::create(std::slice::from_ref(&node), &pods).is_err(),
            "{pods:?}"
        );
    }
    Ok(())
}

// The programs that the tests below start, and the tests.

/// Isolated, starts another process, and waits for ever.
fn hold() -> Result<ExitCode> {
    if let Side::Outside(code) = isolate(Vec::new())? {
        return Ok(code);
    }
    let mut child = Command::new("sleep")
        .arg("1000")
        .stdin(Stdio::null())
        .spawn()?;
    println!("held");
    std::io::stdout().flush()?;
    child.wait()?;
    Ok(ExitCode::SUCCESS)
}

fn exit() -> Result<ExitCode> {
    match isolate(Vec::new())? {
        Side::Outside(code) => Ok(code),
        Side::Inside(_) => Ok(ExitCode::from(7)),
    }
}

/// One pod with a server, and a port of the host that leads to it.
fn forwarded() -> Result<ExitCode> {
    let mut listeners = Vec::new();
    if !mesh_lab::isolate::is_isolated() {
        listeners.push(forward::open(0)?);
        println!("{}", listeners[0].local_addr()?);
    }
    let Inside { listeners, .. } = match isolate(listeners)? {
        Side::Outside(code) => return Ok(code),
        Side::Inside(inside) => inside,
    };
    let node = NodeSpec {
        name: "node-1".into(),
        number: 1,
    };
    let pod = PodSpec {
        name: "web".into(),
        node: "node-1".into(),
        address: [10, 42, 1, 10].into(),
    };
    let (nodes, pods) = ([node], [pod]);
    // One laboratory makes room for the next.
    drop(Topology::create(&nodes, &pods)?);
    let mut lab = Topology::create(&nodes, &pods[..0])?;
    lab.add_pod(&pods[0])?;
    ensure!(lab.add_pod(&pods[0]).is_err(), "a pod was made twice");
    lab.remove_pod("web")?;
    ensure!(
        lab.pod("web").is_err() && lab.remove_pod("web").is_err(),
        "a pod is still there"
    );
    lab.add_pod(&pods[0])?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let scope = Scope::new();
        let web = lab.pod("web")?;
        let address: SocketAddr = "127.0.0.1:80".parse()?;
        for listener in listeners {
            forward::start(&scope, listener, web, address)?;
        }
        let served = web.run_in(move || async move {
            let listener = mesh_net::listen(&mesh_net::ListenOptions::new(address))?;
            let (mut stream, _) = listener.accept().await?;
            stream.write_all(b"from the lab").await
        });
        served.await??;
        scope.cancel();
        scope.finished().await;
        Ok(ExitCode::SUCCESS)
    })
}

fn own(argument: &str) -> Command {
    // This very program; its file's name changes with every build.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

fn the_exit_code_is_passed_on() -> Result<(), Failed> {
    let status = own("exit").status()?;
    if status.code() == Some(7) {
        Ok(())
    } else {
        Err(format!("{status}").into())
    }
}

/// Every process of the lab holds the output's pipe, so its end is theirs.
fn a_killed_runner_leaves_nothing() -> Result<(), Failed> {
    let mut runner = own("hold").spawn()?;
    let mut output = BufReader::new(runner.stdout.take().ok_or("no output")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    if line != "held\n" {
        return Err(format!("it said {line:?}").into());
    }
    runner.kill()?;
    runner.wait()?;
    let (done, ended) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut rest = String::new();
        let read = output.read_to_string(&mut rest);
        done.send(read)
    });
    ended
        .recv_timeout(PATIENCE)
        .map_err(|_| "processes of the lab are still there")??;
    if Path::new("/run/netns/pod-0").exists() {
        return Err("the host has the lab's namespaces".into());
    }
    Ok(())
}

fn the_host_reaches_into_the_lab() -> Result<(), Failed> {
    let mut runner = own("forward").spawn()?;
    let mut output = BufReader::new(runner.stdout.take().ok_or("no output")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    let address: SocketAddr = line.trim().parse()?;
    // The backlog takes the connection before the lab is up. A lab whose server does not listen yet
    // ends it without a word.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut text = String::new();
        TcpStream::connect(address)?.read_to_string(&mut text)?;
        if text == "from the lab" {
            break;
        }
        if Instant::now() > deadline {
            return Err("the lab did not answer".into());
        }
    }
    let status = runner.wait()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{status}").into())
    }
}
