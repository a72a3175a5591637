//! Exchanges over real sockets, in one process: client, proxy and origins on one thread.

mod failures;
mod http1;
mod http2;
mod policies;
mod routes;
mod support;
mod upgrade;
