//! A TCP peer that follows a script, and says where the other side left it.

use mesh_net::{ListenOptions, listen};
use mesh_runtime::Scope;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;

/// How long one step may take: far longer than any step takes unless the other side is wrong.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// One thing a peer does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Reads exactly these bytes.
    Expect(Vec<u8>),
    /// Writes these bytes.
    Send(Vec<u8>),
    /// Reads the end of the other side's bytes, and nothing before it.
    ExpectEnd,
    /// Ends its own bytes; reading goes on.
    End,
    /// Leaves with a reset instead of an end.
    Reset,
}

/// A listener that serves one connection by script.
#[derive(Debug)]
pub struct ScriptedPeer {
    address: SocketAddr,
    outcome: oneshot::Receiver<Result<(), String>>,
    scope: Scope,
}

impl Drop for ScriptedPeer {
    fn drop(&mut self) {
        self.scope.cancel();
    }
}

impl ScriptedPeer {
    /// Listens on a free port of loopback and runs the script on the first connection.
    pub fn start(script: Vec<Step>) -> Self {
        let options = ListenOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = listen(&options).unwrap();
        let address = listener.local_addr().unwrap();
        let (done, outcome) = oneshot::channel();
        let scope = Scope::new();
        scope.spawn("scripted-peer", async move {
            let result = match listener.accept().await {
                Ok((stream, _)) => run_tcp(stream, &script).await,
                Err(error) => Err(format!("accept: {error}")),
            };
            // The test may have ended without asking.
            drop(done.send(result));
        });
        Self {
            address,
            outcome,
            scope,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the end of the script; panics with the step that went wrong.
    pub async fn finish(mut self) {
        let outcome = tokio::time::timeout(STEP_TIMEOUT, &mut self.outcome).await;
        match outcome {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(why))) => panic!("scripted peer: {why}"),
            Ok(Err(_)) | Err(_) => panic!("scripted peer: nobody connected, or a step hangs"),
        }
    }
}

async fn run_tcp(mut stream: tokio::net::TcpStream, script: &[Step]) -> Result<(), String> {
    let result = run(&mut stream, script).await;
    if script.contains(&Step::Reset) {
        // A linger of zero turns the close into a reset.
        stream.set_zero_linger().map_err(|e| e.to_string())?;
    }
    result
}

/// Runs a script on any stream.
///
/// # Errors
/// With the number of the step that went otherwise, and how.
pub async fn run<S>(stream: &mut S, script: &[Step]) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    for (number, step) in script.iter().enumerate() {
        let done = tokio::time::timeout(STEP_TIMEOUT, one(stream, step)).await;
        match done {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return Err(format!("step {number} {step:?}: {why}")),
            Err(_) => return Err(format!("step {number} {step:?}: nothing happened")),
        }
        if *step == Step::Reset {
            break;
        }
    }
    Ok(())
}

async fn one<S>(stream: &mut S, step: &Step) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let said = |e: io::Error| e.to_string();
    match step {
        Step::Expect(want) => {
            let mut got = vec![0; want.len()];
            stream.read_exact(&mut got).await.map_err(said)?;
            if got == *want {
                Ok(())
            } else {
                Err(format!("got {:?}", String::from_utf8_lossy(&got)))
            }
        }
        Step::Send(bytes) => {
            stream.write_all(bytes).await.map_err(said)?;
            stream.flush().await.map_err(said)
        }
        Step::ExpectEnd => {
            let mut rest = [0; 64];
            match stream.read(&mut rest).await.map_err(said)? {
                0 => Ok(()),
                n => Err(format!("{n} more bytes")),
            }
        }
        Step::End => stream.shutdown().await.map_err(said),
        Step::Reset => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_net::{ConnectOptions, connect};

    fn bytes(text: &str) -> Vec<u8> {
        text.as_bytes().to_vec()
    }

    #[tokio::test]
    async fn a_script_is_followed_to_its_end() {
        let peer = ScriptedPeer::start(vec![
            Step::Send(bytes("hello")),
            Step::Expect(bytes("bye")),
            Step::ExpectEnd,
        ]);
        let mut stream = connect(peer.address(), &ConnectOptions::default())
            .await
            .unwrap();
        let mine = [
            Step::Expect(bytes("hello")),
            Step::Send(bytes("bye")),
            Step::End,
            Step::ExpectEnd,
        ];
        run(&mut stream, &mine).await.unwrap();
        peer.finish().await;
    }

    #[tokio::test]
    async fn a_departure_from_the_script_is_named() {
        let (mut near, mut far) = tokio::io::duplex(64);
        far.write_all(b"other").await.unwrap();
        let error = run(&mut near, &[Step::Expect(bytes("hello"))])
            .await
            .unwrap_err();
        assert!(
            error.contains("step 0") && error.contains("other"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_reset_is_a_reset() {
        let peer = ScriptedPeer::start(vec![Step::Expect(bytes("x")), Step::Reset]);
        let mut stream = connect(peer.address(), &ConnectOptions::default())
            .await
            .unwrap();
        stream.write_all(b"x").await.unwrap();
        let error = stream.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        peer.finish().await;
    }
}
