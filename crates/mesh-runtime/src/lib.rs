//! Worker threads, owned tasks, signals, drain, readiness and the admin HTTP shell.
