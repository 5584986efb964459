//! The process itself: going to the background, the pid file, and signals.

use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hw::vm::{Cause, Vm};

use crate::command_line::Invalid;

/// The way to tell the waiting parent that the machine is set up.
pub(crate) struct Background(std::fs::File);

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
            Ok(Background(writer.into()))
        }
        _ => {
            drop(writer);
            let mut byte = [0];
            let ready = std::fs::File::from(reader).read_exact(&mut byte).is_ok();
            std::process::exit(if ready { 0 } else { 1 });
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

/// The file with the number of this process; it goes with the process.
pub(crate) struct PidFile(PathBuf);

impl PidFile {
    /// Writes the file.
    pub(crate) fn create(path: &Path) -> Result<PidFile, Invalid> {
        let failed = |error| Invalid::new(format!("-pidfile {}: {error}", path.display()));
        let whole = std::path::absolute(path).map_err(failed)?;
        std::fs::write(&whole, format!("{}\n", std::process::id())).map_err(failed)?;
        Ok(PidFile(whole))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Ends the machine when the process is asked to end.
pub(crate) async fn end_on_signals(vm: Arc<Vm>) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
    // A machine that has ended already needs no end.
    let _ = tokio::task::spawn_blocking(move || vm.quit(Cause::HostSignal)).await;
    Ok(())
}
