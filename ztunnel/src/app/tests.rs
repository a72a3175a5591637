//! The whole proxy in this process, twice: two nodes on loopback that talk to each other.
