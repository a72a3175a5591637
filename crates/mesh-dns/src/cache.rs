//! Responses from upstream, kept as long as they hold.
//!
//! Bounded in entries and bytes; when full the oldest go. Time is handed in, so that it is tested
//! without waiting.

use crate::query::Query;
use crate::wire::{self, Header, Layout, Section, TYPE_OPT, TYPE_SOA};
use hickory_proto::op::ResponseCode;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The longest that a positive response is kept, whatever its times to live: a record that turns out
/// wrong must not stay for days.
pub const POSITIVE_MAX: Duration = Duration::from_secs(3600);
/// The longest that a negative response is kept; RFC 2308 section 5 asks for a bound.
pub const NEGATIVE_MAX: Duration = Duration::from_secs(300);

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheBounds {
    /// Responses.
    pub entries_max: usize,
    /// Bytes of all of them, keys counted.
    pub bytes_max: usize,
}

impl Default for CacheBounds {
    /// 512 responses, 128 KiB: of one pod on one worker. A node of 250 pods that all fill theirs
    /// holds 64 MiB.
    fn default() -> Self {
        Self {
            entries_max: 512,
            bytes_max: 128 << 10,
        }
    }
}

/// What two queries must share to have the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Name in lower case, type and class, as on the wire.
    question: Box<[u8]>,
    /// RD, AD, CD, and bits for EDNS and DO.
    flags: u16,
}

impl Key {
    /// None for queries whose answer may depend on more: options of EDNS, signatures.
    fn of(query: &Query) -> Option<Self> {
        if query.more || query.edns.is_some_and(|e| e.options) {
            return None;
        }
        let asked = Header::RECURSION_DESIRED | Header::AUTHENTIC | Header::CHECKING_DISABLED;
        let edns = match query.edns {
            None => 0,
            Some(edns) if edns.dnssec_ok => 3,
            Some(_) => 1,
        };
        Some(Self {
            question: query.question().to_ascii_lowercase().into(),
            flags: (query.header.flags & asked) | edns,
        })
    }

    fn bytes(&self) -> usize {
        self.question.len()
    }
}

#[derive(Debug)]
struct Entry {
    bytes: Box<[u8]>,
    since: Instant,
    until: Instant,
}

/// The responses kept.
#[derive(Debug)]
pub struct Cache {
    bounds: CacheBounds,
    entries: HashMap<Rc<Key>, Entry>,
    /// Each key of `entries` once, oldest first.
    order: VecDeque<Rc<Key>>,
    bytes: usize,
}

impl Cache {
    /// Nothing kept yet.
    pub fn new(bounds: CacheBounds) -> Self {
        Self {
            bounds,
            entries: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
        }
    }

    /// The response to a query, with its times to live as they are by now. Id and question are still
    /// those of whoever asked first: see [`crate::reply::for_client`].
    pub fn get(&self, query: &Query, now: Instant) -> Option<Vec<u8>> {
        let entry = self.entries.get(&Key::of(query)?)?;
        if now >= entry.until {
            return None;
        }
        let age = now.saturating_duration_since(entry.since).as_secs();
        let age = u32::try_from(age).unwrap_or(u32::MAX);
        let mut bytes = entry.bytes.to_vec();
        let layout = Layout::of(&bytes).ok()?;
        for place in layout.records.iter().filter(|p| p.kind != TYPE_OPT) {
            let left = place.ttl.saturating_sub(age).to_be_bytes();
            wire::put(&mut bytes, place.ttl_at, &left);
        }
        Some(bytes)
    }

    /// Keeps a response, if it may be kept.
    pub fn put(&mut self, query: &Query, response: &[u8], now: Instant) {
        let Some(key) = Key::of(query) else {
            return;
        };
        let Some(holds) = lifetime(response) else {
            return;
        };
        let size = response.len() + key.bytes();
        if size > self.bounds.bytes_max / 4 {
            return;
        }
        let key = Rc::new(key);
        let entry = Entry {
            bytes: response.into(),
            since: now,
            until: now + holds,
        };
        self.bytes += size;
        match self.entries.insert(key.clone(), entry) {
            Some(old) => self.bytes -= old.bytes.len() + key.bytes(),
            None => self.order.push_back(key),
        }
        while self.entries.len() > self.bounds.entries_max || self.bytes > self.bounds.bytes_max {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            if let Some(old) = self.entries.remove(&oldest) {
                self.bytes -= old.bytes.len() + oldest.bytes();
            }
        }
    }

    /// Responses kept, those past their time among them.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// How long a response may be kept; none for what is no response, is cut short, is a failure, or has
/// nobody's word on how long it holds (RFC 2308 section 5).
fn lifetime(response: &[u8]) -> Option<Duration> {
    let layout = Layout::of(response).ok()?;
    let header = layout.header;
    if !header.has(Header::RESPONSE) || header.has(Header::TRUNCATED) {
        return None;
    }
    let records = || layout.records.iter().filter(|p| p.kind != TYPE_OPT);
    let least = records().map(|p| p.ttl).min();
    let answered = records().any(|p| p.section == Section::Answer);
    let no_error = u16::from(ResponseCode::NoError);
    let no_such_name = u16::from(ResponseCode::NXDomain);
    let (seconds, bound) = match layout.rcode() {
        code if code == no_error && answered => (least?, POSITIVE_MAX),
        code if code == no_error || code == no_such_name => {
            let soa = records().find(|p| p.section == Section::Authority && p.kind == TYPE_SOA)?;
            let negative = wire::soa_negative_ttl(response, soa).ok()?;
            (negative.min(least?), NEGATIVE_MAX)
        }
        _ => return None,
    };
    // Past 2^31 a time to live counts as none (RFC 2181 section 8).
    let seconds = if seconds >> 31 == 0 { seconds } else { 0 };
    let holds = Duration::from_secs(u64::from(seconds)).min(bound);
    (!holds.is_zero()).then_some(holds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Edns, Message, OpCode, Query as Asked};
    use hickory_proto::rr::rdata::{A, SOA};
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    fn asked(name: &str, change: impl Fn(&mut Message)) -> Query {
        let mut message = Message::query();
        message.add_query(Asked::query(Name::from_ascii(name).unwrap(), RecordType::A));
        change(&mut message);
        Query::read(&message.to_vec().unwrap()).unwrap()
    }

    fn query(name: &str) -> Query {
        asked(name, |_| {})
    }

    fn response(to: &Query, change: impl Fn(&mut Message)) -> Vec<u8> {
        let mut message = Message::response(to.header.id, OpCode::Query);
        message.add_query(Asked::query(to.name.clone(), to.kind));
        change(&mut message);
        message.to_vec().unwrap()
    }

    fn with_a(to: &Query, ttl: u32) -> Vec<u8> {
        let a = Record::from_rdata(to.name.clone(), ttl, RData::A(A::new(10, 0, 0, 1)));
        response(to, |m| {
            m.add_answer(a.clone());
        })
    }

    fn negative(to: &Query, code: ResponseCode, soa: Option<(u32, u32)>) -> Vec<u8> {
        response(to, |m| {
            m.metadata.response_code = code;
            if let Some((ttl, minimum)) = soa {
                let name: Name = "example.".parse().unwrap();
                let soa = SOA::new(name.clone(), name.clone(), 1, 2, 3, 4, minimum);
                m.add_authority(Record::from_rdata(name, ttl, RData::SOA(soa)));
            }
        })
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_response_is_kept_for_its_time_and_gets_older() {
        let mut cache = Cache::new(CacheBounds::default());
        let (first, now) = (query("a.example."), Instant::now());
        cache.put(&first, &with_a(&first, 60), now);
        let again = query("A.Example.");
        let got = cache.get(&again, now + seconds(20)).unwrap();
        assert_eq!(Layout::of(&got).unwrap().records[0].ttl, 40);
        assert!(cache.get(&again, now + seconds(60)).is_none());
        assert!(cache.get(&query("b.example."), now).is_none());
        // Replaced, it holds anew.
        cache.put(&first, &with_a(&first, 60), now + seconds(60));
        assert!(cache.get(&again, now + seconds(61)).is_some());
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn what_may_change_the_answer_is_part_of_the_key() {
        let mut cache = Cache::new(CacheBounds::default());
        let (plain, now) = (query("a.example."), Instant::now());
        cache.put(&plain, &with_a(&plain, 60), now);
        let edns = |dnssec_ok| {
            asked("a.example.", |m| {
                let mut edns = Edns::new();
                edns.set_dnssec_ok(dnssec_ok);
                m.set_edns(edns);
            })
        };
        let checking = asked("a.example.", |m| m.metadata.checking_disabled = true);
        for other in [edns(false), edns(true), checking] {
            assert!(cache.get(&other, now).is_none());
            cache.put(&other, &with_a(&other, 60), now);
            assert!(cache.get(&other, now).is_some());
        }
        assert_eq!(cache.len(), 4);
    }

    #[test]
    fn negative_answers_are_kept_by_the_soa_and_failures_not_at_all() {
        let now = Instant::now();
        let kept = |code, soa| {
            let mut cache = Cache::new(CacheBounds::default());
            let query = query("a.example.");
            cache.put(&query, &negative(&query, code, soa), now);
            (0..=400)
                .rev()
                .find(|n| cache.get(&query, now + seconds(*n)).is_some())
        };
        let no_name = ResponseCode::NXDomain;
        assert_eq!(kept(no_name, Some((90, 30))), Some(29));
        assert_eq!(kept(no_name, Some((20, 30))), Some(19));
        assert_eq!(kept(ResponseCode::NoError, Some((90, 30))), Some(29));
        assert_eq!(kept(no_name, Some((9999, 9999))), Some(299));
        assert_eq!(kept(no_name, None), None);
        assert_eq!(kept(ResponseCode::NoError, None), None);
        assert_eq!(kept(ResponseCode::ServFail, Some((90, 30))), None);
    }

    #[test]
    fn what_is_cut_short_or_holds_no_time_is_not_kept() {
        let now = Instant::now();
        let mut cache = Cache::new(CacheBounds::default());
        let query = query("a.example.");
        let mut cut = with_a(&query, 60);
        cut[2] |= 2;
        let mut asked = with_a(&query, 60);
        asked[2] &= 0x7f;
        for response in [
            cut,
            asked,
            with_a(&query, 0),
            with_a(&query, 1 << 31),
            vec![0; 5],
        ] {
            cache.put(&query, &response, now);
            assert!(cache.is_empty());
        }
        cache.put(&query, &with_a(&query, 1 << 30), now);
        assert!(cache.get(&query, now + POSITIVE_MAX).is_none());
        assert!(cache.get(&query, now + POSITIVE_MAX - seconds(1)).is_some());
    }

    #[test]
    fn bounds_hold_and_the_oldest_go() {
        let now = Instant::now();
        let bounds = CacheBounds {
            entries_max: 10,
            bytes_max: 600,
        };
        let mut cache = Cache::new(bounds);
        for n in 0..200 {
            let query = query(&format!("n{n}.example."));
            cache.put(&query, &with_a(&query, 60), now);
            cache.put(&query, &with_a(&query, 60), now);
            assert!(cache.len() <= 10 && cache.bytes <= 600);
            assert_eq!(cache.order.len(), cache.len());
            assert!(cache.get(&query, now).is_some());
        }
        assert!(cache.len() > 5);
        assert!(cache.get(&query("n0.example."), now).is_none());
        let held: usize = cache
            .entries
            .iter()
            .map(|(k, e)| k.bytes() + e.bytes.len())
            .sum();
        assert_eq!(held, cache.bytes);
    }
}
