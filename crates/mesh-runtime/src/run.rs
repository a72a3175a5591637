//! One way up and one way down for every binary.

use crate::{Drain, Readiness, Scope, Workers};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fmt::Display;
use std::io;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long sessions may take to write their end records once they are cut.
const FORCE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the workers may take to end.
const WORKERS_TIMEOUT: Duration = Duration::from_secs(3);

/// How to run.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    /// Worker threads, at least 1; see [`crate::workers_default`].
    pub workers: usize,
    /// How long sessions may run on after the first signal.
    pub drain_deadline: Duration,
}

/// What an app is built with. Clones share everything.
#[derive(Debug, Clone)]
pub struct Context {
    /// The threads for data-plane work.
    pub workers: Workers,
    /// Owns what serves the process: control clients, admin pages, listeners, pools. Cancelled last.
    pub scope: Scope,
    /// Owns what serves a client: going down waits until this scope is empty, or for the deadline.
    /// Tasks for sessions belong here; they end by themselves, at the latest on [`Drain::forced`].
    pub connections: Scope,
    /// Tells that the process goes down. Listeners close when it starts.
    pub drain: Drain,
    /// Readiness; not ready before the app has returned nor while going down.
    pub readiness: Readiness,
}

/// Why a process did not come up.
#[derive(Debug, thiserror::Error)]
pub enum RunError<E: Display> {
    /// The runtime, a worker or the signal handlers could not be made.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[from] io::Error),
    /// The app could not be set up.
    #[error("{0}")]
    App(E),
}

/// Runs a process: makes the control runtime on this thread and the workers, lets `app` set up,
/// then waits for SIGTERM or SIGINT and drains. A second signal cuts what still runs.
///
/// # Errors
/// See [`RunError`]. A signal during the set-up is an orderly end.
pub fn run<F, Fut, E>(options: RunOptions, app: F) -> Result<(), RunError<E>>
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Display,
{
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let context = Context {
        workers: Workers::start(options.workers, "worker")?,
        scope: Scope::new(),
        connections: Scope::new(),
        drain: Drain::new(),
        readiness: Readiness::new(),
    };
    let local = tokio::task::LocalSet::new();
    let result = local.block_on(&runtime, live(options, &context, app));
    if !context.workers.stop(WORKERS_TIMEOUT) {
        tracing::warn!("a worker did not end in time and is left behind");
    }
    result
}

async fn live<F, Fut, E>(options: RunOptions, context: &Context, app: F) -> Result<(), RunError<E>>
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Display,
{
    let mut signals = Signals::new()?;
    let running = context.readiness.gate("running");
    let result = tokio::select! {
        result = app(context.clone()) => result.map_err(RunError::App),
        () = signals.next() => {
            context.drain.start();
            Ok(())
        }
    };
    if result.is_ok() && !context.drain.is_started() {
        running.open();
        tokio::select! {
            () = signals.next() => {}
            // Also an admin page may send the process home.
            () = context.drain.started() => {}
        }
    }
    running.close();
    drain(options.drain_deadline, context, &mut signals).await;
    result
}

async fn drain(deadline: Duration, context: &Context, signals: &mut Signals) {
    let connections = &context.connections;
    let sessions = connections.tasks();
    tracing::info!(sessions, deadline_ms = deadline.as_millis(), "draining");
    context.drain.start();
    tokio::select! {
        () = connections.finished() => {}
        () = tokio::time::sleep(deadline) => {
            tracing::info!(sessions = connections.tasks(), "the drain deadline has passed");
        }
        () = signals.next() => {
            tracing::info!(sessions = connections.tasks(), "a second signal ends the drain");
        }
    }
    context.drain.force();
    if tokio::time::timeout(FORCE_TIMEOUT, connections.finished())
        .await
        .is_err()
    {
        tracing::warn!(
            sessions = connections.tasks(),
            "sessions did not end when cut"
        );
    }
    connections.cancel();
    context.scope.cancel();
    tokio::time::timeout(FORCE_TIMEOUT, context.scope.finished())
        .await
        .ok();
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A proxy needs two descriptors a connection; the usual soft limit of 1024 is for `select`.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal as Number, raise};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    const OPTIONS: RunOptions = RunOptions {
        workers: 1,
        drain_deadline: Duration::from_secs(60),
    };

    /// A signal reaches every runtime of the process, so these tests take turns.
    fn alone() -> MutexGuard<'static, ()> {
        static TURN: Mutex<()> = Mutex::new(());
        TURN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[test]
    fn a_signal_drains_and_waits_for_the_sessions() {
        let _turn = alone();
        let ended = Arc::new(AtomicUsize::new(0));
        let seen = ended.clone();
        let result: Result<(), RunError<String>> = run(OPTIONS, |context| async move {
            let (connections, drain) = (context.connections.clone(), context.drain.clone());
            context.workers.on_each(move |_| {
                let (drain, seen) = (drain.clone(), seen.clone());
                connections.spawn_local("session", async move {
                    drain.started().await;
                    tokio::task::yield_now().await;
                    seen.fetch_add(1, Ordering::SeqCst);
                });
                raise(Number::SIGTERM).unwrap();
                std::future::ready(())
            });
            Ok(())
        });
        assert!(result.is_ok());
        assert_eq!(ended.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_second_signal_cuts_what_runs() {
        let _turn = alone();
        let result: Result<(), RunError<String>> = run(OPTIONS, |context| async move {
            let drain = context.drain.clone();
            context.connections.spawn_local("session", async move {
                drain.started().await;
                raise(Number::SIGINT).unwrap();
                drain.forced().await;
            });
            raise(Number::SIGTERM).unwrap();
            Ok(())
        });
        assert!(result.is_ok());
    }

    #[test]
    fn an_app_that_fails_ends_the_process_with_its_words() {
        let _turn = alone();
        let result = run(OPTIONS, |context| async move {
            assert_eq!(context.readiness.pending(), ["running"]);
            Err("no such gateway")
        });
        assert_eq!(result.unwrap_err().to_string(), "no such gateway");
    }
}
