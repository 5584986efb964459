//! What a server has to offer.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::ServerError;
use super::users::{User, Users};
use crate::Backend;
use crate::nbd::wire::{self, TransmissionFlags};

/// A disk that clients may use, under a name.
#[derive(Clone)]
pub struct Export {
    /// What clients ask for; may be empty.
    pub name: String,
    /// What the list of exports says of it.
    pub description: Option<String>,
    /// The disk.
    pub backend: Arc<Backend>,
    /// Clients may change it.
    pub writable: bool,
    /// Clients may ask how many images up the data is (`qemu:allocation-depth`).
    pub allocation_depth: bool,
    /// Clients may ask what is dirty in these (`qemu:dirty-bitmap:NAME`).
    pub bitmaps: Vec<Arc<dyn DirtyBitmap>>,
}

impl Export {
    /// A disk to be read under a name.
    pub fn new(name: impl Into<String>, backend: Arc<Backend>) -> Export {
        let (name, bitmaps) = (name.into(), Vec::new());
        Export { name, description: None, backend, writable: false, allocation_depth: false, bitmaps }
    }

    /// What it tells clients that it can do. Parts of a reply need chunks.
    pub(super) fn flags(&self, has_chunks: bool) -> TransmissionFlags {
        let mut flags = TransmissionFlags::NBD_FLAG_HAS_FLAGS
            | TransmissionFlags::NBD_FLAG_SEND_FLUSH
            | TransmissionFlags::NBD_FLAG_SEND_FUA
            | TransmissionFlags::NBD_FLAG_SEND_CACHE
            // All connections use the one backend.
            | TransmissionFlags::NBD_FLAG_CAN_MULTI_CONN;
        flags |= if self.writable {
            TransmissionFlags::NBD_FLAG_SEND_TRIM
                | TransmissionFlags::NBD_FLAG_SEND_WRITE_ZEROES
                | TransmissionFlags::NBD_FLAG_SEND_FAST_ZERO
        } else {
            TransmissionFlags::NBD_FLAG_READ_ONLY
        };
        flags.set(TransmissionFlags::NBD_FLAG_SEND_DF, has_chunks);
        flags
    }

    fn check(&self) -> Result<(), ServerError> {
        let name = || self.name.clone();
        for (what, text) in [("name", self.name.as_str()), ("description", self.description.as_deref().unwrap_or(""))] {
            if text.len() > wire::MAXIMUM_STRING {
                return Err(ServerError::TextLength { what, length: text.len() });
            }
        }
        let bitmap_name = |bitmap: &Arc<dyn DirtyBitmap>| bitmap.name().len();
        if let Some(length) = self.bitmaps.iter().map(bitmap_name).find(|length| *length > wire::MAXIMUM_STRING / 2) {
            return Err(ServerError::TextLength { what: "bitmap's name", length });
        }
        if self.writable && self.backend.is_read_only() {
            return Err(ServerError::ReadOnly { name: name() });
        }
        Ok(())
    }
}

/// Which bytes of a disk were written since something.
pub trait DirtyBitmap: Send + Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// Whether the bytes from `offset` on are dirty, and of how many that is true: at least one, at most `length`.
    fn status(&self, offset: u64, length: u64) -> (bool, u64);
}

/// How an export is taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RemoveMode {
    /// Only if no client uses it.
    #[default]
    Safe,
    /// Clients that use it are disconnected.
    Hard,
}

/// What is known of an export in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: Option<String>,
    /// Clients may change it.
    pub writable: bool,
    /// How many connections use it.
    pub clients: usize,
}

/// An export that clients may find.
pub(super) struct Exported {
    pub(super) export: Export,
    /// The connections.
    users: Arc<Users>,
    /// True: those that there are must end.
    ending: watch::Sender<bool>,
}

impl Exported {
    /// Told once its clients must go.
    pub(super) fn ending(&self) -> watch::Receiver<bool> {
        self.ending.subscribe()
    }
}

/// All exports of a server.
#[derive(Default)]
pub(super) struct Exports {
    // Lock order: before the count of an export's users, which is inside.
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    by_name: BTreeMap<String, Arc<Exported>>,
    /// There will be none any more.
    is_closed: bool,
}

impl Exports {
    pub(super) fn add(&self, export: Export) -> Result<(), ServerError> {
        export.check()?;
        let mut all = self.all.lock();
        if all.is_closed {
            return Err(ServerError::Stopped);
        }
        if all.by_name.contains_key(&export.name) {
            return Err(ServerError::NameTaken { name: export.name });
        }
        let (name, users, ending) = (export.name.clone(), Arc::default(), watch::channel(false).0);
        all.by_name.insert(name, Arc::new(Exported { export, users, ending }));
        Ok(())
    }

    /// Takes an export away; returns once no client uses it.
    pub(super) async fn remove(&self, name: &str, mode: RemoveMode) -> Result<(), ServerError> {
        let removed = {
            let mut all = self.all.lock();
            let Some(exported) = all.by_name.get(name) else { return Err(ServerError::NoExport { name: name.into() }) };
            let clients = exported.users.count();
            if mode == RemoveMode::Safe && clients > 0 {
                return Err(ServerError::InUse { name: name.into(), clients });
            }
            all.by_name.remove(name)
        };
        if let Some(exported) = removed {
            exported.ending.send_replace(true);
            exported.users.all_gone().await;
        }
        Ok(())
    }

    /// Takes all away from new clients, for good.
    pub(super) fn close(&self) {
        *self.all.lock() = All { is_closed: true, ..All::default() };
    }

    /// The exports, by name.
    pub(super) fn list(&self) -> Vec<ExportInfo> {
        let info = |exported: &Arc<Exported>| ExportInfo {
            name: exported.export.name.clone(),
            description: exported.export.description.clone(),
            writable: exported.export.writable,
            clients: exported.users.count(),
        };
        self.all.lock().by_name.values().map(info).collect()
    }

    /// An export, to look at.
    pub(super) fn get(&self, name: &str) -> Option<Arc<Exported>> {
        self.all.lock().by_name.get(name).cloned()
    }

    /// An export, to use it.
    pub(super) fn enter(&self, name: &str) -> Option<(Arc<Exported>, User)> {
        // With the lock held: what is removed has no users that were not counted.
        let all = self.all.lock();
        let exported = all.by_name.get(name)?;
        Some((exported.clone(), exported.users.enter()))
    }
}
