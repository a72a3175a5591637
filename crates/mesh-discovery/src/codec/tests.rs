//! Every resource survives the wire; what may not pass is refused by name and field.
