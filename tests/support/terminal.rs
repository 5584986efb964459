//! A program on a terminal of its own, as the leader of a session.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, ioctl_tiocsctty, kill_process, setsid};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

/// Longer than anything takes on a slow and busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// What a program does to a terminal is visible within this.
const PAUSE: Duration = Duration::from_millis(10);

/// The program and its terminal; it is ended when dropped.
pub(crate) struct Session {
    child: Child,
    /// Our end; `None` once the terminal has gone.
    keyboard: Option<File>,
    /// The program's end.
    terminal: File,
    /// The settings that the terminal had when the program was started.
    before: Termios,
    seen: String,
}

impl Session {
    /// Starts `command` with a new terminal as its standard input, output and error.
    pub(crate) fn start(command: &mut Command) -> Session {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap().into_string().unwrap();
        let no_control = OpenptFlags::NOCTTY.bits().cast_signed();
        let terminal = File::options().read(true).write(true).custom_flags(no_control).open(name).unwrap();
        // Not what a new terminal has, to see that these very settings come back.
        let mut before = tcgetattr(&terminal).unwrap();
        before.special_codes[SpecialCodeIndex::VKILL] = b'K';
        before.local_modes.remove(LocalModes::ECHOK);
        tcsetattr(&terminal, OptionalActions::Now, &before).unwrap();
        let before = tcgetattr(&terminal).unwrap();
        let end = || terminal.try_clone().unwrap();
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: the closure makes system calls only; it neither allocates nor touches what other threads share.
        unsafe {
            command.pre_exec(|| {
                setsid()?;
                ioctl_tiocsctty(rustix::stdio::stdin())?;
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        Session { child, keyboard: Some(OwnedFd::into(keyboard)), terminal, before, seen: String::new() }
    }

    fn settings(&self) -> Termios {
        tcgetattr(&self.terminal).unwrap()
    }

    /// Waits until the terminal is raw; whether keys still send signals must be as `signals` says.
    pub(crate) fn wait_raw(&self, signals: bool) {
        let deadline = Instant::now() + LIMIT;
        let cooked = LocalModes::ICANON | LocalModes::ECHO;
        while self.settings().local_modes.intersects(cooked) {
            assert!(Instant::now() < deadline, "the terminal never became raw: {:?}", self.settings());
            std::thread::sleep(PAUSE);
        }
        let settings = self.settings();
        assert_eq!(settings.local_modes.contains(LocalModes::ISIG), signals, "{settings:?}");
        assert_eq!(settings.output_modes, self.before.output_modes, "{settings:?}");
    }

    /// Whether the terminal is as it was before the program was started.
    pub(crate) fn is_as_before(&self) -> bool {
        format!("{:?}", self.settings()) == format!("{:?}", self.before)
    }

    /// Waits until the terminal is as it was before the program was started.
    pub(crate) fn wait_as_before(&self) {
        let deadline = Instant::now() + LIMIT;
        while !self.is_as_before() {
            assert!(Instant::now() < deadline, "{:?} became {:?}", self.before, self.settings());
            std::thread::sleep(PAUSE);
        }
    }

    /// Presses keys.
    pub(crate) fn press(&mut self, keys: &[u8]) {
        self.keyboard.as_mut().unwrap().write_all(keys).unwrap();
    }

    /// Closes the terminal's window, so to speak.
    pub(crate) fn hang_up(&mut self) {
        self.keyboard = None;
    }

    /// Sends a signal to the program.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Reads what comes within a moment; false if nothing came.
    fn read(&mut self) -> bool {
        let Some(screen) = &mut self.keyboard else { return false };
        let moment = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        if poll(&mut [PollFd::new(screen, PollFlags::IN)], Some(&moment)) != Ok(1) {
            return false;
        }
        let mut buffer = [0; 4096];
        let count = screen.read(&mut buffer).unwrap();
        self.seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        true
    }

    /// Waits for `text` on the screen, and forgets everything up to it.
    pub(crate) fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(place) = self.seen.find(text) {
                self.seen.drain(..place + text.len());
                return;
            }
            let ended = self.child.try_wait().unwrap();
            if !self.read() {
                assert!(ended.is_none(), "{ended:?} before {text:?}: {}", self.seen);
                assert!(Instant::now() < deadline, "{text:?} did not come: {}", self.seen);
            }
        }
    }

    /// Waits for the program to end by itself; gives its status and what it wrote since [`Session::wait_for`].
    pub(crate) fn wait_for_end(&mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let ended = self.child.try_wait().unwrap();
            let more = self.read();
            if let (Some(status), false) = (ended, more) {
                return (status.code(), std::mem::take(&mut self.seen));
            }
            assert!(Instant::now() < deadline, "the program did not end: {}", self.seen);
            if !more {
                std::thread::sleep(PAUSE);
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
