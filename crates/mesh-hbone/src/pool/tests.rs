//! The pool's book-keeping over in-memory streams, with the clock under the test's control.

use super::*;
use crate::testing::{key, paused, request};
use crate::{Incoming, ServerSettings, serve};
use mesh_runtime::Drain;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::Semaphore;

/// A far side that answers every dial with a server in memory.
#[derive(Clone)]
struct Far {
    scope: Scope,
    dials: Rc<Cell<usize>>,
    /// Dials wait here until the test lets them go on.
    gate: Rc<Semaphore>,
    /// What the next dials fail with.
    failures: Rc<RefCell<VecDeque<TunnelError>>>,
    /// Ends of connections whose server does not answer.
    silent: Rc<RefCell<Vec<DuplexStream>>>,
    answers: bool,
}

impl Far {
    fn new(scope: &Scope) -> Self {
        Self {
            scope: scope.clone(),
            dials: Rc::default(),
            gate: Rc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            failures: Rc::default(),
            silent: Rc::default(),
            answers: true,
        }
    }

    async fn dial(self) -> Result<DuplexStream, TunnelError> {
        self.dials.set(self.dials.get() + 1);
        self.gate.acquire().await.unwrap().forget();
        if let Some(error) = self.failures.borrow_mut().pop_front() {
            return Err(error);
        }
        let (near, far) = duplex(1 << 16);
        if !self.answers {
            self.silent.borrow_mut().push(far);
            return Ok(near);
        }
        let scope = self.scope.clone();
        self.scope.spawn_local("far side", async move {
            let (settings, drain) = (ServerSettings::default(), Drain::new());
            drop(serve(far, &settings, &drain, &scope, echo).await);
        });
        Ok(near)
    }

    async fn open(&self, pool: &Pool) -> Result<HboneStream, TunnelError> {
        let far = self.clone();
        pool.open_with(&key(), move || far.clone().dial(), &request())
            .await
    }
}

async fn echo(incoming: Incoming) {
    let stream = incoming.accept(&HeaderMap::new()).unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    if tokio::io::copy(&mut read, &mut write).await.is_ok() {
        drop(write.shutdown().await);
    }
}

#[test]
fn those_who_wait_for_one_dial_share_its_failure_and_the_next_dials_anew() {
    paused(async |scope| {
        let (pool, far) = (Pool::new(PoolSettings::default(), &scope), Far::new(&scope));
        far.failures
            .borrow_mut()
            .push_back(TunnelError::Handshake("no".into()));
        let opens: Vec<_> = (0..50).map(|_| far.open(&pool)).collect();
        let results = futures_util::future::join_all(opens).await;
        assert!(results.iter().all(|r| {
            let error = r.as_ref().err().unwrap();
            matches!(error, TunnelError::Handshake(_)) && error.retry_is_safe()
        }));
        assert_eq!(far.dials.get(), 1);
        far.open(&pool).await.unwrap();
        assert_eq!(far.dials.get(), 2);
    });
}

#[test]
fn a_dial_goes_on_for_the_others_when_the_one_who_began_it_gives_up() {
    paused(async |scope| {
        let (pool, mut far) = (Pool::new(PoolSettings::default(), &scope), Far::new(&scope));
        far.gate = Rc::new(Semaphore::new(0));
        {
            let first = far.open(&pool);
            tokio::pin!(first);
            assert!(futures_util::poll!(&mut first).is_pending());
        }
        let second = far.open(&pool);
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        far.gate.add_permits(1);
        second.await.unwrap();
        assert_eq!(far.dials.get(), 1);
    });
}

#[test]
fn an_idle_connection_is_released_and_one_in_use_is_not() {
    paused(async |scope| {
        let settings = PoolSettings::default();
        let idle = settings.idle_release;
        let (pool, far) = (Pool::new(settings, &scope), Far::new(&scope));
        let mut stream = far.open(&pool).await.unwrap();
        tokio::time::sleep(idle * 3).await;
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        assert_eq!(pool.connections(), 1);
        drop(stream);
        tokio::time::sleep(idle - Duration::from_secs(1)).await;
        assert_eq!(pool.connections(), 1);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(pool.connections(), 0);
        assert!(pool.inner.entries.borrow().is_empty());
        far.open(&pool).await.unwrap();
        assert_eq!(far.dials.get(), 2);
    });
}

#[test]
fn a_peer_that_falls_silent_is_given_up() {
    paused(async |scope| {
        let (pool, mut far) = (Pool::new(PoolSettings::default(), &scope), Far::new(&scope));
        far.answers = false;
        // It takes our bytes and says nothing. The request ends when its answer is overdue, the
        // connection when its PING is.
        let error = far.open(&pool).await.err().unwrap();
        assert!(!error.retry_is_safe(), "{error}");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(pool.connections(), 0);
    });
}

#[test]
fn a_server_gives_up_a_client_that_falls_silent() {
    paused(async |scope| {
        let (mut near, far) = duplex(1 << 16);
        near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        near.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        let (settings, drain) = (ServerSettings::default(), Drain::new());
        let ended = serve(far, &settings, &drain, &scope, echo).await;
        assert!(matches!(ended, Err(TunnelError::KeepAlive)), "{ended:?}");
    });
}

#[test]
fn a_preface_that_never_comes_is_not_waited_for_for_ever() {
    paused(async |scope| {
        let (_near, far) = duplex(1 << 16);
        let (settings, drain) = (ServerSettings::default(), Drain::new());
        let ended = serve(far, &settings, &drain, &scope, echo).await;
        assert!(matches!(ended, Err(TunnelError::Handshake(_))), "{ended:?}");
    });
}

#[test]
fn the_bound_on_connections_refuses_and_a_closed_pool_says_so() {
    paused(async |scope| {
        let settings = PoolSettings {
            streams_max: 1,
            connections_max: 2,
            ..PoolSettings::default()
        };
        let own = scope.child();
        let (pool, far) = (Pool::new(settings, &own), Far::new(&scope));
        let first = far.open(&pool).await.unwrap();
        let _second = far.open(&pool).await.unwrap();
        let third = far.open(&pool).await.err().unwrap();
        assert!(matches!(third, TunnelError::Overloaded(_)), "{third}");
        drop(first);
        far.open(&pool).await.unwrap();
        assert_eq!(far.dials.get(), 2);
        own.cancel();
        tokio::task::yield_now().await;
        let closed = far.open(&pool).await.err().unwrap();
        assert!(!matches!(closed, TunnelError::Overloaded(_)), "{closed}");
    });
}

#[test]
fn a_connection_found_closed_is_replaced_before_anything_is_sent() {
    paused(async |scope| {
        let far_scope = scope.child();
        let (pool, far) = (
            Pool::new(PoolSettings::default(), &scope),
            Far::new(&far_scope),
        );
        drop(far.open(&pool).await.unwrap());
        far_scope.cancel();
        far_scope.finished().await;
        let again = Far::new(&scope);
        let mut stream = again.open(&pool).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        assert_eq!(again.dials.get(), 1);
        assert_eq!(pool.connections(), 1);
    });
}
