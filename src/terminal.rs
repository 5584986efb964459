//! The terminal: raw while the guest uses it, and as it was on every way out.

use std::os::fd::BorrowedFd;
use std::sync::Mutex;

use rustix::process::getpgrp;
use rustix::termios::{LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

/// How the terminal is used, from [`RawTerminal::enter`] to the end.
static USE: Mutex<Option<Use>> = Mutex::new(None);

struct Use {
    /// Ctrl-C and its like still act on Brolga.
    signals: bool,
    /// The settings before they were changed; `None` as long as the terminal has been another job's.
    before: Option<Termios>,
}

fn standard_input() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

/// Restores the terminal when it goes.
pub(crate) struct RawTerminal(());

impl RawTerminal {
    /// Passes every key to the guest at once. With `signals`, Ctrl-C and its like still act on Brolga. Does nothing where
    /// standard input is no terminal, and, for a job in the background, nothing before it comes to the foreground.
    pub(crate) fn enter(signals: bool) -> RawTerminal {
        if isatty(standard_input()) {
            *lock() = Some(Use { signals, before: None });
            set_raw();
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |information| {
                restore();
                hook(information);
            }));
        }
        RawTerminal(())
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back while the process is suspended, and takes it again when it goes on. Must be called on a
/// runtime; ends with it.
pub(crate) async fn follow_job_control() -> std::io::Result<()> {
    let mut suspended = signal(SignalKind::from_raw(libc::SIGTSTP))?;
    let mut continued = signal(SignalKind::from_raw(libc::SIGCONT))?;
    loop {
        tokio::select! {
            Some(()) = suspended.recv() => {
                suspend();
                set_raw();
            }
            // After SIGSTOP nobody gave the terminal back, but the shell may have.
            Some(()) = continued.recv() => set_raw(),
            else => return Ok(()),
        }
    }
}

fn lock() -> std::sync::MutexGuard<'static, Option<Use>> {
    USE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whether the terminal is ours to change. A job in the background would be stopped by the attempt.
fn in_foreground() -> bool {
    // A terminal that is not the controlling one knows no jobs.
    tcgetpgrp(standard_input()).map_or(true, |group| group == getpgrp())
}

fn set_raw() {
    let input = standard_input();
    let mut used = lock();
    let Some(used) = used.as_mut().filter(|_| in_foreground()) else { return };
    if used.before.is_none() {
        used.before = tcgetattr(input).ok();
    }
    let Some(before) = &used.before else { return };
    let mut raw = before.clone();
    raw.make_raw();
    // Output is left as it was: our own messages have bare line feeds.
    raw.output_modes = before.output_modes;
    if used.signals {
        raw.local_modes |= LocalModes::ISIG;
    }
    // A terminal that has gone needs no settings.
    let _ = tcsetattr(input, OptionalActions::Now, &raw);
}

fn set_as_before(used: &Use) {
    if let Some(before) = used.before.as_ref().filter(|_| in_foreground()) {
        // There is nobody left to tell.
        let _ = tcsetattr(standard_input(), OptionalActions::Now, before);
    }
}

/// Stops the process as SIGTSTP does by default; returns when it goes on.
fn suspend() {
    if let Some(used) = &*lock() {
        set_as_before(used);
    }
    // SAFETY: all zero is a valid `sigaction`: the default action, no flags, an empty mask. Both pointers are to
    // structures of this frame. The signal is raised on this thread, so it has acted before `raise` returns.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        let mut ours: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGTSTP, &raw const default, &raw mut ours) == 0 {
            libc::raise(libc::SIGTSTP);
            libc::sigaction(libc::SIGTSTP, &raw const ours, std::ptr::null_mut());
        }
    }
}

fn restore() {
    if let Some(used) = lock().take() {
        set_as_before(&used);
    }
}

#[cfg(test)]
#[path = "../tests/support/terminal.rs"]
#[allow(dead_code)]
mod on_a_terminal;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::Command;

    use super::on_a_terminal::Session;
    use super::*;

    const PROGRAM: &str = "terminal::tests::a_thread_panics_while_the_terminal_is_raw";

    /// The program of the test below, which starts it on a terminal; nothing by itself.
    #[test]
    fn a_thread_panics_while_the_terminal_is_raw() {
        if std::env::var_os("BROLGA_TEST_TERMINAL").is_none() {
            return;
        }
        let _raw = RawTerminal::enter(false);
        let mut key = [0];
        std::io::stdin().read_exact(&mut key).unwrap();
        assert!(std::thread::spawn(|| panic!("as it happens")).join().is_err());
        println!("still here");
        std::io::stdout().flush().unwrap();
        std::io::stdin().read_exact(&mut key).unwrap();
        // Nothing is dropped.
        std::process::exit(3);
    }

    #[test]
    fn a_panic_restores_it() {
        let mut program = Command::new(std::env::current_exe().unwrap());
        program.args(["--exact", PROGRAM, "--nocapture"]).env("BROLGA_TEST_TERMINAL", "yes");
        let mut session = Session::start(&mut program);
        session.wait_raw(false);
        session.press(b"k");
        session.wait_for("as it happens");
        session.wait_for("still here");
        assert!(session.is_as_before());
        session.press(b"\n");
        assert_eq!(session.wait_for_end().0, Some(3));
        assert!(session.is_as_before());
    }
}
