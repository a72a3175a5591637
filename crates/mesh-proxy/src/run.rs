//! From checked settings to a running process, and back.

use crate::settings::Process;
use mesh_runtime::{Context, RunError, RunOptions};
use mesh_telemetry::{LogHandle, LoggingError};
use std::fmt::Display;
use std::io;
use std::sync::Arc;

/// Why a proxy could not even begin to start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `RUST_LOG` does not parse, or logging is set up already.
    #[error("logging")]
    Logging(#[source] LoggingError),
    /// The cryptography was in use before it was chosen.
    #[error("{0}")]
    Cryptography(#[source] mesh_tls::TlsError),
    /// The runtime, a worker or the signal handlers could not be made.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] io::Error),
}

/// Runs a proxy until a signal ends it: sets up logging and the cryptographic provider, then lets
/// `app` put its parts together. `app` also gets the log filter's handle, for the admin pages.
///
/// # Errors
/// A [`StartError`], or what `app` gave.
pub fn run<F, Fut, E>(process: &Process, app: F) -> Result<(), E>
where
    F: FnOnce(Context, Arc<LogHandle>) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: From<StartError> + Display,
{
    let logging = mesh_telemetry::init_logging(process.log_format, &process.log_filter)
        .map_err(StartError::Logging)?;
    let logging = Arc::new(logging);
    mesh_net::set_keep_alive(process.keep_alive);
    mesh_net::set_congestion(&process.congestion);
    mesh_tls::install_provider_with(process.tls.cryptography.key_exchange);
    mesh_tls::set_cryptography(process.tls.cryptography).map_err(StartError::Cryptography)?;
    let options = RunOptions {
        workers: process.workers,
        drain_deadline: process.drain_deadline,
    };
    let handle = logging.clone();
    let ran = mesh_runtime::run(options, |context| app(context, handle));
    // The last thing done here, so that what was logged on the way down is written too.
    logging.flush();
    ran.map_err(|e| match e {
        RunError::App(error) => error,
        RunError::Runtime(error) => StartError::Runtime(error).into(),
    })
}
