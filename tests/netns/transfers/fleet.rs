//! Many transfers at a time, seen from the clients.

use super::ledger::{Ledger, PORT, port, start};
use crate::bytes::{PIECE, at};
use anyhow::{Context, Result, ensure};
use mesh_lab::Place;
use mesh_lab::client::{Target, tcp_exchange};
use mesh_runtime::Scope;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a transfer sends at a time, and how often: together they leave the machine room.
const SENT_BYTES: usize = 2048;
const SENT_EVERY: Duration = Duration::from_millis(250);
/// How far a transfer has to get to count as one that goes on.
const ADVANCE_BYTES: u64 = 2 * SENT_BYTES as u64;
/// How long anything may take: a retransmission after 30 s without the wire comes 51 s after its
/// first, and the machine may be slow.
const PATIENCE: Duration = Duration::from_secs(90);

/// Small connections at a time.
const SMALL_AT_A_TIME: usize = 20;
/// Their numbers begin here: apart from those of transfers.
const SMALL_FROM: u32 = 1 << 20;

/// From where to where.
pub(super) struct Way {
    from: Place,
    to: Place,
}

impl Way {
    pub(super) fn new(from: &Place, to: &Place) -> Self {
        let (from, to) = (from.clone(), to.clone());
        Self { from, to }
    }

    fn target(&self, port: u16) -> Target {
        Target::new(SocketAddr::new(self.to.v4().into(), port)).from_place(&self.from)
    }
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// All that was sent came back, and then the end.
    Whole,
    /// It ended before.
    Broken,
    /// Something came back that was not sent.
    Wrong,
}

/// A transfer, as its client knows it.
#[derive(Debug, Default)]
pub(super) struct Transfer {
    /// No other has it.
    pub(super) number: u16,
    sent: AtomicU64,
    acknowledged: AtomicU64,
    /// The client has sent its last and its end.
    all_sent: AtomicBool,
    pub(super) end: OnceLock<End>,
}

/// Transfers that began together.
pub(super) struct Fleet {
    transfers: Vec<Arc<Transfer>>,
    finish: watch::Sender<bool>,
    _scope: Ends,
}

/// Ends the tasks of a fleet that is given up.
struct Ends(Scope);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Fleet {
    /// Starts so many. Needs a tokio runtime around it.
    pub(super) fn start(way: &Way, count: usize, ledger: &Ledger) -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let (finish, finished) = watch::channel(false);
        let scope = Scope::new();
        let mut transfers = Vec::new();
        for _ in 0..count {
            let transfer = Arc::new(Transfer {
                number: NEXT.fetch_add(1, Ordering::Relaxed),
                ..Transfer::default()
            });
            let port = port(transfer.number);
            ledger.serve(&way.to, port)?;
            let work = run(way.target(port), transfer.clone(), finished.clone());
            scope.spawn("transfer", work);
            transfers.push(transfer);
        }
        Ok(Self {
            transfers,
            finish,
            _scope: Ends(scope),
        })
    }

    /// Each of them.
    pub(super) fn transfers(&self) -> impl Iterator<Item = &Transfer> {
        self.transfers.iter().map(|transfer| &**transfer)
    }

    /// Waits until every one has got some way further than now.
    pub(super) async fn all_advance(&self) -> Result<()> {
        let goals = self.goals();
        self.until("gets further", |n, transfer| {
            let ended = transfer.end.get();
            ensure!(ended.is_none(), "it ended: {ended:?}");
            Ok(transfer.acknowledged() >= goals[n])
        })
        .await
    }

    /// Waits until every one has got some way further, or has ended.
    pub(super) async fn advance_or_end(&self) -> Result<()> {
        let goals = self.goals();
        self.until("gets further or ends", |n, transfer| {
            Ok(transfer.end.get().is_some() || transfer.acknowledged() >= goals[n])
        })
        .await
    }

    fn goals(&self) -> Vec<u64> {
        let goal = |t: &Arc<Transfer>| t.acknowledged() + ADVANCE_BYTES;
        self.transfers.iter().map(goal).collect()
    }

    /// Lets every one send its last and end.
    pub(super) fn finish(&self) {
        self.finish.send_replace(true);
    }

    /// Waits until every one has ended.
    pub(super) async fn all_end(&self) -> Result<()> {
        self.until("ends", |_, transfer| Ok(transfer.end.get().is_some()))
            .await
    }

    /// Compares both ends' accounts of every transfer, all of which have ended; gives how many were
    /// broken off.
    pub(super) fn broken(&self, ledger: &Ledger) -> Result<usize> {
        let mut broken = 0;
        for transfer in &self.transfers {
            let received = ledger.of(transfer.number.into());
            let sent = transfer.sent.load(Ordering::Relaxed);
            let acknowledged = transfer.acknowledged();
            let account = format!("{transfer:?}, of which came {received:?}");
            ensure!(!received.wrong, "other bytes: {account}");
            ensure!(received.connections <= 1, "twice: {account}");
            let in_order = acknowledged <= received.bytes && received.bytes <= sent;
            ensure!(in_order, "lost or made up: {account}");
            match transfer.end.get() {
                Some(End::Broken) => broken += 1,
                Some(End::Whole) => ensure!(acknowledged == sent, "not whole: {account}"),
                Some(End::Wrong) | None => anyhow::bail!("{account}"),
            }
        }
        Ok(broken)
    }

    async fn until(
        &self,
        what: &str,
        holds: impl Fn(usize, &Transfer) -> Result<bool>,
    ) -> Result<()> {
        let begin = Instant::now();
        for (n, transfer) in self.transfers.iter().enumerate() {
            while !holds(n, transfer).with_context(|| format!("{transfer:?}"))? {
                ensure!(begin.elapsed() < PATIENCE, "never {what}: {transfer:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }
}

impl Transfer {
    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }
}

/// Makes so many connections that carry a little and end, some at a time.
pub(super) async fn small(way: &Way, count: usize) -> Result<()> {
    let mut under_way = JoinSet::new();
    for number in 0..count {
        if under_way.len() == SMALL_AT_A_TIME {
            under_way.join_next().await.context("none under way")???;
        }
        let (target, number) = (way.target(PORT), SMALL_FROM + u32::try_from(number)?);
        under_way.spawn(async move {
            let piece = at(start(number), SENT_BYTES);
            let bytes = [&number.to_be_bytes()[..], piece].concat();
            let answer = tcp_exchange(&target, &bytes, PATIENCE).await?;
            ensure!(answer == piece, "other bytes came back");
            Ok(())
        });
    }
    under_way.join_all().await.into_iter().collect()
}

async fn run(target: Target, transfer: Arc<Transfer>, finished: watch::Receiver<bool>) {
    let end = match target.connect_tcp().await {
        Ok(stream) => converse(stream, &transfer, finished).await,
        Err(_) => End::Broken,
    };
    // Set once, here.
    transfer.end.set(end).ok();
}

async fn converse(stream: TcpStream, transfer: &Transfer, finished: watch::Receiver<bool>) -> End {
    let (mut read, write) = stream.into_split();
    let sending = send(write, transfer, finished);
    let receiving = receive(&mut read, transfer);
    tokio::pin!(sending, receiving);
    tokio::select! {
        end = &mut receiving => end,
        // All is sent, or nothing more can be: what came before may still come back.
        _ = &mut sending => receiving.await,
    }
}

async fn send(
    mut stream: OwnedWriteHalf,
    transfer: &Transfer,
    finished: watch::Receiver<bool>,
) -> std::io::Result<()> {
    stream.write_u32(transfer.number.into()).await?;
    let mut ticks = tokio::time::interval(SENT_EVERY);
    while !*finished.borrow() {
        ticks.tick().await;
        let sent = transfer.sent.load(Ordering::Relaxed);
        // Noted first: what is being written may have arrived.
        transfer
            .sent
            .store(sent + SENT_BYTES as u64, Ordering::Relaxed);
        let piece = at(start(transfer.number.into()) + sent, SENT_BYTES);
        stream.write_all(piece).await?;
    }
    transfer.all_sent.store(true, Ordering::Relaxed);
    stream.shutdown().await
}

async fn receive(stream: &mut OwnedReadHalf, transfer: &Transfer) -> End {
    let mut buffer = vec![0; PIECE];
    loop {
        let count = match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => count,
            Err(_) => return End::Broken,
        };
        let acknowledged = transfer.acknowledged();
        if buffer[..count] != *at(start(transfer.number.into()) + acknowledged, count) {
            return End::Wrong;
        }
        let now = acknowledged + count as u64;
        transfer.acknowledged.store(now, Ordering::Relaxed);
    }
    // An end is the end only after ours, and after all of it.
    let all_back = transfer.sent.load(Ordering::Relaxed) == transfer.acknowledged();
    if all_back && transfer.all_sent.load(Ordering::Relaxed) {
        End::Whole
    } else {
        End::Broken
    }
}
