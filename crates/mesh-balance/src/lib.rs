//! Pure endpoint choice.
