//! The queue between those who log and the thread that writes.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};
use tracing_subscriber::fmt::MakeWriter;

/// Most lines that wait to be written.
const QUEUE_LINES_MAX: usize = 8192;
/// Most bytes that wait to be written; with average lines the number of lines binds first.
const QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Lines are written together up to this size, so that a busy log costs few system calls.
const BATCH_BYTES: usize = 64 * 1024;
/// The writer's rest between two writes. A line that ends a silence is written at once; of those that
/// follow none has to wake the writer, which costs a worker more than the line. Far below what fills
/// the queue.
const REST: Duration = Duration::from_millis(5);
/// How often a flush asks a full queue again.
const FLUSH_RETRY: Duration = Duration::from_millis(1);

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines lost since the process began.
pub(crate) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The sending end. Clones share the queue.
#[derive(Debug, Clone)]
pub(crate) struct LogQueue {
    sender: SyncSender<Message>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl LogQueue {
    /// Starts the writing thread. It ends when the last sender is gone.
    pub(crate) fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE_LINES_MAX);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let waiting = waiting_bytes.clone();
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write_all(&receiver, output, &waiting))?;
        Ok(Self {
            sender,
            waiting_bytes,
        })
    }

    /// Queues a whole line; counts it as lost when there is no room.
    pub(crate) fn put(&self, line: Vec<u8>) {
        let bytes = line.len();
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let sent =
            before + bytes <= QUEUE_BYTES_MAX && self.sender.try_send(Message::Line(line)).is_ok();
        if !sent {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was queued is written, or the time is over. For the end of the process: it
    /// blocks the calling thread.
    pub(crate) fn flush(&self, wait: Duration) {
        let deadline = Instant::now() + wait;
        let (done, written) = sync_channel(1);
        let mut message = Message::Flush(done);
        loop {
            message = match self.sender.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => back,
                Err(_) => return,
            };
            std::thread::sleep(FLUSH_RETRY);
        }
        // No answer in time means that the output blocks: the rest is lost with the process.
        let left = deadline.saturating_duration_since(Instant::now());
        let _unanswered = written.recv_timeout(left);
    }
}

fn write_all(receiver: &Receiver<Message>, mut output: impl Write, waiting: &AtomicUsize) {
    let mut batch: Vec<u8> = Vec::with_capacity(BATCH_BYTES);
    let mut flushes = Vec::new();
    while let Ok(first) = receiver.recv() {
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line(line) => batch.extend_from_slice(&line),
                Message::Flush(done) => flushes.push(done),
            }
            next = (batch.len() < BATCH_BYTES)
                .then(|| receiver.try_recv().ok())
                .flatten();
        }
        // An output that is closed for good leaves nobody to tell; the lines count as lost.
        if output
            .write_all(&batch)
            .and_then(|()| output.flush())
            .is_err()
        {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        waiting.fetch_sub(batch.len(), Ordering::Relaxed);
        batch.clear();
        for done in flushes.drain(..) {
            // The asker may have given up waiting.
            let _gone = done.send(());
        }
        std::thread::sleep(REST);
    }
}

/// One event's line: the formatting layer writes it in one call.
#[derive(Debug)]
pub(crate) struct LineWriter<'a>(&'a LogQueue);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Condvar, Mutex};

    /// An output that blocks until it is opened.
    #[derive(Clone, Default)]
    struct Gate(Arc<(Mutex<Held>, Condvar)>);

    /// Whether the gate is open, and what came through.
    type Held = (bool, Vec<u8>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (lock, opened) = &*self.0;
            let mut state = opened
                .wait_while(lock.lock().unwrap(), |(open, _)| !*open)
                .unwrap();
            state.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_blocked_output_blocks_nobody_and_losses_are_counted() {
        let gate = Gate::default();
        let queue = LogQueue::start(gate.clone()).unwrap();
        let before = dropped();
        for _ in 0..3 * QUEUE_LINES_MAX {
            queue.put(vec![b'x'; 16]);
        }
        let lost = dropped() - before;
        assert!(lost > 0, "nothing was lost");
        gate.0.0.lock().unwrap().0 = true;
        gate.0.1.notify_all();
        queue.flush(Duration::from_secs(10));
        let written = gate.0.0.lock().unwrap().1.len() / 16;
        assert_eq!(
            written + usize::try_from(lost).unwrap(),
            3 * QUEUE_LINES_MAX
        );
    }

    #[test]
    fn a_flush_returns_after_the_lines_before_it() {
        let gate = Gate::default();
        gate.0.0.lock().unwrap().0 = true;
        let queue = LogQueue::start(gate.clone()).unwrap();
        queue.put(b"one\n".to_vec());
        queue.put(b"two\n".to_vec());
        queue.flush(Duration::from_secs(10));
        assert_eq!(gate.0.0.lock().unwrap().1, b"one\ntwo\n");
    }
}
