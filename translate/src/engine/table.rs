//! The cells of a generation and the translations behind them, by key.
//!
//! There are hundreds of thousands, and most come while a guest's programs start: what the table itself takes is kept small, and growing does
//! not look at the keys again.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;
use parking_lot::RwLock;
use rustc_hash::FxBuildHasher;

use super::links::Cell;
use super::translations::{Key, Translation};

/// What there is of one key.
struct Entry {
    /// The key's.
    hash: u64,
    /// Has the key.
    cell: Arc<Cell>,
    translation: Option<Arc<Translation>>,
}

/// What is known of keys.
#[derive(Default)]
pub(super) struct Table(RwLock<HashTable<Entry>>);

fn hash(key: &Key) -> u64 {
    FxBuildHasher.hash_one(key)
}

impl Table {
    /// The translation of a key.
    pub(super) fn find(&self, key: &Key) -> Option<Arc<Translation>> {
        self.0.read().find(hash(key), |entry| entry.cell.key == *key)?.translation.clone()
    }

    /// The cell of a key, which `new` makes if there is none.
    pub(super) fn cell(&self, key: &Key, new: impl FnOnce() -> Cell) -> Arc<Cell> {
        let hash = hash(key);
        if let Some(entry) = self.0.read().find(hash, |entry| entry.cell.key == *key) {
            return entry.cell.clone();
        }
        let mut entries = self.0.write();
        let new = || Entry { hash, cell: Arc::new(new()), translation: None };
        let entry = entries.entry(hash, |entry| entry.cell.key == *key, |entry| entry.hash).or_insert_with(new);
        entry.get().cell.clone()
    }

    /// Makes a translation that of its key, whose cell it has; gives the one before.
    pub(super) fn insert(&self, translation: Arc<Translation>) -> Option<Arc<Translation>> {
        let (hash, key, cell) = (hash(&translation.key), translation.key, translation.cell.clone());
        let mut entries = self.0.write();
        let new = || Entry { hash, cell, translation: None };
        let mut entry = entries.entry(hash, |entry| entry.cell.key == key, |entry| entry.hash).or_insert_with(new);
        entry.get_mut().translation.replace(translation)
    }

    /// All translations.
    pub(super) fn translations(&self) -> Vec<Arc<Translation>> {
        self.0.read().iter().filter_map(|entry| entry.translation.clone()).collect()
    }

    /// How many translations there are.
    pub(super) fn count(&self) -> usize {
        self.0.read().iter().filter(|entry| entry.translation.is_some()).count()
    }

    /// Forgets all translations.
    pub(super) fn clear(&mut self) {
        self.0.get_mut().clear();
    }
}
