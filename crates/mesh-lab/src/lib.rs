//! A mesh on one machine: network namespaces, pods, processes and origins of every protocol.
