//! A target reached, or another endpoint of its service when nothing reached the first.

use crate::{DialError, Ejector};
use mesh_model::{Dice, Snapshot};
use mesh_plan::{Client, Refusal, Target, TargetKind};
use std::cell::RefCell;

/// Why one attempt at a target failed.
#[derive(Debug)]
pub enum AttemptError {
    /// The target was not reached.
    Dial(DialError),
    /// The fault is ours; another endpoint would not help.
    Ours(Refusal),
}

impl From<DialError> for AttemptError {
    fn from(error: DialError) -> Self {
        Self::Dial(error)
    }
}

impl From<Refusal> for AttemptError {
    fn from(refusal: Refusal) -> Self {
        Self::Ours(refusal)
    }
}

/// What the choice of another endpoint takes.
pub struct Reach<'a> {
    /// What the first target was planned on.
    pub snapshot: &'a Snapshot,
    /// Who asks.
    pub client: &'a Client,
    /// Chance; not borrowed across an await.
    pub dice: &'a RefCell<Dice>,
    /// Told how each attempt went.
    pub ejector: &'a Ejector,
    /// Endpoints tried for one connection, the first included. Each may take the whole connect
    /// timeout, and the client waits meanwhile.
    pub attempts_max: usize,
}

impl Reach<'_> {
    /// Opens a stream to the target, or to another endpoint of its service as long as nothing of the
    /// session has reached the one that failed. `attempt` is told each target in turn, and notes in
    /// the connection's record where it goes.
    ///
    /// # Errors
    /// The last attempt's.
    pub async fn open<S>(
        &self,
        mut target: Target,
        mut attempt: impl AsyncFnMut(&Target) -> Result<S, AttemptError>,
    ) -> Result<S, Refusal> {
        let mut tried = Vec::new();
        loop {
            let error = match attempt(&target).await {
                Ok(stream) => {
                    self.note(&target, None);
                    return Ok(stream);
                }
                Err(AttemptError::Ours(refusal)) => return Err(refusal),
                Err(AttemptError::Dial(error)) => error,
            };
            self.note(&target, Some(&error));
            tried.push(target.endpoint());
            let may = tried.len() < self.attempts_max && error.retry_is_safe();
            let next = if may {
                let dice = &mut self.dice.borrow_mut();
                mesh_plan::retry_target_untried(self.snapshot, self.client, &target, &tried, dice)
            } else {
                None
            };
            target = next.ok_or_else(|| Refusal::new(error.reason(), error.to_string()))?;
            tracing::debug!(%error, next = %target.destination, "trying another endpoint");
        }
    }

    fn note(&self, target: &Target, failure: Option<&DialError>) {
        // Where there is no choice there is nothing to avoid.
        if target.kind != TargetKind::Passthrough {
            self.ejector.note(target.endpoint(), failure);
        }
    }
}

#[cfg(test)]
mod tests;
