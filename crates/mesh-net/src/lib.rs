//! Sockets: listen and connect with options, original destination, network namespaces, peek, byte pump.
