//! Decisions, by hand and against an oracle.
