//! Pure Gateway API matching: precedence, weighted split, filters and timeouts as data.
