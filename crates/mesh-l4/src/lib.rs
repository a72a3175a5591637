//! One TCP session from plan to end record.
