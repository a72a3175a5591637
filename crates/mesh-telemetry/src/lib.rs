//! Logs, metric families as types, access records, trace context and OTLP export.
