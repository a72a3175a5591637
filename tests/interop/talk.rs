//! What is said on one connection, and how it ends.

use crate::mesh::Mesh;
use anyhow::{Context, Result, bail, ensure};
use mesh_lab::client::Target;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long anything small may take.
pub(crate) const WAIT: Duration = Duration::from_secs(15);

/// An address, from a pod.
pub(crate) fn from(mesh: &Mesh, pod: &str, ip: IpAddr, port: u16) -> Result<Target> {
    Ok(Target::new(SocketAddr::new(ip, port)).from_place(mesh.pod(pod)?))
}

/// A kilobyte to an echo and back.
pub(crate) async fn ping(stream: &mut TcpStream) -> Result<()> {
    let exchange = async {
        let mut back = [0; 1024];
        stream.write_all(&[7; 1024]).await?;
        stream.read_exact(&mut back).await?;
        ensure!(back == [7; 1024], "other bytes came back");
        Ok(())
    };
    timeout(WAIT, exchange).await.context("no echo")?
}

/// Ends a connection to an echo, which must end too, without another byte.
pub(crate) async fn finish(mut stream: TcpStream) -> Result<()> {
    stream.shutdown().await?;
    let count = timeout(WAIT, stream.read(&mut [0; 16]))
        .await
        .context("no end")??;
    ensure!(count == 0, "bytes after the last");
    Ok(())
}

/// Waits until a connection ends, in whatever way.
pub(crate) async fn ended(stream: &mut TcpStream) -> Result<()> {
    match stream.read(&mut [0; 16]).await {
        Ok(0) | Err(_) => Ok(()),
        Ok(count) => bail!("{count} bytes instead of the end"),
    }
}

/// Asks until it holds; whether it did in time.
pub(crate) async fn until(within: Duration, holds: impl AsyncFn() -> bool) -> bool {
    let started = Instant::now();
    while started.elapsed() < within {
        if holds().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}
