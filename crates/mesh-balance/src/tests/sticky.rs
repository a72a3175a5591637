//! Session stickiness by source.

use super::*;

fn chosen(workloads: &[Workload], source: u32) -> Option<Choice> {
    let mut s = service();
    s.sticky_by_source = true;
    let from = Client {
        source: Some(IpAddr::from(source.to_be_bytes())),
        ..Client::from(None)
    };
    choose(
        &mesh(&s, workloads),
        &s,
        &port(),
        from,
        &mut Dice::seeded(0),
    )
}

#[test]
fn shares_of_the_sources_follow_capacity() {
    let mut all: Vec<Workload> = (1..=3).map(workload).collect();
    all[2].capacity = 2;
    let mut s = service();
    s.sticky_by_source = true;
    let snapshot = mesh(&s, &all);
    let mut counts = [0; 3];
    for source in 0..4000u32 {
        let from = Client {
            source: Some(IpAddr::from((0x0a01_0000 + source).to_be_bytes())),
            ..Client::from(None)
        };
        let choice = choose(&snapshot, &s, &port(), from, &mut Dice::seeded(0)).unwrap();
        let at = all
            .iter()
            .position(|w| w.uid == choice.workload.uid)
            .unwrap();
        counts[at] += 1;
    }
    for (count, about) in counts.iter().zip([1000, 1000, 2000]) {
        assert!((about - 150..about + 150).contains(count), "{counts:?}");
    }
}

#[test]
fn without_a_source_or_the_wish_chance_decides() {
    let all: Vec<Workload> = (1..=3).map(workload).collect();
    let mut s = service();
    let mut seen = |sticky: bool, source: Option<IpAddr>| {
        s.sticky_by_source = sticky;
        let snapshot = mesh(&s, &all);
        let mut dice = Dice::seeded(5);
        let from = Client {
            source,
            ..Client::from(None)
        };
        let mut names: Vec<_> = (0..100)
            .map(|_| {
                choose(&snapshot, &s, &port(), from, &mut dice)
                    .unwrap()
                    .workload
                    .uid
                    .clone()
            })
            .collect();
        names.sort();
        names.dedup();
        names.len()
    };
    let source = Some(IpAddr::from([10, 1, 0, 1]));
    assert_eq!(seen(true, source), 1);
    assert_eq!(seen(true, None), 3);
    assert_eq!(seen(false, source), 3);
}

#[test]
fn an_address_of_either_form_is_one_source() {
    let all: Vec<Workload> = (1..=9).map(workload).collect();
    let mut s = service();
    s.sticky_by_source = true;
    let snapshot = mesh(&s, &all);
    let chosen = |source: &str| {
        let from = Client {
            source: Some(source.parse().unwrap()),
            ..Client::from(None)
        };
        choose(&snapshot, &s, &port(), from, &mut Dice::seeded(0))
    };
    assert_eq!(chosen("10.1.2.3"), chosen("::ffff:10.1.2.3"));
}

proptest! {
    /// A source moves only when its own endpoint goes, and when a new one comes moves only to it.
    #[test]
    fn a_source_stays_where_it_is(count in 2..8u8, capacities in vec(1..5u32, 8), gone in 0..8u8, source: u32) {
        let mut all: Vec<Workload> = (0..count).map(workload).collect();
        for (w, capacity) in all.iter_mut().zip(capacities) {
            w.capacity = capacity;
        }
        let before = chosen(&all, source).unwrap();
        let gone = all.remove(usize::from(gone % count));
        let after = chosen(&all, source).unwrap();
        if before.workload.uid == gone.uid {
            prop_assert_ne!(&after.workload.uid, &gone.uid);
        } else {
            prop_assert_eq!(&after.workload.uid, &before.workload.uid);
        }
    }
}
