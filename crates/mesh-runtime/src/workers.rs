//! Worker threads: each a current-thread runtime and a local set, fed with jobs.
//!
//! A connection and all its tasks stay on one worker, so nothing on its path needs a lock or a
//! channel between threads; with `SO_REUSEPORT` listeners the kernel spreads connections.

use crate::Scope;
use std::io;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Jobs that wait for one worker. Jobs are few (listeners opened, pods added), never connections;
/// the sender waits while the queue is full.
pub const WORKER_QUEUE_JOBS: usize = 256;
/// Workers when nobody says how many: more seldom helps on a node that also runs workloads.
const WORKERS_DEFAULT: usize = 2;
/// How long the tasks of a stopping worker may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;
type Job = Box<dyn FnOnce() -> LocalFuture + Send>;

/// Workers when nobody says how many: 2, or 1 on a machine of one CPU.
pub fn workers_default() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(WORKERS_DEFAULT))
}

/// The worker threads. They end when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Workers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    handles: Vec<WorkerHandle>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Becomes disconnected when every thread has ended.
    ended: Mutex<Receiver<()>>,
    stop: CancellationToken,
    _stop_at_drop: DropGuard,
}

/// A way to give work to one worker.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    jobs: SyncSender<Job>,
    wake: Arc<Notify>,
    thread: ThreadId,
    scope: Scope,
}

impl WorkerHandle {
    /// Runs a future on the worker: `make` is called there, and what it makes never leaves the
    /// thread. A worker that has stopped drops the job. Waits for room in the queue, except when
    /// called on that worker itself, which starts the job at once.
    pub fn run<F, Fut>(&self, make: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        if std::thread::current().id() == self.thread {
            self.scope
                .spawn_local("worker job", async move { make().await });
            return;
        }
        let job: Job = Box::new(move || Box::pin(make()));
        if self.jobs.send(job).is_err() {
            tracing::debug!("a job came to a worker that has stopped");
        }
        self.wake.notify_one();
    }
}

impl Workers {
    /// Starts the threads, at least one, named `name-0` and so on.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be made.
    pub fn start(count: usize, name: &'static str) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let (alive, ended) = sync_channel(0);
        let (mut handles, mut threads) = (Vec::new(), Vec::new());
        // Should a later thread fail to start, the earlier ones end with this guard.
        let stop_at_drop = stop.clone().drop_guard();
        for index in 0..count.max(1) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let (jobs, queue) = sync_channel(WORKER_QUEUE_JOBS);
            let (wake, scope) = (Arc::new(Notify::new()), Scope::new());
            let owned = (wake.clone(), scope.clone(), stop.clone(), alive.clone());
            let thread = std::thread::Builder::new()
                .name(format!("{name}-{index}"))
                .spawn(move || {
                    let (wake, scope, stop, alive) = owned;
                    let work = work(queue, wake, scope, stop);
                    tokio::task::LocalSet::new().block_on(&runtime, work);
                    drop((runtime, alive));
                })?;
            handles.push(WorkerHandle {
                jobs,
                wake,
                thread: thread.thread().id(),
                scope,
            });
            threads.push(thread);
        }
        Ok(Self(Arc::new(Inner {
            handles,
            threads: Mutex::new(threads),
            ended: Mutex::new(ended),
            stop,
            _stop_at_drop: stop_at_drop,
        })))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.handles.len()
    }

    /// One handle a worker.
    pub fn handles(&self) -> &[WorkerHandle] {
        &self.0.handles
    }

    /// Runs a future on every worker; `make` is given the worker's index.
    pub fn on_each<F, Fut>(&self, make: F)
    where
        F: Fn(usize) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        for (index, handle) in self.0.handles.iter().enumerate() {
            let make = make.clone();
            handle.run(move || make(index));
        }
    }

    /// Cancels what the workers still run, and joins their threads. Gives false when one does not
    /// end in time (a task that never yields); that thread is left behind.
    pub fn stop(&self, timeout: Duration) -> bool {
        self.0.stop.cancel();
        let ended = self.0.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout) {
            return false;
        }
        let mut threads = self
            .0
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        threads.drain(..).all(|thread| thread.join().is_ok())
    }
}

/// The life of one worker.
async fn work(queue: Receiver<Job>, wake: Arc<Notify>, scope: Scope, stop: CancellationToken) {
    let serving = async {
        loop {
            while let Ok(job) = queue.try_recv() {
                // The job is opened inside the task, where a panic is caught.
                scope.spawn_local("worker job", async move { job().await });
            }
            wake.notified().await;
        }
    };
    stop.run_until_cancelled(serving).await;
    scope.cancel();
    if tokio::time::timeout(STOP_TIMEOUT, scope.finished())
        .await
        .is_err()
    {
        tracing::warn!(
            tasks = scope.tasks(),
            "a worker's tasks did not end in time"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn every_worker_runs_what_it_is_given_on_its_own_thread() {
        let workers = Workers::start(2, "test").unwrap();
        let (tx, mut rx) = mpsc::channel(8);
        workers.on_each(move |index| {
            let (tx, local) = (tx.clone(), Rc::new(index));
            async move {
                let name = std::thread::current().name().unwrap().to_string();
                tx.send((*local, name)).await.unwrap();
            }
        });
        let mut got = vec![rx.recv().await.unwrap(), rx.recv().await.unwrap()];
        got.sort();
        assert_eq!(got, [(0, "test-0".to_string()), (1, "test-1".to_string())]);
        assert!(workers.stop(Duration::from_secs(5)));
    }

    #[tokio::test]
    async fn a_worker_may_give_itself_work_and_survives_a_panic() {
        let workers = Workers::start(1, "test").unwrap();
        let handle = workers.handles()[0].clone();
        handle.run(|| -> std::future::Ready<()> { panic!("on purpose") });
        let (tx, mut rx) = mpsc::channel(1);
        let again = handle.clone();
        handle.run(move || async move {
            for _ in 0..=WORKER_QUEUE_JOBS {
                again.run(|| async {});
            }
            again.run(move || async move { tx.send(()).await.unwrap() });
        });
        rx.recv().await.unwrap();
    }

    #[tokio::test]
    async fn stopping_drops_what_still_runs() {
        struct Held(#[expect(dead_code, reason = "dropped to be seen")] mpsc::Sender<()>);
        let workers = Workers::start(1, "test").unwrap();
        let (tx, mut rx) = mpsc::channel(1);
        workers.handles()[0].run(move || async move {
            let held = Held(tx);
            std::future::pending::<()>().await;
            drop(held);
        });
        assert!(workers.stop(Duration::from_secs(5)));
        assert!(rx.recv().await.is_none());
        workers.handles()[0].run(|| async {});
    }
}
