//! Counters and gauges of a component's own.

use prometheus_client::metrics::counter::Counter as Atomic;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge as AtomicGauge;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;

/// A counter of a component's own. Clones count into the same number.
#[derive(Debug, Clone, Default)]
pub struct Counter(Atomic);

impl Counter {
    /// Counts one.
    pub fn inc(&self) {
        self.0.inc();
    }

    /// Counts many.
    pub fn inc_by(&self, by: u64) {
        self.0.inc_by(by);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// A gauge of a component's own. Clones set the same number.
#[derive(Debug, Clone, Default)]
pub struct Gauge(AtomicGauge);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: i64) {
        self.0.set(value);
    }

    /// Adds; a negative number takes away.
    pub fn add(&self, by: i64) {
        self.0.inc_by(by);
    }

    /// The value.
    pub fn get(&self) -> i64 {
        self.0.get()
    }
}

type LabelPair = [(&'static str, String); 1];

/// A counter with one label.
#[derive(Debug, Clone)]
pub struct LabelledCounter {
    label: &'static str,
    family: Family<LabelPair, Atomic>,
}

impl LabelledCounter {
    /// The counter of one value of the label. Values must come from a bounded set.
    pub fn with(&self, value: &str) -> Counter {
        let labels = [(self.label, value.to_owned())];
        Counter(self.family.get_or_create_owned(&labels))
    }
}

#[derive(Debug)]
enum Custom {
    Counter(Counter),
    Gauge(Gauge),
    Labelled(LabelledCounter),
}

/// What was registered under which name: a name is registered once, whoever asks again.
#[derive(Debug, Default)]
pub(super) struct Customs(BTreeMap<&'static str, Custom>);

impl Customs {
    pub(super) fn counter(
        &mut self,
        registry: &mut Registry,
        name: &'static str,
        help: &str,
    ) -> Counter {
        match self.0.get(name) {
            Some(Custom::Counter(found)) => return found.clone(),
            Some(_) => return taken(name),
            None => {}
        }
        let made = Counter::default();
        registry.register(name, help, made.0.clone());
        self.0.insert(name, Custom::Counter(made.clone()));
        made
    }

    pub(super) fn gauge(
        &mut self,
        registry: &mut Registry,
        name: &'static str,
        help: &str,
    ) -> Gauge {
        match self.0.get(name) {
            Some(Custom::Gauge(found)) => return found.clone(),
            Some(_) => return taken(name),
            None => {}
        }
        let made = Gauge::default();
        registry.register(name, help, made.0.clone());
        self.0.insert(name, Custom::Gauge(made.clone()));
        made
    }

    pub(super) fn labelled(
        &mut self,
        registry: &mut Registry,
        name: &'static str,
        help: &str,
        label: &'static str,
    ) -> LabelledCounter {
        let made = LabelledCounter {
            label,
            family: Family::default(),
        };
        match self.0.get(name) {
            Some(Custom::Labelled(found)) if found.label == label => return found.clone(),
            Some(_) => {
                taken::<Counter>(name);
                return made;
            }
            None => {}
        }
        registry.register(name, help, made.family.clone());
        self.0.insert(name, Custom::Labelled(made.clone()));
        made
    }
}

/// A name asked for as two kinds is a mistake in the program; the second asker counts for itself.
fn taken<T: Default>(name: &str) -> T {
    tracing::error!(name, "a metric of this name and another kind exists");
    T::default()
}
