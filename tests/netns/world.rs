//! The one mesh that the tests inside share, started by the first that needs it.

use anyhow::{Context, Result};
use libtest_mimic::{Failed, Trial};
use mesh_lab::world::{World, WorldOptions};
use mesh_testkit::OtlpReceiver;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Runtime;

/// What a test works with.
pub(crate) struct Running {
    /// The mesh.
    pub(crate) world: World,
    /// Spans that its proxies exported.
    pub(crate) spans: OtlpReceiver,
}

/// The mesh, started when first asked for.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Inner>);

struct Inner {
    user_namespace: bool,
    state: Mutex<Option<(Runtime, Running)>>,
}

impl Shared {
    pub(crate) fn new(user_namespace: bool) -> Self {
        Self(Arc::new(Inner {
            user_namespace,
            state: Mutex::new(None),
        }))
    }

    /// A test that needs the mesh.
    pub(crate) fn trial<F>(&self, name: &str, body: F) -> Trial
    where
        F: AsyncFnOnce(&mut Running) -> Result<()> + Send + 'static,
    {
        let shared = self.clone();
        Trial::test(name, move || {
            shared.run(body).map_err(|e| Failed::from(format!("{e:#}")))
        })
    }

    fn run<F>(&self, body: F) -> Result<()>
    where
        F: AsyncFnOnce(&mut Running) -> Result<()>,
    {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_none() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let running = runtime.block_on(start(self.0.user_namespace))?;
            *state = Some((runtime, running));
        }
        let (runtime, running) = state.as_mut().context("the mesh did not start")?;
        runtime.block_on(body(running))
    }

    /// Ends the mesh.
    pub(crate) fn stop(&self) {
        drop(
            self.0
                .state
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }
}

async fn start(user_namespace: bool) -> Result<Running> {
    // The lab's root namespace is at 10.42.0.1 once the network is made; any address serves.
    let listener = mesh_net::listen(&mesh_net::ListenOptions::new("0.0.0.0:4317".parse()?))?;
    let spans = OtlpReceiver::start_on(listener);
    for trace in crate::trace::TRACES {
        spans.keep(trace);
    }
    let options = WorldOptions {
        binaries: binaries()?,
        folder: None,
        user_namespace,
        otlp: Some("http://10.42.0.1:4317".to_owned()),
        postgres: false,
    };
    let world = World::start(options, |step| println!("mesh: {step}")).await?;
    Ok(Running { world, spans })
}

/// The folder of the binaries: beside the folder of this test program.
pub(crate) fn binaries() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program
        .parent()
        .and_then(|deps| deps.parent())
        .context("no build folder")?;
    Ok(folder.to_owned())
}
