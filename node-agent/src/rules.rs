//! The redirection inside a pod. It runs programs, so it is done off the control thread.

use mesh_net::Netns;
use mesh_redirect::{InPodOptions, Mode, RedirectError, RuleSet};
use std::io;
use tokio::task::spawn_blocking;

/// Why a pod's rules are not as they should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RulesError {
    /// The pod's network namespace cannot be entered.
    #[error("cannot enter the network namespace: {0}")]
    Enter(#[source] io::Error),
    /// A program is missing or refused.
    #[error(transparent)]
    Redirect(#[from] RedirectError),
    /// A fault of this program.
    #[error("the work was not finished")]
    Lost,
}

/// The rules of this node's pods.
#[derive(Debug, Clone)]
pub(crate) struct Rules(RuleSet);

impl Rules {
    /// The rules for these choices.
    pub(crate) fn new(options: InPodOptions) -> Self {
        Self(RuleSet::new(&Mode::InPod(options)))
    }

    /// Puts the rules in place; those that stand, as after a restart of the agent, are left alone.
    pub(crate) async fn apply(&self, netns: &Netns) -> Result<(), RulesError> {
        self.within(netns, |rules| {
            if rules.check().is_ok_and(|report| report.is_in_place()) {
                return Ok(());
            }
            rules.apply()
        })
        .await
    }

    /// Takes the rules away.
    pub(crate) async fn remove(&self, netns: &Netns) -> Result<(), RulesError> {
        self.within(netns, RuleSet::remove).await
    }

    async fn within(
        &self,
        netns: &Netns,
        work: impl FnOnce(&RuleSet) -> Result<(), RedirectError> + Send + 'static,
    ) -> Result<(), RulesError> {
        let (rules, netns) = (self.0.clone(), netns.clone());
        // The programs inherit the namespace of the thread that starts them.
        let done = spawn_blocking(move || netns.enter(|| work(&rules))).await;
        done.map_err(|_| RulesError::Lost)?
            .map_err(RulesError::Enter)??;
        Ok(())
    }
}
