//! The accept loop of every listener that closes when the drain starts.

use mesh_net::{Accepted, accept_or_refuse, accept_queued};
use mesh_runtime::Drain;
use std::io;
use tokio::net::TcpListener;

/// Gives each connection to `take` until the drain starts; then what the kernel has queued for this
/// listener, which closing it would reset.
///
/// # Errors
/// When the listener has failed.
pub async fn accept_until_drain(
    listener: TcpListener,
    drain: &Drain,
    mut take: impl FnMut(Accepted),
) -> io::Result<()> {
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.started() => break,
            accepted = accept_or_refuse(&listener) => accepted,
        };
        take(accepted?);
    }
    accept_queued(listener, |stream, peer| take(Accepted::Taken(stream, peer)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_net::{ListenOptions, listen};
    use std::net::TcpStream;

    #[tokio::test]
    async fn a_drain_takes_what_is_queued_and_then_closes() {
        let listener = listen(&ListenOptions::new(([127, 0, 0, 1], 0).into())).unwrap();
        let to = listener.local_addr().unwrap();
        let drain = Drain::new();
        let (mut taken, mut clients) = (0, Vec::new());
        for _ in 0..200 {
            clients.push(TcpStream::connect(to).unwrap());
        }
        drain.start();
        let done = accept_until_drain(listener, &drain, |accepted| {
            taken += usize::from(matches!(accepted, Accepted::Taken(..)));
        });
        done.await.unwrap();
        assert_eq!(taken, clients.len());
        assert!(TcpStream::connect(to).is_err());
    }
}
