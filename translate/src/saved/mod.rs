//! Compiled code that is kept between runs of the program, so that a guest that was run before is compiled next to never.
//!
//! One file holds the code for guests of one architecture and one processor model, made by one build of the translator for one host
//! ([`Identity`]). An entry ([`Entry`]) is a block or a region with the guest code that it was made from: it is used where the guest is about to
//! execute that very code, byte for byte, under the same translation flags, at the same place in a page. What host and guest addresses the
//! code needs is filled in when it is placed.
//!
//! The file is code that the program will execute, so it must belong to the user alone; where it does not, it is left aside. It is
//! replaced as a whole when a machine ends, and never changed: other machines go on with the one that they began with.

mod folder;
mod format;

use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::Mmap;
use rustc_hash::{FxHashSet, FxHasher};

use crate::platform::PAGE_SIZE;
pub(crate) use format::{Entry, HASHED, Kind, Part, encode, hash};

/// Most bytes of a file.
pub(crate) const MOST_BYTES: usize = 256 << 20;
/// A file is not replaced for less than this part of it that is new.
const WORTH_WRITING: usize = 64;

/// What compiled code depends on besides guest code and translation flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity(u64);

impl Identity {
    /// Of code for guests of an architecture whose model has `features`, on a host that is described by `host`.
    pub(crate) fn new(guest: &str, features: impl Hash, host: &str) -> Identity {
        let mut hasher = FxHasher::default();
        // The translator's sources, the compiler that built them and its settings.
        env!("TRANSLATOR_IDENTITY").hash(&mut hasher);
        guest.hash(&mut hasher);
        features.hash(&mut hasher);
        host.hash(&mut hasher);
        Identity(hasher.finish())
    }
}

/// The code that was kept, and where it will be.
pub(crate) struct SavedTranslations {
    path: PathBuf,
    identity: Identity,
    file: Option<Mmap>,
    /// One bit an entry: it was of use in this run.
    used: Box<[AtomicU64]>,
}

impl SavedTranslations {
    /// What `folder`, which is made if it is not there, has kept for an identity. The error says why nothing can be kept there.
    pub(crate) fn open(folder: PathBuf, guest: &str, identity: Identity) -> io::Result<SavedTranslations> {
        folder::make(&folder)?;
        let path = folder.join(format!("{guest}-{:016x}.translations", identity.0));
        let file = load(&path, identity)?;
        let entries = file.as_deref().map_or(0, format::count);
        let used = std::iter::repeat_with(AtomicU64::default).take(entries.div_ceil(64)).collect();
        Ok(SavedTranslations { path, identity, file, used })
    }

    /// The largest entry for the code at an offset in a page, whose bytes are `page`.
    pub(crate) fn find(&self, flags: u32, offset: u16, page: &[u8; PAGE_SIZE as usize]) -> Option<Entry<'_>> {
        let file = self.file.as_deref()?;
        let hash = hash(flags, offset, &page[usize::from(offset)..]);
        let matching = format::with_hash(file, hash).filter_map(|number| {
            let entry = Entry::parse(format::bytes(file, number)?.1)?;
            let fits = entry.flags == flags && entry.offset == offset && entry.is_of(page);
            (fits && format::is_whole(file, number)).then_some((number, entry))
        });
        let (number, entry) = matching.max_by_key(|(_, entry)| (entry.kind, entry.guest.len()))?;
        self.used[number / 64].fetch_or(1 << (number % 64), Ordering::Relaxed);
        Some(entry)
    }

    /// Writes the file anew: with what was added, each with its [`hash`], what was of use, and as much as there is room for of the rest.
    pub(crate) fn save(&self, added: &[(u64, Vec<u8>)]) -> io::Result<()> {
        let new_bytes: usize = added.iter().map(|(_, bytes)| bytes.len()).sum();
        let old_bytes = self.file.as_ref().map_or(0, |file| file.len());
        if new_bytes <= old_bytes / WORTH_WRITING {
            return Ok(());
        }
        let is_used = |number: usize| self.used[number / 64].load(Ordering::Relaxed) >> (number % 64) & 1 != 0;
        let old = self.file.as_deref().unwrap_or_default();
        let (used, unused): (Vec<usize>, Vec<usize>) = (0..format::count(old)).partition(|number| is_used(*number));
        // Another machine may have written meanwhile.
        let theirs = load(&self.path, self.identity)?;
        let theirs = theirs.as_deref().unwrap_or_default();
        let candidates = added
            .iter()
            .map(|(hash, bytes)| (*hash, bytes.as_slice()))
            .chain(used.into_iter().filter_map(|number| whole(old, number)))
            .chain((0..format::count(theirs)).filter_map(|number| whole(theirs, number)))
            .chain(unused.into_iter().filter_map(|number| whole(old, number)));
        let (mut kept, mut known, mut room) = (Vec::new(), FxHashSet::default(), MOST_BYTES);
        for (hash, bytes) in candidates {
            let Some(entry) = Entry::parse(bytes) else { continue };
            let size = bytes.len() + format::INDEX_ENTRY;
            if size <= room && known.insert(entry.guest_identity()) {
                room -= size;
                kept.push((hash, bytes));
            }
        }
        folder::make_room(&self.path, (MOST_BYTES - room) as u64)?;
        folder::replace(&self.path, |file: &mut File| {
            let mut writer = BufWriter::with_capacity(1 << 20, file);
            format::write(&mut writer, self.identity.0, kept)?;
            writer.flush()
        })
    }
}

fn whole(file: &[u8], number: usize) -> Option<(u64, &[u8])> {
    format::bytes(file, number).filter(|_| format::is_whole(file, number))
}

/// The file's contents, if there is one and it is what it should be.
fn load(path: &std::path::Path, identity: Identity) -> io::Result<Option<Mmap>> {
    let Some(file) = folder::open(path)? else { return Ok(None) };
    // SAFETY: nobody but this program, run by the same user, writes there, and it replaces files and never changes one.
    let map = unsafe { Mmap::map(&file)? };
    Ok(format::is_valid(&map, identity.0).then_some(map))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{Code, Relocation, Target};

    fn saved(folder: &std::path::Path) -> SavedTranslations {
        SavedTranslations::open(folder.join("kept"), "guest", Identity(7)).unwrap()
    }

    fn page_with(code: &[u8], offset: usize) -> [u8; PAGE_SIZE as usize] {
        let mut page = [0; PAGE_SIZE as usize];
        page[offset..offset + code.len()].copy_from_slice(code);
        page
    }

    fn entry(kind: Kind, flags: u32, parts: &[(u16, &[u8])], host: &[u8]) -> (u64, Vec<u8>) {
        let parts: Vec<Part> = parts.iter().map(|&(offset, code)| Part { offset, code }).collect();
        let relocations = [
            Relocation { offset: 1, target: Target::Translation },
            Relocation { offset: 0, target: Target::Cell(-20) },
            Relocation { offset: 2, target: Target::Counter },
            Relocation { offset: 3, target: Target::Jump(-4000) },
        ];
        // As at the end of a page that is empty otherwise.
        let Part { offset, code } = parts[0];
        let page = page_with(code, offset.into());
        (hash(flags, offset, &page[usize::from(offset)..]), encode(kind, flags, &parts, host, &relocations))
    }

    #[test]
    fn what_was_saved_is_found_for_the_same_code_only() {
        let folder = tempfile::tempdir().unwrap();
        let first = saved(folder.path());
        let page = page_with(b"guest code that is longer than its hash", 100);
        assert!(first.find(3, 100, &page).is_none());
        let block = entry(Kind::Block, 3, &[(100, b"guest code that is longer")], b"host code 1");
        first.save(&[block]).unwrap();
        let second = saved(folder.path());
        let found = second.find(3, 100, &page).unwrap();
        assert_eq!(
            (found.kind, found.host, found.guest),
            (Kind::Block, &b"host code 1"[..], &b"guest code that is longer"[..])
        );
        let Code { relocations, .. } = found.code();
        assert_eq!(relocations[0], Relocation { offset: 1, target: Target::Translation });
        assert_eq!(relocations[1], Relocation { offset: 0, target: Target::Cell(-20) });
        assert_eq!(relocations[2], Relocation { offset: 2, target: Target::Counter });
        assert_eq!(relocations[3], Relocation { offset: 3, target: Target::Jump(-4000) });
        assert!(second.find(4, 100, &page).is_none(), "other flags");
        assert!(second.find(3, 101, &page_with(b"guest code that is longer", 101)).is_none(), "another offset");
        assert!(second.find(3, 100, &page_with(b"guest code that is longes", 100)).is_none(), "other code");
    }

    #[test]
    fn a_region_wins_where_all_of_its_code_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let block = entry(Kind::Block, 0, &[(8, b"head")], b"a block");
        let region = entry(Kind::Region, 0, &[(8, b"head"), (200, b"far")], b"a region");
        saved(folder.path()).save(&[block, region]).unwrap();
        let again = saved(folder.path());
        let mut page = page_with(b"head", 8);
        assert_eq!(again.find(0, 8, &page).unwrap().host, b"a block");
        page[200..203].copy_from_slice(b"far");
        assert_eq!(again.find(0, 8, &page).unwrap().host, b"a region");
    }

    #[test]
    fn two_machines_that_end_keep_what_either_has() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (saved(folder.path()), saved(folder.path()));
        one.save(&[entry(Kind::Block, 0, &[(0, b"one's code here")], b"1")]).unwrap();
        other.save(&[entry(Kind::Block, 0, &[(0, b"the other's code")], b"2")]).unwrap();
        let both = saved(folder.path());
        assert_eq!(both.find(0, 0, &page_with(b"one's code here", 0)).unwrap().host, b"1");
        assert_eq!(both.find(0, 0, &page_with(b"the other's code", 0)).unwrap().host, b"2");
    }

    #[test]
    fn damaged_files_are_left_aside() {
        let folder = tempfile::tempdir().unwrap();
        let page = page_with(b"head", 8);
        let first = saved(folder.path());
        first.save(&[entry(Kind::Block, 0, &[(8, b"head")], b"a block")]).unwrap();
        let whole = std::fs::read(&first.path).unwrap();
        for position in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[position] ^= 0x40;
            std::fs::write(&first.path, &damaged).unwrap();
            assert!(saved(folder.path()).find(0, 8, &page).is_none(), "byte {position}");
            std::fs::write(&first.path, &whole[..position]).unwrap();
            assert!(saved(folder.path()).find(0, 8, &page).is_none(), "cut at {position}");
        }
        std::fs::write(&first.path, &whole).unwrap();
        assert!(saved(folder.path()).find(0, 8, &page).is_some());
        assert!(SavedTranslations::open(folder.path().join("kept"), "guest", Identity(8)).unwrap().file.is_none());
    }

    #[test]
    fn what_others_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let first = saved(folder.path());
        first.save(&[entry(Kind::Block, 0, &[(8, b"head")], b"a block")]).unwrap();
        let open_to_all = |path: &std::path::Path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
            SavedTranslations::open(folder.path().join("kept"), "guest", Identity(7)).err().unwrap().to_string()
        };
        assert!(open_to_all(&first.path).contains("others may write"));
        assert!(open_to_all(&folder.path().join("kept")).contains("others may write"));
    }

    #[test]
    fn old_files_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let first = saved(folder.path());
        let other = folder.path().join("kept/older.translations");
        File::create(&other).unwrap().set_len(folder::MOST_BYTES).unwrap();
        first.save(&[entry(Kind::Block, 0, &[(8, b"head")], b"a block")]).unwrap();
        assert!(!other.exists() && first.path.exists());
    }
}
