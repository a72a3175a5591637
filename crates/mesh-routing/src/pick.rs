//! The weighted split between a rule's backends.

use mesh_model::{Dice, WeightedBackend};

/// Picks a backend by chance in proportion to its weight; one of weight 0 is never picked. None when
/// no backend has a weight: the answer is 500 (Gateway API, `HTTPRouteRule.backendRefs`).
pub fn pick_backend<'a>(
    backends: &'a [WeightedBackend],
    dice: &mut Dice,
) -> Option<&'a WeightedBackend> {
    let total: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
    let mut left = dice.below(total);
    backends.iter().filter(|b| b.weight > 0).find(|b| {
        let weight = u64::from(b.weight);
        let hit = left < weight;
        left = left.saturating_sub(weight);
        hit
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_model::Backend;
    use proptest::prelude::*;

    fn backends(weights: &[u32]) -> Vec<WeightedBackend> {
        let backend = |weight: &u32| WeightedBackend {
            backend: Backend::Invalid { why: "".into() },
            weight: *weight,
            filters: Vec::new(),
        };
        weights.iter().map(backend).collect()
    }

    proptest! {
        #[test]
        fn zero_weights_are_never_picked_and_others_are(
            weights in proptest::collection::vec(prop_oneof![Just(0u32), any::<u32>()], 0..6),
            seed in any::<u64>(),
        ) {
            let all = backends(&weights);
            let picked = pick_backend(&all, &mut Dice::seeded(seed));
            prop_assert_eq!(picked.is_some(), weights.iter().any(|w| *w > 0));
            prop_assert!(picked.is_none_or(|b| b.weight > 0));
        }
    }

    #[test]
    fn shares_follow_weights() {
        let all = backends(&[1, 0, 3]);
        let mut dice = Dice::seeded(1);
        let heavy = (0..4000)
            .filter(|_| pick_backend(&all, &mut dice).is_some_and(|b| b.weight == 3))
            .count();
        assert!(
            (2850..3150).contains(&heavy),
            "{heavy} of 4000 instead of about 3000"
        );
    }
}
