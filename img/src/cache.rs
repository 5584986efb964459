//! Cache modes.

use crate::failure::Failure;

/// How an image is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cache {
    /// Past the host's cache.
    pub(crate) direct: bool,
    /// Each write is on stable storage before it is done.
    pub(crate) write_through: bool,
    /// Nothing is ever flushed.
    pub(crate) no_flush: bool,
}

impl Cache {
    /// The mode with a name; `what` is the option in errors.
    pub(crate) fn named(name: &str, what: &str) -> Result<Cache, Failure> {
        let cache = |direct, write_through, no_flush| Ok(Cache { direct, write_through, no_flush });
        match name {
            "none" | "off" => cache(true, false, false),
            "directsync" => cache(true, true, false),
            "writeback" => cache(false, false, false),
            "writethrough" => cache(false, true, false),
            "unsafe" => cache(false, false, true),
            _ => Err(Failure::said(format!("Invalid {what} option: {name}"))),
        }
    }
}
