//! The process itself: going to the background, the pid file, and signals.

use std::io::{Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hw::vm::{Cause, Vm};
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::command_line::Invalid;

/// The way to tell the waiting parent that the machine is set up. It is not closed when this is dropped but when the process
/// ends: so the parent outlives whatever a child that fails has to say and to clean up.
pub(crate) struct Background(ManuallyDrop<std::fs::File>);

/// Forks; the parent waits until [`Background::ready`] and ends with status 0, or with 1 if the child ended before. Only the
/// child returns. Must be called before there are threads.
pub(crate) fn daemonize() -> Result<Background, Invalid> {
    let failed = |call: &str| Invalid::new(format!("-daemonize: {call} failed: {}", std::io::Error::last_os_error()));
    let mut ends = [0; 2];
    // SAFETY: the array has room for the two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(failed("pipe"));
    }
    // SAFETY: both were just created and have no other owner.
    let (reader, writer) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    // SAFETY: there are no other threads yet, so the child may go on as usual.
    match unsafe { libc::fork() } {
        -1 => Err(failed("fork")),
        0 => {
            drop(reader);
            // SAFETY: no memory is involved. It cannot fail in a process that was just forked.
            unsafe { libc::setsid() };
            Ok(Background(ManuallyDrop::new(writer.into())))
        }
        child => {
            drop(writer);
            let mut byte = [0];
            if std::fs::File::from(reader).read_exact(&mut byte).is_ok() {
                std::process::exit(0);
            }
            let mut status = 0;
            // SAFETY: the child is ours, and `status` is there for its status.
            let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
            let status = std::process::ExitStatus::from_raw(status);
            // Otherwise it has said itself why it ended.
            if waited == child && status.signal().is_some() {
                eprintln!("brolga: -daemonize: the process in the background ended with {status}");
            }
            std::process::exit(1);
        }
    }
}

impl Background {
    /// Leaves the terminal and the folder, and lets the parent end.
    pub(crate) fn ready(mut self) -> Result<(), Invalid> {
        let failed = |error: std::io::Error| Invalid::new(format!("-daemonize: {error}"));
        let null = std::fs::File::options().read(true).write(true).open("/dev/null").map_err(failed)?;
        std::env::set_current_dir("/").map_err(failed)?;
        rustix::stdio::dup2_stdin(&null).map_err(|error| failed(error.into()))?;
        rustix::stdio::dup2_stdout(&null).map_err(|error| failed(error.into()))?;
        rustix::stdio::dup2_stderr(&null).map_err(|error| failed(error.into()))?;
        self.0.write_all(&[1]).map_err(failed)
    }
}

/// The file with the number of this process, locked while the process lives, as QEMU's; it goes with the process.
pub(crate) struct PidFile {
    path: PathBuf,
    /// Holds the lock.
    file: std::fs::File,
}

impl PidFile {
    /// Writes the file. Fails if another process has it locked. The lock is one of the process: it must not fork afterwards.
    pub(crate) fn create(path: &Path) -> Result<PidFile, Invalid> {
        let failed = |error: std::io::Error| Invalid::new(format!("-pidfile {}: {error}", path.display()));
        let whole = std::path::absolute(path).map_err(failed)?;
        let file = loop {
            let mut options = std::fs::File::options();
            let file = options.write(true).create(true).truncate(false).mode(0o600).open(&whole).map_err(failed)?;
            match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::AGAIN | Errno::ACCESS) => {
                    return Err(Invalid::new(format!("-pidfile {}: another process has it locked", path.display())));
                }
                Err(error) => return Err(failed(error.into())),
            }
            // An instance that ended in between has removed what was opened here.
            let opened = file.metadata().map_err(failed)?;
            match std::fs::metadata(&whole) {
                Ok(found) if (found.dev(), found.ino()) == (opened.dev(), opened.ino()) => break file,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        };
        file.set_len(0).map_err(failed)?;
        let created = PidFile { path: whole, file };
        writeln!(&created.file, "{}", std::process::id()).map_err(failed)?;
        Ok(created)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The signals that ask the process to end. From [`Signals::new`] on they no longer end it by themselves.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Must be called on a runtime.
    pub(crate) fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Ends the machine when one of them comes.
    pub(crate) async fn end(mut self, vm: Arc<Vm>) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
        // A machine that has ended already needs no end.
        let _ = tokio::task::spawn_blocking(move || vm.quit(Cause::HostSignal)).await;
    }
}
