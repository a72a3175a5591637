//! Revocation lists, followed.

use crate::settings::Mistakes;
use crate::settings::SettingsError;
use mesh_runtime::Scope;
use mesh_telemetry::{Counter, LabelledCounter, Metrics};
use mesh_tls::{RevocationEvent, RevocationFiles, Revocations};
use std::path::Path;
use std::time::Duration;

/// How often the files are looked at. Kubernetes itself takes up to a minute to bring one.
const POLL: Duration = Duration::from_secs(1);

/// The lists of `CRL_PATH`, kept up to date by a task of `scope`; without a path there are none.
///
/// # Errors
/// When a list is there and cannot be read: starting without it would take revoked peers in.
/// Where nothing is yet (an optional ConfigMap) the start goes on.
pub fn revocations(
    path: Option<&Path>,
    metrics: &Metrics,
    scope: &Scope,
) -> Result<Revocations, SettingsError> {
    let Some(path) = path else {
        return Ok(Revocations::default());
    };
    let counts = Counts::new(metrics);
    let broken = counts.broken.clone();
    let revocations = Revocations::new(move |event, side| {
        let by = match event {
            RevocationEvent::Rejected => &counts.rejected,
            RevocationEvent::Untracked => &counts.untracked,
        };
        by.with(side.reporter()).inc();
    });
    let mut files = RevocationFiles::new(path.to_owned());
    let mut mistakes = Mistakes::default();
    for (file, why) in files.refresh().broken {
        mistakes.add(format!("CRL_PATH: {}: {why}", file.display()));
    }
    if !mistakes.is_empty() {
        return Err(mistakes.into_error());
    }
    revocations.replace(&files);
    tracing::info!(path = %path.display(), lists = files.len(), "revocation lists");
    let follow = follow(files, revocations.clone(), broken);
    scope.spawn("revocation lists", follow);
    Ok(revocations)
}

struct Counts {
    rejected: LabelledCounter,
    untracked: LabelledCounter,
    broken: Counter,
}

impl Counts {
    fn new(metrics: &Metrics) -> Self {
        Self {
            rejected: metrics.labelled_counter(
                "istio_crl_policy_rejections",
                "Connections refused or cut because a peer's certificate is revoked",
                "reporter",
            ),
            untracked: metrics.labelled_counter(
                "istio_crl_untracked_connections",
                "Live connections whose peer could not be judged by new revocation lists",
                "reporter",
            ),
            broken: metrics.counter(
                "strata_crl_broken_files",
                "States of revocation list files that could not be used; the last good one is",
            ),
        }
    }
}

/// Counts tunnels that take no more streams because what their peer proved itself with is over,
/// revoked, or rests on a root that was withdrawn: by [`mesh_model::Reason::code`].
pub fn tunnels_retired(metrics: &Metrics) -> LabelledCounter {
    metrics.labelled_counter(
        "strata_tunnels_retired",
        "Tunnels, opened or taken, that take no more streams as trust in their peer ended",
        "reason",
    )
}

async fn follow(mut files: RevocationFiles, revocations: Revocations, broken: Counter) {
    loop {
        tokio::time::sleep(POLL).await;
        let refreshed = files.refresh();
        for (file, why) in refreshed.broken {
            tracing::error!(file = %file.display(), why, "revocation lists not readable, the last good ones stay");
            broken.inc();
        }
        if refreshed.changed {
            tracing::info!(path = %files.path().display(), lists = files.len(), "revocation lists changed");
            revocations.replace(&files);
        }
    }
}
