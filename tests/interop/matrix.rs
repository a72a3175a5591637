//! Every row for every pair of sides, and the table of how they went.

use crate::mesh::Mesh;
use crate::rows::{ROWS, Row};
use anyhow::{Context, Result, ensure};
use libtest_mimic::{Failed, Trial};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Runtime;

/// Whose proxy serves a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// Ours, one for the node.
    Our,
    /// The peer's, in the pod.
    Their,
}

impl Side {
    /// What its pods' names begin with.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Our => "our",
            Self::Their => "their",
        }
    }
}

/// Whose client talks to whose server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pair {
    /// Of the client.
    pub(crate) client: Side,
    /// Of the server.
    pub(crate) server: Side,
}

impl Pair {
    const fn new(client: Side, server: Side) -> Self {
        Self { client, server }
    }

    fn name(self) -> String {
        format!("{} to {}", self.client.as_str(), self.server.as_str())
    }
}

const PAIRS: [Pair; 4] = [
    Pair::new(Side::Our, Side::Our),
    Pair::new(Side::Our, Side::Their),
    Pair::new(Side::Their, Side::Our),
    Pair::new(Side::Their, Side::Their),
];

/// What a cell says when its row failed; the failure itself is in the test's output.
const FAILED: &str = "FAILED";

/// The mesh that the tests share, started by the first that needs it, and the table.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Inner>);

struct Inner {
    peer: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: Option<(Runtime, Mesh)>,
    /// A mesh that did not start is not tried again.
    broken: bool,
    cells: BTreeMap<(Row, Pair), String>,
}

impl Shared {
    pub(crate) fn new(peer: PathBuf) -> Self {
        Self(Arc::new(Inner {
            peer,
            state: Mutex::default(),
        }))
    }

    /// Every row of every pair.
    pub(crate) fn trials(&self) -> Vec<Trial> {
        let mut trials = Vec::new();
        for pair in PAIRS {
            for row in ROWS.iter().filter(|row| row.is_for(pair)) {
                let name = format!("{}: {}", pair.name(), row.name());
                let shared = self.clone();
                let body = move || {
                    shared
                        .run(*row, pair)
                        .map_err(|error| Failed::from(format!("{error:#}")))
                };
                trials.push(Trial::test(name.replace(' ', "_"), body));
            }
        }
        trials
    }

    /// A test of the same mesh that is no row of the table.
    pub(crate) fn trial<F>(&self, name: &str, body: F) -> Trial
    where
        F: AsyncFnOnce(&mut Mesh, &Path) -> Result<()> + Send + 'static,
    {
        let shared = self.clone();
        Trial::test(name, move || {
            let mut state = shared
                .0
                .state
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let (runtime, mesh) = shared.started(&mut state)?;
            let outcome = runtime.block_on(body(mesh, &shared.0.peer));
            outcome.map_err(|error| Failed::from(format!("{error:#}")))
        })
    }

    /// The mesh; the first who asks starts it.
    fn started<'a>(&self, state: &'a mut State) -> Result<(&'a Runtime, &'a mut Mesh)> {
        if state.running.is_none() {
            ensure!(!state.broken, "the mesh did not start");
            state.broken = true;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let mesh = runtime.block_on(Mesh::start(&self.0.peer))?;
            state.running = Some((runtime, mesh));
        }
        let (runtime, mesh) = state.running.as_mut().context("the mesh did not start")?;
        Ok((runtime, mesh))
    }

    fn run(&self, row: Row, pair: Pair) -> Result<()> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (runtime, mesh) = self.started(&mut state)?;
        let outcome = runtime.block_on(row.run(mesh, pair));
        let cell = match &outcome {
            Ok(note) if note.is_empty() => "ok".to_owned(),
            Ok(note) => format!("ok, {note}"),
            Err(_) => FAILED.to_owned(),
        };
        state.cells.insert((row, pair), cell);
        outcome.map(drop)
    }

    /// Ends the mesh and prints the table. After a failure the logs stay.
    pub(crate) fn finish(&self, failed: bool) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, mesh)) = state.running.take() {
            mesh.finish(failed);
        }
        println!("{}", table(&state.cells));
    }
}

fn table(cells: &BTreeMap<(Row, Pair), String>) -> String {
    let titles: Vec<String> = PAIRS.iter().map(|pair| pair.name()).collect();
    let mut lines = vec![line("client to server", titles.iter().map(String::as_str))];
    for row in ROWS {
        let of_row = PAIRS
            .iter()
            .map(|pair| cells.get(&(*row, *pair)).map_or("-", String::as_str));
        lines.push(line(row.name(), of_row));
    }
    lines.join("\n")
}

fn line<'a>(first: &str, cells: impl Iterator<Item = &'a str>) -> String {
    let rest: String = cells.map(|cell| format!("| {cell:<17}")).collect();
    format!("{first:<46}{rest}").trim_end().to_owned()
}
