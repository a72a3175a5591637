//! CA client: requests, caches and rotates workload certificates.
