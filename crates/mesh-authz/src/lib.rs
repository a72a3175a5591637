//! Pure authorization: facts and policies to a decision and the rule that made it.
