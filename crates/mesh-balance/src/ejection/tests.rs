//! Times of ejection, and their bounds.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn endpoint(n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 80))
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn time_doubles_with_each_failure_in_a_row_and_is_bounded() {
    let (mut ejections, mut dice) = (Ejections::default(), Dice::seeded(1));
    let mut now = Duration::ZERO;
    for whole in [1, 2, 4, 8, 16, 32, 60, 60] {
        let time = ejections.failed(endpoint(1), now, &mut dice).unwrap();
        assert!(time <= s(whole) && time >= s(whole) * 3 / 4, "{time:?}");
        assert_eq!(ejections.failed(endpoint(1), now, &mut dice), None);
        now += time;
    }
    ejections.succeeded(endpoint(1));
    assert!(ejections.is_empty());
    assert!(ejections.failed(endpoint(1), now, &mut dice).unwrap() <= s(1));
}

#[test]
fn what_was_quiet_for_as_long_again_starts_anew() {
    let (mut ejections, mut dice) = (Ejections::default(), Dice::seeded(1));
    ejections.failed(endpoint(1), s(0), &mut dice).unwrap();
    assert_eq!(ejections.avoided(s(1)).0, Avoided::new());
    assert_eq!(ejections.len(), 1);
    assert!(ejections.failed(endpoint(1), s(3), &mut dice).unwrap() <= s(1));
}

#[test]
fn the_one_that_comes_back_first_makes_room() {
    let (mut ejections, mut dice) = (Ejections::default(), Dice::seeded(1));
    for n in 0..300 {
        ejections.failed(endpoint(n), Duration::ZERO, &mut dice);
        assert!(ejections.len() <= ENDPOINTS_MAX);
    }
    assert!(ejections.avoided(Duration::ZERO).0.contains(&endpoint(299)));
}

proptest! {
    /// Whatever happens: what is avoided has failed since it last succeeded and within the longest
    /// time, the list is the set, and the announced moment is the first at which the set shrinks.
    #[test]
    fn only_what_failed_lately_is_avoided(
        steps in vec((0..6u16, any::<bool>(), 0..30_000u64), 0..60),
        seed in any::<u64>(),
    ) {
        let (mut ejections, mut dice) = (Ejections::default(), Dice::seeded(seed));
        let mut last_failure: HashMap<SocketAddr, Duration> = HashMap::new();
        let mut now = Duration::ZERO;
        for (n, fails, wait) in steps {
            let endpoint = endpoint(n);
            if fails {
                if ejections.failed(endpoint, now, &mut dice).is_some() {
                    last_failure.insert(endpoint, now);
                }
                prop_assert!(ejections.avoided(now).0.contains(&endpoint));
            } else {
                ejections.succeeded(endpoint);
                last_failure.remove(&endpoint);
            }
            now += Duration::from_millis(wait);
            let (avoided, change) = ejections.avoided(now);
            for endpoint in &avoided {
                prop_assert!(now < last_failure[endpoint] + AVOID_MAX);
            }
            let list = ejections.list(now);
            prop_assert_eq!(list.iter().map(|e| e.endpoint).collect::<Avoided>(), avoided.clone());
            prop_assert_eq!(change.is_none(), avoided.is_empty());
            if let Some(change) = change {
                let before = change - Duration::from_nanos(1);
                prop_assert_eq!(ejections.avoided(before).0, avoided.clone());
                prop_assert!(ejections.avoided(change).0.len() < avoided.len());
            }
        }
    }
}
