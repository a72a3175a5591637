//! The file's form, its mistakes, and edits picked up while running.
