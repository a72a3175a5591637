//! One HTTP exchange: codecs, routes, upstream pool, upgrades.
