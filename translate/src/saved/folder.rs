//! The user's folder of saved translations: private, and bounded in size.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Most bytes of all files.
pub(super) const MOST_BYTES: u64 = 1 << 30;

fn refused(path: &Path, problem: &str) -> io::Error {
    io::Error::other(format!("{}: {problem}", path.display()))
}

/// Makes sure that the folder is there, and the user's alone.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    check_owner(folder, &fs::symlink_metadata(folder)?)
}

fn check_owner(path: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(refused(path, "it belongs to another user"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(refused(path, "others may write there"));
    }
    Ok(())
}

/// Opens a file of the folder; `None` if there is none.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(refused(path, "it is not a file"));
    }
    check_owner(path, &metadata)?;
    Ok((metadata.len() > 0).then_some(file))
}

/// Replaces a file of the folder by what `write` writes, at once and as a whole.
pub(super) fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let new = path.with_extension(format!("{}.new", std::process::id()));
    // Left behind by a program with the same number that was killed.
    let _ = fs::remove_file(&new);
    let done = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| write(&mut file))
        .and_then(|()| fs::rename(&new, path));
    if done.is_err() {
        let _ = fs::remove_file(&new);
    }
    done
}

/// Removes other files of the folder, the oldest first, until there is room for `bytes` in `path`.
pub(super) fn make_room(path: &Path, bytes: u64) -> io::Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let mut others = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Another program may remove them, too.
        if let Ok(metadata) = entry.metadata()
            && entry.path() != path
        {
            others.push((metadata.modified()?, metadata.len(), entry.path()));
        }
    }
    others.sort();
    let mut total = bytes + others.iter().map(|(_, length, _)| length).sum::<u64>();
    for (_, length, other) in others {
        if total <= MOST_BYTES {
            break;
        }
        if fs::remove_file(other).is_ok() {
            total -= length;
        }
    }
    Ok(())
}
