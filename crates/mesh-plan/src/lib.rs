//! Pure plans: what happens to a connection or request, and the explanation of it.
