//! An origin that only counts: the proof that traffic which should not arrive did not.

use super::lines::next_line;
use super::{bind, serve_each};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The line that asks for the count.
pub(crate) const QUESTION: &str = "COUNT";
/// Size of the buffer that bytes are read into and thrown away.
const BUFFER_BYTES: usize = 16 * 1024;

/// What a counter has seen. Clones are the same count.
#[derive(Debug, Clone, Default)]
pub struct Count(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    connections: AtomicU64,
    bytes: AtomicU64,
}

impl Count {
    /// Connections that arrived, those that asked for the count not included.
    pub fn connections(&self) -> u64 {
        self.0.connections.load(Ordering::SeqCst)
    }

    /// Bytes that arrived on them.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::SeqCst)
    }
}

/// How the counter behaves.
#[derive(Debug, Clone, Default)]
pub struct CounterOptions {
    /// Where it counts; keep a clone to read the count within the process.
    pub count: Count,
}

/// Counts connections and their bytes, and answers `ok` and an end to each when its client ends.
/// A connection whose first line is `COUNT` is not counted: it is answered with
/// `<connections> <bytes>`.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve_counter(address: SocketAddr, options: CounterOptions) -> io::Result<()> {
    serve_counter_on(bind(address)?, options).await
}

/// As [`serve_counter`], on a listener.
///
/// # Errors
/// When the listener fails.
pub async fn serve_counter_on(listener: TcpListener, options: CounterOptions) -> io::Result<()> {
    serve_each(listener, "origin-counter", move |stream, _| {
        count(stream, options.count.clone())
    })
    .await
}

async fn count(mut stream: TcpStream, count: Count) -> io::Result<()> {
    // Counted before anything is read: a connection that sends nothing has arrived too.
    let seen = &count.0;
    seen.connections.fetch_add(1, Ordering::SeqCst);
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    let Some(line) = next_line(&mut read).await? else {
        return finish(&mut write).await;
    };
    if line == QUESTION {
        seen.connections.fetch_sub(1, Ordering::SeqCst);
        let answer = format!("{} {}\n", count.connections(), count.bytes());
        write.write_all(answer.as_bytes()).await?;
        return write.shutdown().await;
    }
    // The line's end counts as one byte.
    seen.bytes
        .fetch_add(line.len() as u64 + 1, Ordering::SeqCst);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match read.read(&mut buffer).await? {
            0 => return finish(&mut write).await,
            more => seen.bytes.fetch_add(more as u64, Ordering::SeqCst),
        };
    }
}

async fn finish(write: &mut (impl AsyncWriteExt + Unpin)) -> io::Result<()> {
    write.write_all(b"ok\n").await?;
    write.shutdown().await
}
