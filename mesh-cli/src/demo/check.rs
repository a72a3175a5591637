//! One check: traffic, what the proxies reported of it, and what `mesh explain` says of it.

use super::observed::{self, Observed};
use super::report::Check;
use anyhow::Result;
use mesh_lab::world::{CONTROL, CONTROL_NAME, World};
use mesh_model::Snapshot;
use mesh_plan::explain::Layer;
use mesh_plan::{ExplainRequest, Explanation, explain};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the proxies may take to write their end records.
const RECORDS_WITHIN: Duration = Duration::from_secs(5);
/// Pause between two looks at the logs.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What traffic showed.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// It did what it should.
    pub(crate) ok: bool,
    /// In words.
    pub(crate) detail: String,
    /// Median with the mesh, microseconds.
    pub(crate) p50_us_mesh: Option<u64>,
    /// Median without, microseconds.
    pub(crate) p50_us_direct: Option<u64>,
}

/// A connection or request that a check makes, put as a question to `mesh explain`.
pub(crate) struct Question {
    request: ExplainRequest,
    allowed: bool,
}

impl Question {
    /// A connection.
    pub(crate) fn connection(from: &str, to: &str, port: u16) -> Self {
        let request = ExplainRequest {
            from: from.into(),
            to: to.into(),
            port,
            ..ExplainRequest::default()
        };
        Self {
            request,
            allowed: true,
        }
    }

    /// A request.
    pub(crate) fn request(from: &str, to: &str, port: u16, method: &str, path: &str) -> Self {
        let mut question = Self::connection(from, to, port);
        question.request.method = Some(method.into());
        question.request.path = Some(path.into());
        question
    }

    /// With this host header.
    pub(crate) fn host(mut self, host: &str) -> Self {
        self.request.host = Some(host.into());
        self
    }

    /// The answer must be no.
    pub(crate) fn denied(mut self) -> Self {
        self.allowed = false;
        self
    }
}

/// The running configuration, as any proxy gets it.
pub(crate) async fn snapshot(world: &World) -> Result<Arc<Snapshot>> {
    let control_plane = crate::settings::ControlPlane {
        xds: format!("https://{CONTROL}:15012"),
        root: Some(world.root()),
        server_name: Some(CONTROL_NAME.into()),
        token: Some(world.token("strata-system/mesh-cli", "mesh-cli", "node-1")?),
        namespace: "strata-system".into(),
        service_account: "mesh-cli".into(),
    };
    let place = world.place("internet")?;
    place
        .run_in(move || async move { crate::connect::fetch(&control_plane).await })
        .await?
}

/// Runs a check: the traffic, then the proxies' records of it against the explanation.
pub(crate) async fn run(
    world: &World,
    name: &'static str,
    questions: &[Question],
    traffic: impl AsyncFnOnce(&World) -> Result<Outcome>,
) -> Result<Check> {
    eprintln!("demo: {name}");
    let snapshot = snapshot(world).await?;
    let answers: Vec<Explanation> = questions
        .iter()
        .map(|question| explain(&snapshot, &question.request))
        .collect();
    let mark = observed::mark(world).await?;
    let outcome = traffic(world).await.unwrap_or_else(|error| Outcome {
        detail: format!("{error:#}"),
        ..Outcome::default()
    });
    let expected = hops_of(&answers);
    let observed = reported(world, &mark, &expected).await?;
    let faults = disagreements(questions, &answers, &expected, &observed);
    let agreed = faults.is_empty();
    let said = Some(outcome.detail).filter(|detail| !detail.is_empty());
    let detail: Vec<String> = said.into_iter().chain(faults).collect();
    Ok(Check {
        name,
        ok: outcome.ok && agreed,
        layers: layers(&observed.hops),
        hops: ordered(&answers, &observed.hops),
        identities: observed.identities.into_iter().collect(),
        p50_us_mesh: outcome.p50_us_mesh,
        p50_us_direct: outcome.p50_us_direct,
        detail: detail.join("; "),
    })
}

/// The proxies that an explanation says traffic crosses, with the layer each works at.
fn hops_of(answers: &[Explanation]) -> BTreeMap<String, Layer> {
    let mut hops = BTreeMap::new();
    for hop in answers.iter().flat_map(|answer| &answer.hops) {
        if hop.proxy.starts_with("no proxy") {
            continue;
        }
        let layer = hops
            .entry(observed::without_release(&hop.proxy))
            .or_insert(hop.layer);
        if hop.layer == Layer::L7 {
            *layer = Layer::L7;
        }
    }
    hops
}

/// Waits until every expected proxy has reported, or for as long as that may take.
async fn reported(
    world: &World,
    mark: &observed::Mark,
    expected: &BTreeMap<String, Layer>,
) -> Result<Observed> {
    let deadline = Instant::now() + RECORDS_WITHIN;
    loop {
        let observed = Observed::of(&observed::since(world, mark).await?);
        if observed.hops == *expected || Instant::now() >= deadline {
            return Ok(observed);
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Where the explanation and the traffic differ, a line each.
fn disagreements(
    questions: &[Question],
    answers: &[Explanation],
    expected: &BTreeMap<String, Layer>,
    observed: &Observed,
) -> Vec<String> {
    let mut faults = Vec::new();
    for (question, answer) in questions.iter().zip(answers) {
        if question.allowed != answer.allowed {
            faults.push(format!(
                "explain says allowed={}: {}",
                answer.allowed, answer.detail
            ));
        }
        let code = answer.reason.code();
        if !answer.allowed && !observed.failures.contains_key(code) {
            let seen = &observed.failures;
            faults.push(format!(
                "explain says {code}, the proxies reported {seen:?}"
            ));
        }
    }
    if observed.hops != *expected {
        let seen = &observed.hops;
        faults.push(format!(
            "explain expects {expected:?}, the proxies reported {seen:?}"
        ));
    }
    faults
}

fn layers(hops: &BTreeMap<String, Layer>) -> String {
    let has = |layer| hops.values().any(|l| *l == layer);
    match (has(Layer::L4), has(Layer::L7)) {
        (true, true) => "L4+L7",
        (true, false) => "L4",
        (false, true) => "L7",
        (false, false) => "-",
    }
    .to_owned()
}

/// The reported proxies in the order of the way, each with its layer.
fn ordered(answers: &[Explanation], hops: &BTreeMap<String, Layer>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for hop in answers.iter().flat_map(|answer| &answer.hops) {
        let name = observed::without_release(&hop.proxy);
        if hops.contains_key(&name) && !names.contains(&name) {
            names.push(name);
        }
    }
    names.extend(
        hops.keys()
            .filter(|name| !names.contains(name))
            .cloned()
            .collect::<Vec<_>>(),
    );
    names
        .into_iter()
        .map(|name| {
            format!(
                "{name} ({:?})",
                hops.get(&name).copied().unwrap_or(Layer::L4)
            )
        })
        .collect()
}

/// The median of times, microseconds.
pub(crate) fn p50_us(mut times: Vec<Duration>) -> Option<u64> {
    times.sort_unstable();
    let middle = times.get(times.len() / 2)?;
    u64::try_from(middle.as_micros()).ok()
}
