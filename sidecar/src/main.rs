//! Per-pod proxy, L4 and L7 both ways; also the waypoint.

fn main() {}
