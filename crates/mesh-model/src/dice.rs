//! Chance as data: a seeded generator, so that a decision can be replayed.

/// A small pseudo-random generator (SplitMix64). Not for secrets.
///
/// Pure functions that need chance take `&mut Dice`: the data path seeds it from the system once a
/// worker, tests and `mesh explain` seed it by hand.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// A generator that gives the same sequence for the same seed.
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when the bound is 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        // The bias of the remainder is under 2^-32 for bounds under 2^32: weights are u32.
        self.next_u64() % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_sequence_within_bounds() {
        let (mut a, mut b) = (Dice::seeded(7), Dice::seeded(7));
        for bound in 1..100 {
            let n = a.below(bound);
            assert_eq!(n, b.below(bound));
            assert!(n < bound);
        }
        assert_eq!(a.below(0), 0);
    }
}
