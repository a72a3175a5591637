//! HTTP/2 CONNECT tunnels: pool and server.
