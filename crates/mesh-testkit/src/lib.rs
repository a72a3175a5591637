//! Test-only parts: certificate authority, OTLP receiver, scripted peers.
