//! The policies of one downstream connection, looked up once a snapshot.

use crate::context::ConnectionContext;
use crate::head::Head;
use crate::headers;
use crate::tunnel::Revoked;
use http::HeaderMap;
use mesh_authz::{Connection, Decision};
use mesh_model::{PolicySet, Snapshot};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// The policies as of the last snapshot that a request saw.
#[derive(Default)]
pub(crate) struct Policies {
    cached: RefCell<Option<Cached>>,
}

struct Cached {
    of: Arc<Snapshot>,
    set: Option<Rc<PolicySet>>,
}

impl Policies {
    /// Decides on a request; `None` when nothing is enforced here.
    pub(crate) fn decide(
        &self,
        context: &ConnectionContext,
        snapshot: &Arc<Snapshot>,
        head: &Head,
        headers: &HeaderMap,
    ) -> Option<Decision> {
        let set = self.set(context, snapshot)?;
        Some(decide(&set, context, head, headers))
    }

    fn set(&self, context: &ConnectionContext, snapshot: &Arc<Snapshot>) -> Option<Rc<PolicySet>> {
        let mut cached = self.cached.borrow_mut();
        if let Some(cached) = &*cached
            && Arc::ptr_eq(&cached.of, snapshot)
        {
            return cached.set.clone();
        }
        let set = context
            .authorization
            .policies(snapshot, &context.scope)
            .map(Rc::new);
        *cached = Some(Cached {
            of: snapshot.clone(),
            set: set.clone(),
        });
        set
    }

    /// Resolves when a later snapshot denies a request that was allowed: a stream or an upgraded
    /// connection may live longer than the policy that let it in.
    pub(crate) fn revocation(
        context: &Rc<ConnectionContext>,
        allowed_by: &Arc<Snapshot>,
        head: &Head,
        headers: &HeaderMap,
    ) -> Option<Revoked> {
        if context.authorization.is_none() {
            return None;
        }
        let (context, head, headers) = (context.clone(), head.clone(), headers.clone());
        let (snapshots, allowed_by) = (context.snapshots.clone(), allowed_by.clone());
        Some(Box::pin(async move {
            let decide = |set: &PolicySet| decide(set, &context, &head, &headers);
            context
                .authorization
                .revoked(&context.scope, snapshots, allowed_by, decide)
                .await
        }))
    }
}

fn decide(
    set: &PolicySet,
    context: &ConnectionContext,
    head: &Head,
    headers: &HeaderMap,
) -> Decision {
    let lookup = |name: &str| match head.as_header(name) {
        Some(value) => vec![value],
        None => headers::lines(headers, name),
    };
    let connection = Connection {
        identity: context.source.identity.as_ref(),
        source_ip: context.peer_address.ip(),
        destination: context.destination,
    };
    mesh_authz::authorize(set, &connection, Some(&head.authorization(&lookup)))
}
