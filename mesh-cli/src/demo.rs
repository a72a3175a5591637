//! `mesh demo`: a whole mesh on this machine, and real traffic through every part of it.

mod chain;
mod check;
mod observed;
mod report;
mod traffic;

use crate::settings::DemoSettings;
use anyhow::{Context, Result};
use mesh_lab::capture::Capture;
use mesh_lab::forward;
use mesh_lab::isolate::{self, Side};
use mesh_lab::topology::WIRE;
use mesh_lab::world::configuration::{CHAT, SHOP};
use mesh_lab::world::{World, WorldOptions};
use mesh_runtime::Scope;
use report::Report;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Where the gateway's HTTPS listener is, inside.
const EDGE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 42, 1, 10)), 8443);

/// Runs the demo. Outside it makes the namespaces and runs this program again in them.
pub(crate) fn run(settings: &DemoSettings) -> Result<ExitCode> {
    let mut listeners = Vec::new();
    if !isolate::is_isolated() {
        crate::packages::ensure()?;
        if !settings.once {
            listeners.push(forward::open(settings.port)?);
        }
    }
    let inside = match isolate::isolate(listeners)? {
        Side::Outside(code) => return Ok(code),
        Side::Inside(inside) => inside,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let options = WorldOptions {
        binaries: binaries(settings)?,
        folder: settings.keep.clone(),
        user_namespace: inside.user_namespace,
        otlp: None,
        postgres: !settings.without_postgres && crate::packages::has_postgres(),
    };
    runtime.block_on(play(settings, options, inside.listeners))
}

fn binaries(settings: &DemoSettings) -> Result<PathBuf> {
    if let Some(folder) = &settings.binaries {
        return folder
            .canonicalize()
            .with_context(|| folder.display().to_string());
    }
    let program = std::env::current_exe().context("where is this program")?;
    Ok(program
        .parent()
        .unwrap_or_else(|| Path::new("."))
        .to_owned())
}

async fn play(
    settings: &DemoSettings,
    options: WorldOptions,
    listeners: Vec<TcpListener>,
) -> Result<ExitCode> {
    let start = Instant::now();
    let mut world = World::start(options, |step| eprintln!("demo: {step}")).await?;
    eprintln!(
        "demo: ready after {:.1} s; now traffic",
        start.elapsed().as_secs_f32()
    );
    let wire = Capture::start(
        world.topology.outside(),
        WIRE,
        &world.folder.join("wire.pcap"),
    )
    .await?;
    let mut checks = traffic::all(&mut world, settings.requests).await?;
    checks.push(traffic::wire(&wire.stop().await?)?);
    let report = Report::new(checks);
    println!("{}", report.table());
    if let Some(file) = &settings.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(file, text + "\n").with_context(|| file.display().to_string())?;
    }
    if !settings.once {
        stay(&world, listeners).await?;
    }
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Keeps the mesh up until Ctrl-C, reachable from the host's loopback.
async fn stay(world: &World, listeners: Vec<TcpListener>) -> Result<()> {
    let scope = Scope::new();
    let mut roots = Vec::new();
    for listener in listeners {
        let internet = world.place("internet")?;
        let address = forward::start(&scope, listener, internet, EDGE)?;
        let root = std::env::temp_dir().join(format!("strata-demo-root-{}.pem", address.port()));
        std::fs::write(&root, &world.configuration.web_root_pem)
            .with_context(|| root.display().to_string())?;
        roots.push(root.clone());
        let port = address.port();
        println!("The mesh is up. From this machine:\n");
        println!(
            "  curl --cacert {} --resolve {SHOP}:{port}:127.0.0.1 https://{SHOP}:{port}/",
            root.display()
        );
        println!("\nWebSocket echo: wss://{CHAT}:{port}/ (same root). Logs: see --keep DIR.");
        println!("Ctrl-C ends it, and leaves nothing behind.");
    }
    tokio::signal::ctrl_c()
        .await
        .context("cannot wait for Ctrl-C")?;
    scope.cancel();
    for root in roots {
        std::fs::remove_file(&root).with_context(|| root.display().to_string())?;
    }
    Ok(())
}
