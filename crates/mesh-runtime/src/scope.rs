//! Owned tasks: whoever spawns one can end it, wait for it, and count it.

use futures_util::FutureExt;
use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Tasks that panicked since the process began. Anything but 0 is a fault of this program.
pub fn panics_total() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Owns tasks. Clones are the same scope; [`Scope::child`] makes a smaller one within it.
///
/// Dropping the last clone does not end the tasks: they own what they need. Cancelling does, at
/// each task's next await.
#[derive(Debug, Clone)]
pub struct Scope(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    token: CancellationToken,
    tracker: TaskTracker,
    parent: Option<Scope>,
}

/// What a task holds while it lives: its place in its scope and in those around it.
struct Place {
    _own: TaskTrackerToken,
    _around: Option<Box<Self>>,
}

impl Default for Scope {
    fn default() -> Self {
        Self::new()
    }
}

impl Scope {
    /// A scope of its own.
    pub fn new() -> Self {
        Self::make(CancellationToken::new(), None)
    }

    /// A scope within this one: cancelling this one cancels the child, not the reverse, and this
    /// one is finished only when the child's tasks are.
    pub fn child(&self) -> Self {
        Self::make(self.0.token.child_token(), Some(self.clone()))
    }

    fn make(token: CancellationToken, parent: Option<Self>) -> Self {
        let tracker = TaskTracker::new();
        // Closed from the start: waiting for it means waiting until it is empty.
        tracker.close();
        Self(Arc::new(Inner {
            token,
            tracker,
            parent,
        }))
    }

    fn place(&self) -> Place {
        Place {
            _own: self.0.tracker.token(),
            _around: self.0.parent.as_ref().map(|p| Box::new(p.place())),
        }
    }

    async fn own(self, name: &'static str, place: Place, task: impl Future<Output = ()>) {
        let caught = AssertUnwindSafe(task).catch_unwind();
        if let Some(Err(panic)) = self.0.token.run_until_cancelled(caught).await {
            PANICS.fetch_add(1, Ordering::Relaxed);
            tracing::error!(task = name, panic = text_of(&*panic), "a task panicked");
        }
        drop(place);
    }

    /// Starts a task on the current runtime. A panic in it is caught, logged and counted.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place tasks start"
    )]
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.clone().own(name, self.place(), task));
    }

    /// Starts a task that stays on this thread. Needs the local set of [`crate::run`] or of a
    /// worker around it. A panic in it is caught, logged and counted.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place tasks start"
    )]
    pub fn spawn_local(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        tokio::task::spawn_local(self.clone().own(name, self.place(), task));
    }

    /// Ends every task of this scope and its children at its next await; tasks started later end
    /// at once.
    pub fn cancel(&self) {
        self.0.token.cancel();
    }

    /// Waits until the scope is cancelled.
    pub async fn cancelled(&self) {
        self.0.token.cancelled().await;
    }

    /// Whether the scope is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.token.is_cancelled()
    }

    /// Waits until no task is left; at once when there is none.
    pub async fn finished(&self) {
        self.0.tracker.wait().await;
    }

    /// Tasks alive, those of child scopes included.
    pub fn tasks(&self) -> usize {
        self.0.tracker.len()
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    #[tokio::test]
    async fn cancelling_ends_the_tasks_of_the_scope_and_its_children() {
        let scope = Scope::new();
        let child = scope.child();
        scope.spawn("one", pending());
        child.spawn("two", pending());
        assert_eq!((scope.tasks(), child.tasks()), (2, 1));
        scope.cancel();
        scope.finished().await;
        assert!(child.is_cancelled());
        assert_eq!((scope.tasks(), child.tasks()), (0, 0));
        scope.spawn("late", pending());
        scope.finished().await;
    }

    #[tokio::test]
    async fn cancelling_a_child_leaves_the_rest() {
        let scope = Scope::new();
        let child = scope.child();
        scope.spawn("one", pending());
        child.spawn("two", pending());
        child.cancel();
        child.finished().await;
        assert_eq!(scope.tasks(), 1);
        assert!(!scope.is_cancelled());
    }

    #[tokio::test]
    async fn a_panic_is_counted_and_its_neighbours_live_on() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let (scope, before) = (Scope::new(), panics_total());
                scope.spawn_local("bad", async { panic!("on purpose") });
                let (done, wait) = tokio::sync::oneshot::channel();
                scope.spawn_local("good", async move { done.send(7).unwrap() });
                assert_eq!(wait.await.unwrap(), 7);
                scope.finished().await;
                assert!(panics_total() > before);
            })
            .await;
    }
}
