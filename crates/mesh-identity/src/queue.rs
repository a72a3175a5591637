//! Who may ask the authority next: a bounded number at once, the most urgent first
//! (interop/ca.md, Client side).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// How urgent a request is, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Priority {
    /// A connection waits for it.
    RealTime,
    /// A workload has come; no connection yet.
    Warmup,
    /// A renewal: the certificate held is good for as long again.
    Background,
}

const PRIORITIES: usize = 3;

/// Gives out turns; clones are the same queue.
#[derive(Debug, Clone)]
pub(crate) struct Queue(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    waiting: [VecDeque<oneshot::Sender<Turn>>; PRIORITIES],
}

/// The right to ask; given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn(Option<Queue>);

impl Queue {
    pub(crate) fn new(turns: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            free: turns,
            waiting: Default::default(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one push, pop or count: nothing can be left half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn: behind those at least as urgent that wait already.
    pub(crate) async fn turn(&self, priority: Priority) -> Turn {
        let granted = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return Turn(Some(self.clone()));
            }
            let (grant, granted) = oneshot::channel();
            let line = &mut state.waiting[priority as usize];
            // Those that were given up leave no trace behind, however often they come.
            line.retain(|waiting| !waiting.is_closed());
            line.push_back(grant);
            granted
        };
        // The queue keeps the other end until it grants.
        granted.await.unwrap_or(Turn(None))
    }

    /// How many wait with this priority.
    #[cfg(test)]
    pub(crate) fn waiting(&self, priority: Priority) -> usize {
        let state = self.state();
        let line = state.waiting[priority as usize].iter();
        line.filter(|waiting| !waiting.is_closed()).count()
    }

    fn give_back(&self) {
        loop {
            let next = {
                let mut state = self.state();
                let next = state.waiting.iter_mut().find_map(VecDeque::pop_front);
                if next.is_none() {
                    state.free += 1;
                }
                next
            };
            let Some(next) = next else { return };
            match next.send(Turn(Some(self.clone()))) {
                Ok(()) => return,
                // Given up meanwhile: the turn is the next one's, and must not come back twice.
                Err(mut turn) => turn.0 = None,
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(queue) = self.0.take() {
            queue.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn the_most_urgent_is_next_and_who_gave_up_is_passed_over() {
        let mut context = Context::from_waker(Waker::noop());
        let queue = Queue::new(1);
        let Poll::Ready(held) = pin!(queue.turn(Priority::Background)).poll(&mut context) else {
            panic!("a turn is free");
        };
        let mut background = Box::pin(queue.turn(Priority::Background));
        let mut warmup = Box::pin(queue.turn(Priority::Warmup));
        let mut given_up = Box::pin(queue.turn(Priority::RealTime));
        let mut urgent = Box::pin(queue.turn(Priority::RealTime));
        for waiting in [&mut background, &mut warmup, &mut given_up, &mut urgent] {
            assert!(waiting.as_mut().poll(&mut context).is_pending());
        }
        drop(given_up);
        let mut held = held;
        for next in [urgent, warmup, background] {
            let mut next = next;
            drop(held);
            let Poll::Ready(turn) = next.as_mut().poll(&mut context) else {
                panic!("its turn");
            };
            held = turn;
        }
        drop(held);
        assert_eq!(queue.state().free, 1);
        // One that was granted and is dropped unseen gives its turn back too.
        let held = pin!(queue.turn(Priority::Warmup)).poll(&mut context);
        let mut unseen = Box::pin(queue.turn(Priority::Warmup));
        assert!(unseen.as_mut().poll(&mut context).is_pending());
        drop(held);
        drop(unseen);
        assert_eq!(queue.state().free, 1);
    }
}
