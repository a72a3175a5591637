//! The fields of a record, their two written forms, and the tap that hands records to a reader.

use crate::live::held;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// One field's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// Quoted in plain lines, so that no text can forge a field or a line.
    Text(Cow<'a, str>),
    /// An address: bare in plain lines.
    Address(SocketAddr),
    /// An authority: bare in plain lines as long as it can be nothing else.
    Authority(&'a str),
    /// A number: bare.
    Number(u64),
    /// Not known: `null` in JSON, left out of plain lines.
    Missing,
}

impl<'a> Value<'a> {
    pub(crate) const fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    pub(crate) const fn owned(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }

    pub(crate) const fn address(address: SocketAddr) -> Self {
        Self::Address(address)
    }

    fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Text(text) => text.as_ref().into(),
            Self::Authority(text) => (*text).into(),
            Self::Address(address) => address.to_string().into(),
            Self::Number(number) => (*number).into(),
            Self::Missing => serde_json::Value::Null,
        }
    }
}

/// Whether a text is a host or address with a port, of which nothing can be taken for another field.
fn is_authority(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".:-_[]%".contains(&b))
}

/// Fields in the order they are written.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    fields: Vec<(&'static str, Value<'a>)>,
}

impl<'a> Line<'a> {
    pub(crate) fn with_capacity(fields: usize) -> Self {
        Self {
            fields: Vec::with_capacity(fields),
        }
    }

    pub(crate) fn put(&mut self, key: &'static str, value: Value<'a>) {
        self.fields.push((key, value));
    }

    pub(crate) fn optional(&mut self, key: &'static str, value: Option<Value<'a>>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    /// ` key=value` for each field, the first without the space.
    pub(crate) fn write_plain(&self, to: &mut String) {
        let mut first = true;
        for (key, value) in &self.fields {
            if *value == Value::Missing {
                continue;
            }
            if !std::mem::take(&mut first) {
                to.push(' ');
            }
            // Writing to a String cannot fail.
            to.push_str(key);
            to.push('=');
            let _infallible = match value {
                Value::Text(text) => write_quoted(to, text),
                Value::Authority(text) if is_authority(text) => to.write_str(text),
                Value::Authority(text) => write_quoted(to, text),
                Value::Address(address) => write!(to, "{address}"),
                Value::Number(number) => write!(to, "{number}"),
                Value::Missing => Ok(()),
            };
        }
    }

    /// `,"key":value` for each field.
    pub(crate) fn write_json(&self, to: &mut String) {
        for (key, value) in &self.fields {
            to.push_str(",\"");
            to.push_str(key);
            to.push_str("\":");
            let _infallible = match value {
                Value::Text(text) => write_json_text(to, text),
                Value::Authority(text) => write_json_text(to, text),
                Value::Address(address) => write!(to, "\"{address}\""),
                Value::Number(number) => write!(to, "{number}"),
                Value::Missing => to.write_str("null"),
            };
        }
    }

    fn to_json(&self, message: &str) -> serde_json::Value {
        let mut object: serde_json::Map<String, serde_json::Value> = self
            .fields
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.to_json()))
            .collect();
        object.insert("message".into(), message.into());
        serde_json::Value::Object(object)
    }
}

/// A text with its quotes, as `Debug` writes it; most need no escape.
fn write_quoted(to: &mut String, text: &str) -> std::fmt::Result {
    let bare = |b: u8| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\';
    if !text.bytes().all(bare) {
        return write!(to, "{text:?}");
    }
    to.push('"');
    to.push_str(text);
    to.push('"');
    Ok(())
}

/// A JSON string with its quotes.
pub(crate) fn write_json_text(to: &mut String, text: &str) -> std::fmt::Result {
    to.push('"');
    for c in text.chars() {
        match c {
            '"' => to.push_str("\\\""),
            '\\' => to.push_str("\\\\"),
            '\n' => to.push_str("\\n"),
            '\r' => to.push_str("\\r"),
            '\t' => to.push_str("\\t"),
            c if c < ' ' => write!(to, "\\u{:04x}", u32::from(c))?,
            c => to.push(c),
        }
    }
    to.push('"');
    Ok(())
}

/// The end records of a process, as they happen. Made by [`crate::Metrics::tap_records`].
#[derive(Debug)]
pub struct RecordTap(Receiver<serde_json::Value>);

impl RecordTap {
    /// The next record, waiting for it this long at most. `None`: none came.
    pub fn next(&self, wait: Duration) -> Option<serde_json::Value> {
        self.0.recv_timeout(wait).ok()
    }

    /// The records that are here already.
    pub fn take(&self) -> Vec<serde_json::Value> {
        self.0.try_iter().collect()
    }
}

/// Where records go beside the log, when someone listens.
#[derive(Debug, Default)]
pub(crate) struct Tap {
    open: AtomicBool,
    sender: Mutex<Option<SyncSender<serde_json::Value>>>,
}

impl Tap {
    pub(crate) fn open(&self, capacity: usize) -> RecordTap {
        let (sender, receiver) = sync_channel(capacity);
        *held(&self.sender) = Some(sender);
        self.open.store(true, Ordering::Relaxed);
        RecordTap(receiver)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn give(&self, message: &str, line: &Line<'_>) {
        if !self.is_open() {
            return;
        }
        if let Some(sender) = &*held(&self.sender) {
            // A full or abandoned tap loses records; the log has them.
            let _lost = sender.try_send(line.to_json(message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_plain_line_cannot_be_forged() {
        let mut line = Line::with_capacity(2);
        line.put("path", Value::text("/a\" reason=\"ok\"\n2026"));
        line.put("bytes", Value::Number(3));
        let mut text = String::new();
        line.write_plain(&mut text);
        assert_eq!(text, r#"path="/a\" reason=\"ok\"\n2026" bytes=3"#);
    }

    #[test]
    fn a_tap_hears_what_happens_after_it_opened() {
        let tap = Tap::default();
        let line = Line::with_capacity(0);
        tap.give("before", &line);
        let reader = tap.open(1);
        tap.give("first", &line);
        tap.give("lost, the tap is full", &line);
        assert_eq!(reader.take(), vec![serde_json::json!({"message": "first"})]);
    }

    proptest! {
        #[test]
        fn json_text_is_read_back(text in any::<String>()) {
            let mut line = Line::with_capacity(1);
            line.put("k", Value::text(&text));
            let mut out = String::from("{\"a\":1");
            line.write_json(&mut out);
            out.push('}');
            let back: serde_json::Value = serde_json::from_str(&out).unwrap();
            prop_assert_eq!(back["k"].as_str(), Some(text.as_str()));
        }
    }
}
