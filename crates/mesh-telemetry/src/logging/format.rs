//! The two forms of a log line (interop/telemetry.md section 4).

use super::{LogFormat, rfc3339};
use crate::access::write_json_text;
use std::fmt::{self, Write as _};
use std::time::SystemTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Time, level and target, each with its tab.
pub(super) fn plain_head(to: &mut String, now: SystemTime, level: Level, target: &str) {
    to.push_str(&rfc3339(now));
    to.push('\t');
    to.push_str(level_name(level));
    to.push('\t');
    to.push_str(target);
    to.push('\t');
}

/// Lower case, in both forms.
const fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// The opening of an object with level, time, scope and message.
pub(super) fn json_head(
    to: &mut String,
    now: SystemTime,
    level: Level,
    target: &str,
    message: &str,
) {
    to.push_str("{\"level\":\"");
    to.push_str(level_name(level));
    to.push_str("\",\"time\":\"");
    to.push_str(&rfc3339(now));
    to.push_str("\",\"scope\":");
    // Writing to a String cannot fail.
    let _infallible = write_json_text(to, target);
    to.push_str(",\"message\":");
    let _infallible = write_json_text(to, message);
}

/// Writes events of the `tracing` crate.
#[derive(Debug, Clone, Copy)]
pub(super) struct LineFormat(pub(super) LogFormat);

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = *event.metadata().level();
        let target = event.metadata().target();
        let spans = spans_of::<S, N>(context);
        let mut line = String::with_capacity(256);
        match self.0 {
            LogFormat::Plain => {
                let place = if spans.is_empty() {
                    target.to_owned()
                } else {
                    format!("{target}:{spans}")
                };
                plain_head(&mut line, SystemTime::now(), level, &place);
                // A message is one line whatever it holds.
                push_one_line(&mut line, &fields.message);
                if !fields.others.is_empty() {
                    line.push('\t');
                    fields.write_plain(&mut line)?;
                }
            }
            LogFormat::Json => {
                json_head(&mut line, SystemTime::now(), level, target, &fields.message);
                if !spans.is_empty() {
                    line.push_str(",\"span\":");
                    write_json_text(&mut line, &spans)?;
                }
                fields.write_json(&mut line)?;
                line.push('}');
            }
        }
        line.push('\n');
        writer.write_str(&line)
    }
}

fn push_one_line(to: &mut String, message: &str) {
    for c in message.chars() {
        match c {
            '\n' => to.push_str("\\n"),
            '\r' => to.push_str("\\r"),
            '\t' => to.push(' '),
            c => to.push(c),
        }
    }
}

/// `outer{a=1}:inner{b=2}`.
fn spans_of<S, N>(context: &FmtContext<'_, S, N>) -> String
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    let mut text = String::new();
    let Some(scope) = context.event_scope() else {
        return text;
    };
    for span in scope.from_root() {
        if !text.is_empty() {
            text.push(':');
        }
        text.push_str(span.name());
        let extensions = span.extensions();
        if let Some(fields) = extensions.get::<FormattedFields<N>>()
            && !fields.is_empty()
        {
            text.push('{');
            text.push_str(fields);
            text.push('}');
        }
    }
    text
}

#[derive(Debug)]
enum FieldValue {
    Text(String),
    Bare(String),
}

/// The fields of an event, the message apart.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, FieldValue)>,
}

impl Fields {
    fn text(&mut self, field: &Field, text: String) {
        if field.name() == "message" {
            self.message = text;
        } else {
            self.others.push((field.name(), FieldValue::Text(text)));
        }
    }

    fn bare(&mut self, field: &Field, value: impl fmt::Display) {
        self.others
            .push((field.name(), FieldValue::Bare(value.to_string())));
    }

    fn write_plain(&self, to: &mut String) -> fmt::Result {
        for (n, (key, value)) in self.others.iter().enumerate() {
            if n > 0 {
                to.push(' ');
            }
            match value {
                FieldValue::Text(text) => write!(to, "{key}={text:?}")?,
                FieldValue::Bare(text) => write!(to, "{key}={text}")?,
            }
        }
        Ok(())
    }

    fn write_json(&self, to: &mut String) -> fmt::Result {
        for (key, value) in &self.others {
            to.push(',');
            write_json_text(to, key)?;
            to.push(':');
            match value {
                FieldValue::Text(text) => write_json_text(to, text)?,
                FieldValue::Bare(text) => to.push_str(text),
            }
        }
        Ok(())
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        self.text(field, text);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN and no infinity.
        if value.is_finite() {
            self.bare(field, value);
        } else {
            self.text(field, value.to_string());
        }
    }
}

#[cfg(test)]
mod tests;
