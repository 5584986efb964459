//! Tells Linux' `perf` what compiled code is, so that its reports name guest code: `/tmp/perf-PID.map`, one line for each piece, with
//! its address and length in hexadecimal and its name.

use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;

use parking_lot::Mutex;

static FILE: OnceLock<Mutex<File>> = OnceLock::new();

/// Begins the file of this process. Pieces of code that were made before are not in it.
pub fn enable() -> std::io::Result<()> {
    let path = format!("/tmp/perf-{}.map", std::process::id());
    let file = File::create(path)?;
    // Asked for twice, it is one file all the same.
    let _ = FILE.set(Mutex::new(file));
    Ok(())
}

/// Records a piece of code.
pub(crate) fn record(start: *const u8, bytes: usize, name: impl FnOnce() -> String) {
    if let Some(file) = FILE.get() {
        // In one write, so that no line is cut short where the program ends meanwhile.
        let line = format!("{:x} {bytes:x} {}\n", start as usize, name());
        // A full disk costs the user names in a report, and the guest nothing.
        let _ = file.lock().write_all(line.as_bytes());
    }
}
