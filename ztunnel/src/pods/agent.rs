//! Pods as the node agent tells them: the proxy's side of ZDS (interop/zds-cni.md section 1).
//!
//! Whatever happens to the connection, the pods that run stay; only an agent that has told all its
//! pods ends those it did not name.

use super::{PodNetns, PodSpec, Pods};
use mesh_net::Netns;
use mesh_runtime::{Drain, ReadyGate};
use mesh_zds::{Ack, AgentConnection, Command, ConnectionError, ProtocolError, ProxySession};
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{sleep, sleep_until};

/// Pause before the first attempt to connect again.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest pause; each is twice the one before.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ending {
    #[error("the agent cannot be reached: {0}")]
    Unreachable(#[source] io::Error),
    #[error("the agent has closed the connection")]
    Closed,
    #[error(transparent)]
    Receive(#[from] ConnectionError),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error("the agent does not take an answer: {0}")]
    Answer(#[source] io::Error),
}

/// Keeps the pods as the agent says until the drain starts: from then on an agent must not take us
/// for a proxy that carries new pods. The gate is open while the agent is connected, has told all
/// its pods, and all of them run.
pub(crate) async fn follow(mut pods: Pods, path: PathBuf, gate: ReadyGate, drain: Drain) {
    let mut pause = PAUSE_MIN;
    let mut told = None;
    loop {
        let mut session = ProxySession::new();
        let ending = tokio::select! {
            biased;
            () = drain.started() => return,
            ending = converse(&mut pods, &mut session, &path, &gate) => ending,
        };
        gate.close();
        if session.is_complete() {
            (pause, told) = (PAUSE_MIN, None);
        }
        let error = ending.to_string();
        // An agent that stays away is told of once.
        if told.as_ref() != Some(&error) {
            tracing::warn!(path = %path.display(), error, "no node agent; the pods that run stay");
            told = Some(error);
        }
        tokio::select! {
            biased;
            () = drain.started() => return,
            () = tend(&mut pods, sleep(pause), |_| ()) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One connection, from hello to its end.
async fn converse(
    pods: &mut Pods,
    session: &mut ProxySession,
    path: &Path,
    gate: &ReadyGate,
) -> Ending {
    let agent = match AgentConnection::open(path).await {
        Ok(agent) => agent,
        Err(error) => return Ending::Unreachable(error),
    };
    tracing::info!(path = %path.display(), "connected to the node agent");
    loop {
        let complete = session.is_complete();
        let note = |pods: &Pods| show(gate, complete && pods.retry_at().is_none());
        let request = match tend(pods, agent.next(), note).await {
            Ok(Some(request)) => request,
            Ok(None) => return Ending::Closed,
            Err(error) => return refuse(&agent, error.into()).await,
        };
        let command = match session.take(request) {
            Ok(command) => command,
            Err(error) => return refuse(&agent, error.into()).await,
        };
        let ack = carry_out(pods, command).await;
        show(gate, session.is_complete() && pods.retry_at().is_none());
        if let Err(error) = agent.answer(&ack).await {
            return Ending::Answer(error);
        }
    }
}

fn show(gate: &ReadyGate, ready: bool) {
    if ready {
        gate.open();
    } else {
        gate.close();
    }
}

/// Tells the agent what is wrong; the connection is of no more use.
async fn refuse(agent: &AgentConnection, ending: Ending) -> Ending {
    if let Err(error) = agent.answer(&Err(ending.to_string())).await {
        tracing::debug!(%error, "the agent is gone before it was told");
    }
    ending
}

async fn carry_out(pods: &mut Pods, command: Command<Netns>) -> Ack {
    match command {
        Command::Run(pod, netns) => {
            let spec = PodSpec {
                uid: pod.uid,
                info: pod.info,
                netns: PodNetns::Held(netns),
            };
            return pods.run(spec).await.map_err(|e| e.to_string());
        }
        Command::Forget(uid) => pods.forget(&uid),
        Command::Stop(uid) => pods.stop(&uid),
        Command::Only(uids) => pods.only(&uids),
        Command::Nothing => {}
    }
    Ok(())
}

/// Waits for `work`, and meanwhile tries again to start pods that are due; `after` each attempt.
async fn tend<T>(pods: &mut Pods, work: impl Future<Output = T>, after: impl Fn(&Pods)) -> T {
    tokio::pin!(work);
    loop {
        let due = pods.retry_at();
        let due = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => pending().await,
            }
        };
        tokio::select! {
            done = &mut work => return done,
            () = due => {
                pods.retry().await;
                after(pods);
            }
        }
    }
}
