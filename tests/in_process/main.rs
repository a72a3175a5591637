//! The in-process layer: real binaries and real sockets on loopback, no privileges needed.
