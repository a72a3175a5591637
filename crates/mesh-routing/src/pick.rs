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
