//! Lets hyper start tasks on the worker's own thread, owned by a scope.

use mesh_runtime::Scope;
use std::future::Future;

/// An executor of local tasks.
#[derive(Clone)]
pub(crate) struct LocalExec {
    scope: Scope,
}

impl LocalExec {
    pub(crate) fn new(scope: &Scope) -> Self {
        Self {
            scope: scope.clone(),
        }
    }
}

impl<F> hyper::rt::Executor<F> for LocalExec
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        self.scope.spawn_local("http2 stream", future);
    }
}
