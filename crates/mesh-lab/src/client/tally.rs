//! What came of many requests.

use super::http::HttpAnswer;
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Most different answers told apart; further ones count as `other`.
const ANSWERS_MAX: usize = 64;
/// Most error texts kept.
const ERRORS_MAX: usize = 16;
/// How much of a body that names no origin tells answers apart, in characters.
const BODY_CHARS: usize = 80;

/// What came of many requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Requests by the status of their answer.
    pub statuses: BTreeMap<u16, usize>,
    /// Requests by who answered: the origin's name, else the beginning of the body.
    pub answers: BTreeMap<String, usize>,
    /// Requests that got no answer.
    pub errors: usize,
    /// The first few reasons, each once.
    pub error_texts: Vec<String>,
    /// Times of the requests that were answered, unsorted.
    #[serde(skip)]
    pub times: Vec<Duration>,
}

impl Tally {
    /// Adds what came of one request.
    pub fn add(&mut self, outcome: Result<HttpAnswer>) {
        match outcome {
            Ok(answer) => {
                *self.statuses.entry(answer.status).or_default() += 1;
                self.count(who(&answer), 1);
                self.times.push(answer.took);
            }
            Err(error) => {
                self.errors += 1;
                self.note(format!("{error:#}"));
            }
        }
    }

    /// Adds another tally.
    pub fn merge(&mut self, other: Self) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (answer, count) in other.answers {
            self.count(answer, count);
        }
        self.errors += other.errors;
        for text in other.error_texts {
            self.note(text);
        }
        self.times.extend(other.times);
    }

    fn count(&mut self, answer: String, count: usize) {
        let known = self.answers.contains_key(&answer) || self.answers.len() < ANSWERS_MAX;
        let key = if known { answer } else { "other".into() };
        *self.answers.entry(key).or_default() += count;
    }

    fn note(&mut self, text: String) {
        if self.error_texts.len() < ERRORS_MAX && !self.error_texts.contains(&text) {
            self.error_texts.push(text);
        }
    }

    /// Requests made.
    pub fn requests(&self) -> usize {
        self.errors + self.statuses.values().sum::<usize>()
    }

    /// Requests that got no answer, or one of 500 and above.
    pub fn failures(&self) -> usize {
        let failed = self.statuses.range(500..).map(|(_, count)| count);
        self.errors + failed.sum::<usize>()
    }

    /// Requests answered with a status.
    pub fn of_status(&self, status: u16) -> usize {
        self.statuses.get(&status).copied().unwrap_or_default()
    }

    /// The share of the answers that an origin gave, 0 to 1; 0 when there was no answer.
    pub fn share_of(&self, name: &str) -> f64 {
        let all: usize = self.answers.values().sum();
        let own = self.answers.get(name).copied().unwrap_or_default();
        let float = |count| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        if all == 0 {
            0.0
        } else {
            float(own) / float(all)
        }
    }

    /// The time within which a share of the answered requests was done, in percent: 50 is the
    /// median. `None` when none was answered.
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let mut times = self.times.clone();
        times.sort_unstable();
        let last = times.len().checked_sub(1)?;
        times.get((last * percent.min(100)).div_ceil(100)).copied()
    }

    /// The median time.
    pub fn p50(&self) -> Option<Duration> {
        self.percentile(50)
    }
}

fn who(answer: &HttpAnswer) -> String {
    match answer.echo() {
        Some(echo) => echo.name,
        None => answer.body.trim().chars().take(BODY_CHARS).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(status: u16, body: &str, ms: u64) -> Result<HttpAnswer> {
        Ok(HttpAnswer {
            status,
            headers: BTreeMap::new(),
            body: body.into(),
            took: Duration::from_millis(ms),
        })
    }

    #[test]
    fn statuses_answers_and_errors_are_told_apart() {
        let mut tally = Tally::default();
        tally.add(answer(200, "a", 1));
        tally.add(answer(200, "a", 3));
        tally.add(answer(503, "b", 2));
        tally.add(Err(anyhow::anyhow!("gone")));
        let mut all = Tally::default();
        all.merge(tally.clone());
        assert_eq!(all, tally);
        assert_eq!(all.requests(), 4);
        assert_eq!(all.failures(), 2);
        assert_eq!(all.of_status(200), 2);
        assert_eq!(all.p50(), Some(Duration::from_millis(2)));
        assert_eq!(all.error_texts, ["gone"]);
        assert!((all.share_of("a") - 2.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_has_no_median() {
        assert_eq!(Tally::default().p50(), None);
    }

    proptest! {
        #[test]
        fn a_percentile_is_one_of_the_times(
            times in proptest::collection::vec(0u64..1000, 1..50),
            percent in 0usize..200,
        ) {
            let mut tally = Tally::default();
            for ms in &times {
                tally.add(answer(200, "", *ms));
            }
            let found = tally.percentile(percent).unwrap();
            prop_assert!(tally.times.contains(&found));
        }
    }
}
