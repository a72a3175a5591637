//! Whole proxies in this process, on loopback addresses of their own: sidecars and a waypoint that
//! talk to each other over real sockets and real TLS.

mod network_gateways;
mod sidecars;
mod support;
mod timers;
mod waypoints;
