//! The thread of one vCPU.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use accel::{Exit, IoBus, Vcpu, VcpuHandle};
use parking_lot::{Condvar, Mutex, MutexGuard};

/// Something to be done by the vCPU's thread between two instructions.
type Request = Box<dyn FnOnce(&mut dyn Vcpu) + Send>;

/// What the thread should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Paused,
    Running,
    Ended,
}

struct Mailbox {
    requests: VecDeque<Request>,
    wanted: Wanted,
    /// The vCPU must not run until somebody has dealt with why.
    parked: bool,
    /// The vCPU is inside [`Vcpu::run`].
    in_run: bool,
    /// The thread is gone.
    gone: bool,
}

/// A vCPU and the thread that runs it. Its methods may be called from any other thread.
pub(super) struct VcpuThread {
    index: u32,
    handle: Arc<dyn VcpuHandle>,
    thread_id: i32,
    shared: Arc<Shared>,
}

struct Shared {
    // Lock order: alone; neither a request nor the guest runs while it is held.
    mailbox: Mutex<Mailbox>,
    changed: Condvar,
}

impl VcpuThread {
    /// Starts the thread of vCPU `index`, paused. `exited` is called on it whenever [`Vcpu::run`] returned for another
    /// reason than a kick; the vCPU is parked then.
    pub(super) fn start(
        index: u32,
        vcpu: Box<dyn Vcpu>,
        bus: Arc<dyn IoBus>,
        exited: impl Fn(u32, Exit) + Send + 'static,
    ) -> std::io::Result<VcpuThread> {
        let mailbox =
            Mailbox { requests: VecDeque::new(), wanted: Wanted::Paused, parked: false, in_run: false, gone: false };
        let shared = Arc::new(Shared { mailbox: Mutex::new(mailbox), changed: Condvar::new() });
        let handle = vcpu.handle();
        let (sender, receiver) = mpsc::channel();
        let thread = shared.clone();
        std::thread::Builder::new().name(format!("vcpu {index}")).spawn(move || {
            let id = rustix::thread::gettid().as_raw_nonzero().get();
            let _guard = AbortOnPanic;
            // The other side waits for it.
            let _ = sender.send(id);
            thread.serve(index, vcpu, &*bus, exited);
        })?;
        let thread_id = receiver.recv().map_err(std::io::Error::other)?;
        Ok(VcpuThread { index, handle, thread_id, shared })
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }

    pub(super) fn handle(&self) -> &Arc<dyn VcpuHandle> {
        &self.handle
    }

    /// The host's id of the thread.
    pub(super) fn thread_id(&self) -> i32 {
        self.thread_id
    }

    /// Lets the vCPU run.
    pub(super) fn resume(&self) {
        let mut mailbox = self.shared.mailbox.lock();
        if mailbox.wanted != Wanted::Ended {
            mailbox.wanted = Wanted::Running;
        }
        mailbox.parked = false;
        self.shared.changed.notify_all();
    }

    /// Makes the vCPU leave the guest soon; [`VcpuThread::wait_paused`] waits for it.
    pub(super) fn pause(&self) {
        let mut mailbox = self.shared.mailbox.lock();
        if mailbox.wanted != Wanted::Ended {
            mailbox.wanted = Wanted::Paused;
        }
        drop(mailbox);
        self.handle.kick();
    }

    /// Makes the vCPU leave the guest soon and stay out until the next [`VcpuThread::resume`].
    pub(super) fn park(&self) {
        self.shared.mailbox.lock().parked = true;
        self.handle.kick();
    }

    /// Waits until the vCPU is out of the guest, after [`VcpuThread::pause`] or [`VcpuThread::end`]; false if it is not
    /// by `deadline`.
    pub(super) fn wait_paused(&self, deadline: Option<Instant>) -> bool {
        let mut mailbox = self.shared.mailbox.lock();
        while mailbox.in_run {
            match deadline {
                None => self.shared.changed.wait(&mut mailbox),
                Some(deadline) => {
                    if self.shared.changed.wait_until(&mut mailbox, deadline).timed_out() {
                        return !mailbox.in_run;
                    }
                }
            }
        }
        true
    }

    /// Ends the thread soon. Requests that wait are dropped.
    pub(super) fn end(&self) {
        self.shared.mailbox.lock().wanted = Wanted::Ended;
        self.shared.changed.notify_all();
        self.handle.kick();
    }

    /// Waits until the thread is gone, at most `limit`.
    pub(super) fn wait_gone(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut mailbox = self.shared.mailbox.lock();
        while !mailbox.gone {
            if self.shared.changed.wait_until(&mut mailbox, deadline).timed_out() {
                return mailbox.gone;
            }
        }
        true
    }

    /// Has `action` done by the vCPU's thread, between two instructions, and waits for its result. `None` if the
    /// thread ended. Must not be called on that thread.
    pub(super) fn call<R: Send + 'static>(
        &self,
        action: impl FnOnce(&mut dyn Vcpu) -> R + Send + 'static,
    ) -> Option<R> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let request: Request = Box::new(move |vcpu| {
            // Who asked may have gone.
            let _ = sender.send(action(vcpu));
        });
        {
            let mut mailbox = self.shared.mailbox.lock();
            if mailbox.wanted == Wanted::Ended {
                return None;
            }
            mailbox.requests.push_back(request);
            self.shared.changed.notify_all();
        }
        self.handle.kick();
        receiver.recv().ok()
    }
}

/// Ends the program when the thread that holds it panics: every command to the machine would wait for its processor forever.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

impl Shared {
    fn serve(&self, index: u32, mut vcpu: Box<dyn Vcpu>, bus: &dyn IoBus, exited: impl Fn(u32, Exit)) {
        let mut mailbox = self.mailbox.lock();
        loop {
            if mailbox.wanted == Wanted::Ended {
                break;
            }
            if let Some(request) = mailbox.requests.pop_front() {
                MutexGuard::unlocked(&mut mailbox, || request(&mut *vcpu));
                continue;
            }
            if mailbox.wanted == Wanted::Paused || mailbox.parked {
                self.changed.wait(&mut mailbox);
                continue;
            }
            mailbox.in_run = true;
            let exit = MutexGuard::unlocked(&mut mailbox, || vcpu.run(bus));
            mailbox.in_run = false;
            if exit != Exit::Kicked {
                mailbox.parked = true;
            }
            self.changed.notify_all();
            if exit != Exit::Kicked {
                MutexGuard::unlocked(&mut mailbox, || exited(index, exit));
            }
        }
        mailbox.requests.clear();
        // What it keeps beyond its life is written before the program may end.
        MutexGuard::unlocked(&mut mailbox, || drop(vcpu));
        mailbox.gone = true;
        self.changed.notify_all();
    }
}
