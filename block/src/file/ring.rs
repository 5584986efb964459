//! Requests by io_uring.
//!
//! Who makes a request enters the kernel once and often finds the answer there at once: what is in the host's cache is copied meanwhile.
//! Only for what takes longer a thread waits, and wakes who asked. The kernel takes requests of one ring one after the other, so there are
//! several, and each thread stays with one.

use std::fs::File;
use std::future::Future;
use std::io;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use io_uring::{IoUring, opcode, types};
use parking_lot::{Condvar, Mutex, MutexGuard};
use smallvec::SmallVec;

use super::{Transfer, number, pool};
use crate::IoVector;

/// Entries of the submission queue; requests are submitted one by one.
const ENTRIES: u32 = 256;
/// Most rings.
const MOST_RINGS: usize = 8;
/// Most requests of a ring under way, so that the completion queue has room for all.
const MOST_UNDER_WAY: usize = 4096;

/// A ring, and the thread that waits at it.
pub(super) struct Ring {
    ring: IoUring,
    // Lock order: alone. It also guards both queues of `ring`.
    requests: Mutex<Requests>,
    /// There is something to wait for.
    under_way: Condvar,
    /// The thread that waits was started.
    waiter: OnceLock<()>,
}

#[derive(Default)]
struct Requests {
    /// By their number in the ring.
    slots: Vec<Option<Request>>,
    free: Vec<usize>,
}

/// A request that the kernel has. It keeps what the kernel works with.
struct Request {
    _file: Arc<File>,
    _memory: IoVector,
    _pieces: SmallVec<[libc::iovec; 1]>,
    state: Arc<Mutex<State>>,
}

// SAFETY: the pieces point into `_memory`, which any thread may have.
unsafe impl Send for Request {}

#[derive(Default)]
enum State {
    #[default]
    Submitted,
    Awaited(Waker),
    Done(i32),
}

impl Ring {
    /// This thread's ring, if the kernel offers one.
    pub(super) fn get() -> io::Result<&'static Ring> {
        static RINGS: [OnceLock<Result<Ring, i32>>; MOST_RINGS] = [const { OnceLock::new() }; MOST_RINGS];
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static OWN: usize = {
                // Not asked more often: it looks into files.
                let count = std::thread::available_parallelism().map_or(1, NonZero::get).min(MOST_RINGS);
                NEXT.fetch_add(1, Ordering::Relaxed) % count
            };
        }
        // A thread that is about to end has none of its own any more.
        let own = OWN.try_with(|own| *own).unwrap_or(0);
        let made = RINGS[own].get_or_init(|| Ring::new().map_err(|error| error.raw_os_error().unwrap_or(libc::ENOSYS)));
        let ring = made.as_ref().map_err(|error| io::Error::from_raw_os_error(*error))?;
        ring.waiter.get_or_init(|| {
            let waiter = std::thread::Builder::new().name("io_uring".into()).spawn(|| ring.wait());
            if let Err(error) = waiter {
                tracing::error!("no thread can be started to wait for disks: {error}");
            }
        });
        Ok(ring)
    }

    fn new() -> io::Result<Ring> {
        let ring = IoUring::builder().setup_cqsize(MOST_UNDER_WAY as u32).build(ENTRIES)?;
        Ok(Ring { ring, requests: Mutex::default(), under_way: Condvar::new(), waiter: OnceLock::new() })
    }

    /// Moves as much of `memory` as the host does at once; returns how many bytes.
    pub(super) async fn transfer(
        &'static self,
        file: &Arc<File>,
        transfer: Transfer,
        offset: u64,
        memory: IoVector,
    ) -> io::Result<usize> {
        let answer = match self.submit(file, transfer, offset, memory.clone()) {
            Some(Answer::Now(answer)) => answer,
            Some(Answer::Later(waiting)) => waiting.await,
            None => return pool::transfer(file, transfer, offset, memory).await,
        };
        match usize::try_from(answer) {
            Ok(moved) => Ok(moved),
            // The kernel gives requests up whose thread ends.
            Err(_) if matches!(-answer, libc::ECANCELED | libc::EAGAIN) => {
                pool::transfer(file, transfer, offset, memory).await
            }
            Err(_) => Err(io::Error::from_raw_os_error(-answer)),
        }
    }

    /// Gives the kernel a request; `None` if it takes no more.
    fn submit(&'static self, file: &Arc<File>, transfer: Transfer, offset: u64, memory: IoVector) -> Option<Answer> {
        let pieces = memory.as_iovecs(pool::MOST_PIECES);
        let (descriptor, first, count) = (types::Fd(number(file)), pieces.as_ptr(), pieces.len() as u32);
        let mut requests = self.requests.lock();
        let slot = match requests.free.pop() {
            Some(slot) => slot,
            None if requests.slots.len() >= MOST_UNDER_WAY => return None,
            None => {
                requests.slots.push(None);
                requests.slots.len() - 1
            }
        };
        let state = Arc::new(Mutex::new(State::Submitted));
        // Pieces on the heap stay where they are when this moves; a single one does not, and goes by its own address.
        let single = (count == 1).then(|| pieces[0]);
        let entry = match (single, transfer) {
            (Some(piece), Transfer::Read) => {
                opcode::Read::new(descriptor, piece.iov_base.cast(), length(&piece)).offset(offset).build()
            }
            (Some(piece), Transfer::Write) => {
                opcode::Write::new(descriptor, piece.iov_base.cast(), length(&piece)).offset(offset).build()
            }
            (None, Transfer::Read) => opcode::Readv::new(descriptor, first, count).offset(offset).build(),
            (None, Transfer::Write) => opcode::Writev::new(descriptor, first, count).offset(offset).build(),
        };
        requests.slots[slot] =
            Some(Request { _file: file.clone(), _memory: memory, _pieces: pieces, state: state.clone() });
        // SAFETY: the lock is held, so nobody else uses the queue; file, memory and pieces are kept in the slot until the answer.
        let pushed = unsafe { self.ring.submission_shared().push(&entry.user_data(slot as u64)) };
        if pushed.is_err() {
            // The kernel has not taken what was submitted before.
            requests.slots[slot] = None;
            requests.free.push(slot);
            return None;
        }
        self.enter();
        self.collect(&mut requests);
        let answer = match &*state.lock() {
            State::Done(answer) => Some(*answer),
            _ => None,
        };
        if let Some(answer) = answer {
            return Some(Answer::Now(answer));
        }
        self.under_way.notify_one();
        Some(Answer::Later(Waiting { state }))
    }

    /// Tells the kernel of what is in the submission queue; false if it takes nothing now. Then that stays there, for who waits to
    /// submit.
    fn enter(&self) -> bool {
        while let Err(error) = self.ring.submit() {
            if error.kind() != io::ErrorKind::Interrupted {
                return false;
            }
        }
        true
    }

    /// Takes the answers that are there.
    fn collect(&self, requests: &mut MutexGuard<'_, Requests>) {
        // SAFETY: the lock is held, so nobody else uses the queue.
        let answers = unsafe { self.ring.completion_shared() };
        for answer in answers {
            let slot = answer.user_data() as usize;
            let Some(request) = requests.slots.get_mut(slot).and_then(Option::take) else { continue };
            requests.free.push(slot);
            let before = std::mem::replace(&mut *request.state.lock(), State::Done(answer.result()));
            if let State::Awaited(waker) = before {
                waker.wake();
            }
        }
    }

    /// Waits for answers, for ever.
    fn wait(&self) {
        loop {
            let mut requests = self.requests.lock();
            self.collect(&mut requests);
            if requests.free.len() == requests.slots.len() {
                self.under_way.wait(&mut requests);
                continue;
            }
            // SAFETY: the lock is held, so nobody else uses the queue.
            let is_submitted = unsafe { self.ring.submission_shared().is_empty() };
            let is_submitted = is_submitted || self.enter();
            drop(requests);
            if !is_submitted {
                // For a lack of memory, say. There may be no other answer to come, so it is not waited for.
                std::thread::sleep(std::time::Duration::from_millis(1));
                continue;
            }
            // SAFETY: nothing is submitted, and there is no argument.
            let waited = unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 1, GET_EVENTS, None) };
            if let Err(error) = waited
                && !matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ResourceBusy)
            {
                tracing::error!("cannot wait for disks: {error}");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    }
}

/// `IORING_ENTER_GETEVENTS`.
const GET_EVENTS: u32 = 1;

fn length(piece: &libc::iovec) -> u32 {
    // The host moves less than that at once anyway.
    piece.iov_len.min(1 << 30) as u32
}

enum Answer {
    Now(i32),
    Later(Waiting),
}

/// An answer that is not there yet.
struct Waiting {
    state: Arc<Mutex<State>>,
}

impl Future for Waiting {
    type Output = i32;
    fn poll(self: Pin<&mut Self>, context: &mut Context) -> Poll<i32> {
        let mut state = self.state.lock();
        match &*state {
            State::Done(answer) => Poll::Ready(*answer),
            _ => {
                *state = State::Awaited(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
