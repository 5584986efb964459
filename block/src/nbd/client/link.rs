//! The connection to a server, and those that follow when it is lost.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::sync::{Semaphore, mpsc};

use super::ClientOptions;
use super::handshake::{Agreed, Terms, negotiate, violation};
use super::job::{Job, Order};
use super::replies::Table;
use crate::IoVector;
use crate::nbd::wire::*;
use crate::nbd::{Failure, stream};

/// Most requests under way on a connection; more wait.
const MOST_REQUESTS: usize = 64;
/// How long connecting and the handshake may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// How long the end of a connection may wait for the server.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long to wait before connecting once more: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Bytes that are read ahead: many replies without data.
const READ_AHEAD: usize = 16 << 10;

/// Connects to the server and agrees with it on the use of the export.
pub(super) async fn connect(options: &ClientOptions) -> io::Result<Agreed> {
    let connected = async {
        let stream = stream::connect(&options.target.address).await?;
        negotiate(stream, &options.target.export, options.tls.as_ref()).await
    };
    match tokio::time::timeout(CONNECT_LIMIT, connected).await {
        Ok(connected) => connected,
        Err(_) => {
            let text = format!("the server has not finished the handshake within {} s", CONNECT_LIMIT.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        }
    }
}

/// Tries until it succeeds, with longer and longer pauses: `pause` is the next. `why` is why the last attempt failed.
pub(super) async fn connect_patiently(
    options: &ClientOptions,
    pause: &mut Duration,
    why: &mut Option<io::Error>,
    is_usable: impl Fn(&Terms) -> io::Result<()>,
) -> Agreed {
    loop {
        match connect(options).await.and_then(|agreed| is_usable(&agreed.terms).map(|()| agreed)) {
            Ok(agreed) => return agreed,
            Err(error) => {
                tracing::debug!("{} cannot be reached: {error}", options.target);
                *why = Some(error);
            }
        }
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(PAUSES.1);
    }
}

/// The first pause between two attempts.
pub(super) fn first_pause() -> Duration {
    PAUSES.0
}

/// How a connection ended.
enum End {
    /// Nobody needs it any more.
    Left,
    /// It broke.
    Lost(io::Error),
}

/// Serves the requests of a client until it leaves, over as many connections as that takes.
pub(super) async fn run(options: ClientOptions, mut agreed: Agreed, mut orders: mpsc::Receiver<Order>) {
    let first = agreed.terms;
    let is_usable = |terms: &Terms| {
        // The numbers of contexts may change.
        let is_same = Terms { allocation: first.allocation, ..*terms } == first
            && terms.allocation.is_some() == first.allocation.is_some();
        if is_same {
            Ok(())
        } else {
            Err(violation(format!("the export is not what it was: {terms:?}, not {first:?}")))
        }
    };
    let mut waiting = VecDeque::new();
    let mut pause = first_pause();
    loop {
        let (end, has_replied) = serve(agreed, &mut orders, &mut waiting).await;
        let lost = match end {
            End::Left => return,
            End::Lost(error) => error,
        };
        tracing::warn!("the connection to {} is lost: {lost}", options.target);
        let outage = Outage { reason: crate::host_words(&lost), delay: options.reconnect_delay };
        let again = async {
            if has_replied {
                pause = first_pause();
            } else {
                // A server that breaks each connection is not asked without end.
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
            connect_patiently(&options, &mut pause, &mut None, is_usable).await
        };
        match outage.wait(again, &mut orders, &mut waiting).await {
            Some(connected) => agreed = connected,
            None => return,
        }
    }
}

/// A time without a connection.
struct Outage {
    reason: String,
    /// How long requests wait for the next.
    delay: Duration,
}

impl Outage {
    fn fail(&self, job: Job) {
        job.end(Err(Failure::new(libc::EIO, format!("the connection was lost: {}", self.reason))));
    }

    /// Waits for a new connection; `None`: nobody needs it any more.
    async fn wait(
        &self,
        again: impl Future<Output = Agreed>,
        orders: &mut mpsc::Receiver<Order>,
        waiting: &mut VecDeque<Job>,
    ) -> Option<Agreed> {
        let now = Instant::now();
        let mut may_wait = !self.delay.is_zero();
        for mut job in std::mem::take(waiting) {
            if may_wait && *job.deadline.get_or_insert(now + self.delay) > now {
                waiting.push_back(job);
            } else {
                self.fail(job);
            }
        }
        let (mut again, mut over) = (pin!(again), pin!(tokio::time::sleep(self.delay)));
        loop {
            tokio::select! {
                biased;
                () = &mut over, if may_wait => {
                    may_wait = false;
                    waiting.drain(..).for_each(|job| self.fail(job));
                }
                agreed = &mut again => return Some(agreed),
                order = orders.recv() => match order {
                    Some(Order::Job(job)) if may_wait => {
                        // Those that nobody waits for make room.
                        waiting.retain(|job| !job.is_given_up());
                        waiting.push_back(job);
                    }
                    Some(Order::Job(job)) => self.fail(job),
                    Some(Order::Leave(_)) | None => return None,
                },
            }
        }
    }
}

/// Serves requests over one connection. Those without a reply are in `waiting` afterwards. True: there were replies.
async fn serve(agreed: Agreed, orders: &mut mpsc::Receiver<Order>, waiting: &mut VecDeque<Job>) -> (End, bool) {
    let Agreed { stream, terms } = agreed;
    let (reader, mut writer) = tokio::io::split(stream);
    let table = Table::default();
    let mut has_replied = false;
    let reading = async {
        let mut reader = BufReader::with_capacity(READ_AHEAD, reader);
        loop {
            if let Err(error) = table.take(&mut reader, &terms).await {
                return End::Lost(error);
            }
            has_replied = true;
        }
    };
    let writing = async {
        let places = Arc::new(Semaphore::new(MOST_REQUESTS));
        let mut cookie = 0;
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return End::Left };
            let job = match waiting.pop_front() {
                Some(job) => job,
                None => match orders.recv().await {
                    Some(Order::Job(job)) => job,
                    leave @ (Some(Order::Leave(_)) | None) => {
                        farewell(&mut writer, &terms).await;
                        drop(leave);
                        return End::Left;
                    }
                },
            };
            if job.is_given_up() {
                continue;
            }
            cookie += 1;
            let Job { command, offset, length, .. } = job;
            let header = RequestHeader { flags: job.flags.bits(), command, cookie, offset, length };
            let data = if command == NBD_CMD_WRITE { job.memory.clone() } else { IoVector::empty() };
            // The reply may come before all is sent.
            table.insert(cookie, job, place);
            let mut head = Vec::new();
            header.encode(terms.headers, &mut head);
            if let Err(error) = stream::send(&mut writer, &head, &data).await {
                return End::Lost(error);
            }
        }
    };
    let end = tokio::select! {
        end = reading => end,
        end = writing => end,
    };
    // In the order in which they came: those that were sent come first.
    for job in table.into_jobs().collect::<Vec<_>>().into_iter().rev() {
        waiting.push_front(job);
    }
    (end, has_replied)
}

/// Tells the server that we go.
async fn farewell(writer: &mut (impl tokio::io::AsyncWrite + Unpin), terms: &Terms) {
    let mut head = Vec::new();
    let header = RequestHeader { flags: 0, command: NBD_CMD_DISC, cookie: 0, offset: 0, length: 0 };
    header.encode(terms.headers, &mut head);
    let sent = async {
        stream::send(writer, &head, &IoVector::empty()).await?;
        writer.shutdown().await
    };
    // The server sees it also where this fails.
    let _ = tokio::time::timeout(FAREWELL, sent).await;
}
