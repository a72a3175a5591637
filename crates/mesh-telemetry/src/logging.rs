//! Log lines: format, filter, and a bounded writer that never blocks the caller.

mod format;
mod time;
mod writer;

pub use time::rfc3339;
pub(crate) use writer::dropped;

use crate::access::Line;
use format::LineFormat;
use std::io;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, reload};
use writer::LogQueue;

/// How long a flush waits for the writer.
const FLUSH_WAIT: Duration = Duration::from_secs(1);
/// The filter when none is given.
const FILTER_DEFAULT: &str = "info";

/// How a log line is written (interop/telemetry.md section 4, `LOG_FORMAT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Tab separated, for eyes.
    #[default]
    Plain,
    /// One JSON object a line.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = LoggingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "plain" => Ok(Self::Plain),
            "json" => Ok(Self::Json),
            _ => Err(LoggingError::Format(text.chars().take(64).collect())),
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// `LOG_FORMAT` is neither `plain` nor `json`.
    #[error("log format '{0}' is neither 'plain' nor 'json'")]
    Format(String),
    /// The filter does not parse.
    #[error("log filter '{filter}': {why}")]
    Filter {
        /// The text.
        filter: String,
        /// Why.
        why: String,
    },
    /// Logging is set up already.
    #[error("logging is set up already")]
    Twice,
    /// The writer's thread could not be started.
    #[error("log writer: {0}")]
    Thread(#[from] io::Error),
}

/// What access records need of the process's logging.
#[derive(Debug)]
struct Output {
    queue: LogQueue,
    format: LogFormat,
}

static OUTPUT: OnceLock<Output> = OnceLock::new();

/// The logging of the process. Dropping it waits, a short time at most, until what was logged is
/// written; keep it until the process ends.
#[derive(Debug)]
pub struct LogHandle {
    queue: LogQueue,
    /// The filter the process began with.
    first: String,
    filter: reload::Handle<Targets, Registry>,
}

impl LogHandle {
    /// Changes the filter from now on, for `/logging?level=`.
    ///
    /// # Errors
    /// When the filter does not parse.
    pub fn set_filter(&self, filter: &str) -> Result<(), LoggingError> {
        let parsed = parse_filter(filter)?;
        self.filter
            .reload(parsed)
            .map_err(|e| LoggingError::Filter {
                filter: filter.into(),
                why: e.to_string(),
            })
    }

    /// The filter in force.
    pub fn filter(&self) -> String {
        // An error means that the subscriber is gone, and with it the log.
        self.filter
            .with_current(ToString::to_string)
            .unwrap_or_default()
    }

    /// Goes back to the filter the process began with.
    ///
    /// # Errors
    /// When the filter cannot be changed any more.
    pub fn reset_filter(&self) -> Result<(), LoggingError> {
        self.set_filter(&self.first)
    }

    /// Waits until what was logged so far is written, a short time at most.
    pub fn flush(&self) {
        self.queue.flush(FLUSH_WAIT);
    }
}

impl Drop for LogHandle {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Levels of targets: `RUST_LOG` without the spans and fields of `EnvFilter`, whose automata are a quarter
/// of a megabyte of every process.
fn parse_filter(filter: &str) -> Result<Targets, LoggingError> {
    let text = match filter.trim() {
        "" => FILTER_DEFAULT,
        text => text,
    };
    text.parse::<Targets>().map_err(|e| LoggingError::Filter {
        filter: text.chars().take(256).collect(),
        why: e.to_string(),
    })
}

/// Sets up logging for the process: to standard output, in the given format, for the given filter
/// (`level` and `target=level`, separated by commas, as in `RUST_LOG`; empty means `info`).
///
/// Lines are queued and written by a thread of their own. When the reader of the output is slower
/// than the log, lines are lost and counted (`strata_log_records_dropped_total`); traffic never
/// waits.
///
/// # Errors
/// When the filter does not parse or logging is set up already.
pub fn init_logging(format: LogFormat, filter: &str) -> Result<LogHandle, LoggingError> {
    init_logging_to(format, filter, io::stdout())
}

/// As [`init_logging`], to another output: a command-line tool's standard error.
///
/// # Errors
/// When the filter does not parse or logging is set up already.
pub fn init_logging_to(
    format: LogFormat,
    filter: &str,
    output: impl io::Write + Send + 'static,
) -> Result<LogHandle, LoggingError> {
    let first = filter.to_owned();
    let (filter, reload) = reload::Layer::new(parse_filter(filter)?);
    let queue = LogQueue::start(output)?;
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .event_format(LineFormat(format))
        .with_writer(queue.clone());
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LoggingError::Twice)?;
    let access = Output {
        queue: queue.clone(),
        format,
    };
    OUTPUT.set(access).map_err(|_| LoggingError::Twice)?;
    Ok(LogHandle {
        queue,
        first,
        filter: reload,
    })
}

/// Writes an access record. Whether its level is enabled is the caller's question.
pub(crate) fn write_access(level: Level, target: &str, message: &str, line: &Line<'_>) {
    let Some(output) = OUTPUT.get() else {
        return;
    };
    let text = render(
        output.format,
        SystemTime::now(),
        level,
        target,
        message,
        line,
    );
    output.queue.put(text.into_bytes());
}

/// The line of an access record, with its line feed.
pub(crate) fn render(
    format: LogFormat,
    now: SystemTime,
    level: Level,
    target: &str,
    message: &str,
    line: &Line<'_>,
) -> String {
    let mut text = String::with_capacity(1024);
    match format {
        LogFormat::Plain => {
            format::plain_head(&mut text, now, level, target);
            text.push_str(message);
            text.push('\t');
            line.write_plain(&mut text);
        }
        LogFormat::Json => {
            format::json_head(&mut text, now, level, target, message);
            line.write_json(&mut text);
            text.push('}');
        }
    }
    text.push('\n');
    text
}
