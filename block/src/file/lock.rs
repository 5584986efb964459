//! Locks on files, by which programs that use one image know of one another.
//!
//! QEMU's convention, so that it holds between it and this program: bytes of the file stand for what a user does (from 100 on) and for what
//! it does not let others do (from 200 on). Each user locks its bytes for reading, and looks whether somebody has those that stand
//! against it. The locks belong to the open file, not to the process.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// What a user of an image does, by the number of its bit, and what it is called.
const ACTIONS: [&str; 4] = ["consistent read", "write", "write unchanged", "resize"];
const READ: u32 = 1 << 0;
const WRITE: u32 = 1 << 1;
const RESIZE: u32 = 1 << 3;
/// The bytes for what a user does, and for what it does not share.
const DOES: i64 = 100;
const REFUSES: i64 = 200;

/// Why an image cannot be used now, in QEMU's words.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    /// Another user refuses what this one does, or does what this one refuses.
    #[error("Failed to get {}\"{action}\" lock\nIs another process using the image [{name}]?", shared_word(*is_shared))]
    Taken { action: &'static str, is_shared: bool, name: String },
    /// The host cannot lock the file.
    #[error("Failed to lock the image: {0}")]
    Host(#[from] io::Error),
}

fn shared_word(is_shared: bool) -> &'static str {
    if is_shared { "shared " } else { "" }
}

/// Locks a file for who only reads it, or who changes it; whoever shares it lets others do what they want.
pub(super) fn lock(file: &File, name: &str, is_writer: bool, is_shared: bool) -> Result<(), LockError> {
    let does = if is_writer { READ | WRITE | RESIZE } else { READ };
    let refuses = if is_shared { 0 } else { WRITE | RESIZE };
    // First the own locks, so that of two that come at once at least one sees the other.
    for (base, bits) in [(DOES, does), (REFUSES, refuses)] {
        for bit in bits_of(bits) {
            match call(file, libc::F_OFD_SETLK, libc::F_RDLCK, base + i64::from(bit)) {
                Ok(_) => {}
                // The file system has no locks, or the kernel no such ones: then there is nothing to look at.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EINVAL | libc::ENOTSUP | libc::ENOLCK | libc::ENOSYS)
                    ) =>
                {
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    for (base, bits, is_shared) in [(REFUSES, does, false), (DOES, refuses, true)] {
        for bit in bits_of(bits) {
            if call(file, libc::F_OFD_GETLK, libc::F_WRLCK, base + i64::from(bit))? != libc::F_UNLCK {
                unlock(file);
                let action = ACTIONS[bit as usize];
                return Err(LockError::Taken { action, is_shared, name: name.to_owned() });
            }
        }
    }
    Ok(())
}

/// Gives up all locks on a file.
pub(super) fn unlock(file: &File) {
    for base in [DOES, REFUSES] {
        for bit in 0..ACTIONS.len() as i64 {
            // What cannot be unlocked goes when the file is closed.
            let _ = call(file, libc::F_OFD_SETLK, libc::F_UNLCK, base + bit);
        }
    }
}

fn bits_of(bits: u32) -> impl Iterator<Item = u32> {
    (0..ACTIONS.len() as u32).filter(move |bit| bits >> bit & 1 != 0)
}

/// Calls the kernel about one byte; returns the kind of lock that it answers.
fn call(file: &File, command: i32, kind: i32, byte: i64) -> io::Result<i32> {
    // SAFETY: a structure of numbers, for which zeros are valid.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_type, lock.l_whence, lock.l_start, lock.l_len) = (kind as i16, libc::SEEK_SET as i16, byte, 1);
    // SAFETY: the structure is the one that these commands take, and lives through the call.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), command, &mut lock) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::from(lock.l_type)) }
}
