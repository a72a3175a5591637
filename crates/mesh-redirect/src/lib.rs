//! Typed redirection rules applied as one iptables transaction inside a network namespace.
