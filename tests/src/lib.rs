//! The tests of the whole mesh live in this package's test targets, one binary a layer.
