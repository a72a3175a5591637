//! Bounds on connections: of the process, and of parts of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound on how many connections there are at once. Clones are the same bound.
#[derive(Debug, Clone)]
pub struct Limit {
    used: Arc<AtomicUsize>,
    max: usize,
}

/// One connection's place within its bounds; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    used: Vec<Arc<AtomicUsize>>,
}

impl Limit {
    /// At most `max` at once.
    pub fn new(max: usize) -> Self {
        Self {
            used: Arc::default(),
            max,
        }
    }

    /// How many there are now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                (used < self.max).then_some(used + 1)
            })
            .is_ok()
    }
}

impl Permit {
    /// A place in every bound.
    ///
    /// # Errors
    /// The index of the first bound that is reached; then no place is taken in any.
    pub fn take(bounds: &[&Limit]) -> Result<Self, usize> {
        let mut permit = Self { used: Vec::new() };
        for (index, bound) in bounds.iter().enumerate() {
            if !bound.take() {
                return Err(index);
            }
            permit.used.push(bound.used.clone());
        }
        Ok(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        for used in &self.used {
            used.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_takes_no_place_anywhere() {
        let (pod, process) = (Limit::new(5), Limit::new(1));
        let first = Permit::take(&[&pod, &process]).unwrap();
        assert_eq!(Permit::take(&[&pod, &process]).unwrap_err(), 1);
        assert_eq!((pod.used(), process.used()), (1, 1));
        drop(first);
        assert_eq!((pod.used(), process.used()), (0, 0));
        assert!(Permit::take(&[&pod, &process]).is_ok());
    }
}
