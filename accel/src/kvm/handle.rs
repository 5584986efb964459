//! What other threads do to a vCPU, and how they get its thread out of the kernel.
//!
//! A request is written down under a lock, then the vCPU's thread is made to notice it: `immediate_exit` makes a
//! `KVM_RUN` that is about to begin return at once, a signal interrupts one that began, and a condition variable ends
//! a wait in software. The thread reads the requests before each entry, so none is lost.

use std::sync::OnceLock;

use parking_lot::{Condvar, Mutex};

use super::blocking::BlockingStatistic;
use super::run_page::RunPage;
use crate::{Error, VcpuHandle};

/// The part of a vCPU that other threads may touch.
pub(super) struct Handle {
    page: RunPage,
    // Lock order: alone.
    requests: Mutex<Requests>,
    changed: Condvar,
    /// Tells whether KVM holds the vCPU blocked, where it does that itself.
    blocking: Option<BlockingStatistic>,
}

#[derive(Default)]
struct Requests {
    kicked: bool,
    nmi: bool,
    /// Level of INTR.
    interrupt: bool,
    /// The thread inside [`crate::Vcpu::run`].
    thread: Option<libc::pthread_t>,
    /// It waits in software.
    halted: bool,
}

/// What was requested when the vCPU's thread looked.
pub(super) struct Pending {
    pub(super) nmi: bool,
    pub(super) interrupt: bool,
}

/// What ended a wait in software.
#[derive(PartialEq, Eq)]
pub(super) enum Wake {
    Kick,
    Event,
}

/// The vCPU's thread is inside `run` while this lives.
pub(super) struct Inside<'a>(&'a Handle);

impl Handle {
    pub(super) fn new(page: RunPage, blocking: Option<BlockingStatistic>) -> Handle {
        Handle { page, requests: Mutex::default(), changed: Condvar::new(), blocking }
    }

    pub(super) fn page(&self) -> &RunPage {
        &self.page
    }

    /// Marks the calling thread as the one inside `run`.
    pub(super) fn enter(&self) -> Inside<'_> {
        // SAFETY: no preconditions.
        self.requests.lock().thread = Some(unsafe { libc::pthread_self() });
        Inside(self)
    }

    /// Reads and takes the requests, just before an entry; makes that entry return at once if there is a kick.
    pub(super) fn take(&self) -> Pending {
        let mut requests = self.requests.lock();
        self.page.set_immediate_exit(requests.kicked);
        Pending { nmi: std::mem::take(&mut requests.nmi), interrupt: requests.interrupt }
    }

    /// Takes a requested non-maskable interrupt.
    pub(super) fn take_nmi(&self) -> bool {
        std::mem::take(&mut self.requests.lock().nmi)
    }

    /// Level of INTR.
    pub(super) fn interrupt(&self) -> bool {
        self.requests.lock().interrupt
    }

    /// Takes the kick that made `KVM_RUN` return; false where something else did.
    pub(super) fn take_kick(&self) -> bool {
        std::mem::take(&mut self.requests.lock().kicked)
    }

    /// Waits in software: for a kick and, of a `halted` processor, for an NMI or, with `interrupts` on, for INTR.
    pub(super) fn wait(&self, halted: bool, interrupts: bool) -> Wake {
        let mut requests = self.requests.lock();
        let wake = loop {
            if std::mem::take(&mut requests.kicked) {
                break Wake::Kick;
            }
            if halted && (requests.nmi || interrupts && requests.interrupt) {
                break Wake::Event;
            }
            requests.halted = true;
            self.changed.wait(&mut requests);
        };
        requests.halted = false;
        wake
    }

    /// Changes the requests, then makes the vCPU's thread look at them.
    fn request(&self, change: impl FnOnce(&mut Requests)) {
        let mut requests = self.requests.lock();
        change(&mut requests);
        self.page.set_immediate_exit(true);
        self.changed.notify_all();
        let Some(thread) = requests.thread else { return };
        // SAFETY: no preconditions.
        if unsafe { libc::pthread_equal(thread, libc::pthread_self()) } == 0 {
            // SAFETY: the thread is inside `run` and cannot leave it, let alone end, while the lock is held. The
            // handler of that signal was installed before any vCPU existed.
            unsafe { libc::pthread_kill(thread, kick_signal()) };
        }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.requests.lock().thread = None;
    }
}

impl VcpuHandle for Handle {
    fn kick(&self) {
        self.request(|requests| requests.kicked = true);
    }

    fn set_interrupt(&self, input: u32, level: bool) {
        if input != 0 {
            return;
        }
        if level {
            self.request(|requests| requests.interrupt = true);
        } else {
            self.requests.lock().interrupt = false;
        }
    }

    fn inject_nmi(&self) -> Result<(), Error> {
        self.request(|requests| requests.nmi = true);
        Ok(())
    }

    fn is_halted(&self) -> bool {
        let requests = self.requests.lock();
        let in_kernel = || self.blocking.as_ref().is_some_and(BlockingStatistic::is_blocking);
        requests.halted || requests.thread.is_some() && in_kernel()
    }
}

/// The signal that interrupts `KVM_RUN`.
fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// Installs the handler of the kick signal, once in the life of the process.
///
/// The signal only has to interrupt the system call: its handler does nothing, and is installed without `SA_RESTART`.
pub(super) fn install_kick_signal() -> Result<(), Error> {
    extern "C" fn ignore(_signal: libc::c_int) {}
    static INSTALLED: OnceLock<Option<i32>> = OnceLock::new();
    let failure = INSTALLED.get_or_init(|| {
        // SAFETY: all-zero bytes are a valid `sigaction`: no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as usize;
        // SAFETY: `action` is valid and the handler is async-signal-safe, as it does nothing.
        let result = unsafe { libc::sigaction(kick_signal(), &action, std::ptr::null_mut()) };
        (result != 0).then(|| std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL))
    });
    match failure {
        None => Ok(()),
        Some(code) => Err(Error::Host { call: "sigaction", source: std::io::Error::from_raw_os_error(*code) }),
    }
}

/// Lets the kick signal through to the calling thread, which may have inherited a mask that blocks it.
pub(super) fn unblock_kick_signal() {
    // SAFETY: `set` is initialised by `sigemptyset` before any other use; the old mask is not asked for.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, kick_signal());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
    }
}
