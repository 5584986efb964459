//! The memory of a request.

use std::alloc::Layout;
use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use smallvec::SmallVec;

/// What memory made here is aligned to: enough for direct access to any disk.
const ALIGNMENT: usize = 4096;

/// Memory that a request reads from or writes to: pieces that follow one another. A copy is the same memory again, so that parts of a
/// request can be handed on; the kernel may still use it when the request was given up.
///
/// Others (the guest) may change the memory at any time: it is only copied from and to, and there are no references into it.
#[derive(Clone)]
pub struct IoVector {
    pieces: SmallVec<[Piece; 1]>,
    length: usize,
}

#[derive(Clone)]
struct Piece {
    start: NonNull<u8>,
    length: usize,
    /// Keeps the memory.
    owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the memory belongs to `owner`, which any thread may keep and drop, and is accessed by copying alone.
unsafe impl Send for IoVector {}
// SAFETY: as above; nothing in it changes through a shared reference.
unsafe impl Sync for IoVector {}

/// Memory from the allocator.
struct Allocation {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it only keeps the memory.
unsafe impl Send for Allocation {}
// SAFETY: as above.
unsafe impl Sync for Allocation {}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `IoVector::zeroed`, and freed here alone.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl IoVector {
    /// No memory.
    pub fn empty() -> IoVector {
        IoVector { pieces: SmallVec::new(), length: 0 }
    }

    /// New memory of `length` bytes, all zero.
    pub fn zeroed(length: usize) -> IoVector {
        if length == 0 {
            return IoVector::empty();
        }
        let Ok(layout) = Layout::from_size_align(length, if length < ALIGNMENT { 512 } else { ALIGNMENT }) else {
            panic!("no request is as long as the address space: {length}");
        };
        // SAFETY: the layout is not of length 0.
        let start = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) });
        let Some(start) = start else { std::alloc::handle_alloc_error(layout) };
        let owner = Arc::new(Allocation { start, layout });
        // SAFETY: the allocation is as long, and freed with `owner`.
        unsafe { IoVector::from_raw(start, length, owner) }
    }

    /// New memory with these bytes.
    pub fn copy_of(bytes: &[u8]) -> IoVector {
        let vector = IoVector::zeroed(bytes.len());
        vector.copy_from(bytes);
        vector
    }

    /// Memory of `owner`.
    ///
    /// # Safety
    ///
    /// `length` bytes from `start` on can be read and written for as long as `owner` lives, and nothing relies on them not to change.
    pub unsafe fn from_raw(start: NonNull<u8>, length: usize, owner: Arc<dyn Any + Send + Sync>) -> IoVector {
        IoVector { pieces: SmallVec::from_buf([Piece { start, length, owner }]), length }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// True if there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Puts `more` behind this memory.
    pub fn append(&mut self, more: IoVector) {
        self.length += more.length;
        self.pieces.extend(more.pieces);
    }

    /// The same memory from byte `from` on, of `length` bytes.
    ///
    /// # Panics
    ///
    /// Where that goes beyond the end.
    pub fn slice(&self, from: usize, length: usize) -> IoVector {
        assert!(from.checked_add(length).is_some_and(|end| end <= self.length), "a slice beyond the end");
        if length == self.length {
            return self.clone();
        }
        let mut pieces = SmallVec::new();
        let (mut passed, mut left) = (from, length);
        for piece in &self.pieces {
            if left == 0 {
                break;
            }
            if passed >= piece.length {
                passed -= piece.length;
                continue;
            }
            let part = left.min(piece.length - passed);
            // SAFETY: `passed` is less than the piece's length.
            let start = unsafe { piece.start.add(passed) };
            pieces.push(Piece { start, length: part, owner: piece.owner.clone() });
            passed = 0;
            left -= part;
        }
        IoVector { pieces, length }
    }

    /// Copies it to `bytes`, which are as long.
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn copy_to(&self, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), self.length);
        let mut at = 0;
        for piece in &self.pieces {
            // SAFETY: the piece's memory is there while its owner is, and that it may change meanwhile only changes what is copied.
            unsafe {
                std::ptr::copy_nonoverlapping(piece.start.as_ptr(), bytes[at..].as_mut_ptr(), piece.length);
            }
            at += piece.length;
        }
    }

    /// Copies `bytes`, which are as long, into it.
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn copy_from(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.length);
        let mut at = 0;
        for piece in &self.pieces {
            // SAFETY: as in `copy_to`; there are no references to this memory.
            unsafe {
                std::ptr::copy_nonoverlapping(bytes[at..].as_ptr(), piece.start.as_ptr(), piece.length);
            }
            at += piece.length;
        }
    }

    /// Copies `other`, which is as long, into it.
    pub fn copy_from_vector(&self, other: &IoVector) {
        assert_eq!(other.length, self.length);
        let mut at = 0;
        for piece in &other.pieces {
            let mut from = 0;
            for target in &self.slice(at, piece.length).pieces {
                // SAFETY: both are there while their owners are; `copy` allows that they overlap.
                unsafe { std::ptr::copy(piece.start.add(from).as_ptr(), target.start.as_ptr(), target.length) };
                from += target.length;
            }
            at += piece.length;
        }
    }

    /// A copy of the bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length];
        self.copy_to(&mut bytes);
        bytes
    }

    /// Sets each byte.
    pub fn fill(&self, byte: u8) {
        for piece in &self.pieces {
            // SAFETY: as in `copy_from`.
            unsafe { std::ptr::write_bytes(piece.start.as_ptr(), byte, piece.length) };
        }
    }

    /// True if all bytes are zero.
    pub fn is_zero(&self) -> bool {
        self.is_zero_within(0, self.length)
    }

    /// True if `length` bytes from byte `from` on are zero.
    ///
    /// # Panics
    ///
    /// Where that goes beyond the end.
    pub fn is_zero_within(&self, from: usize, length: usize) -> bool {
        assert!(from.checked_add(length).is_some_and(|end| end <= self.length), "bytes beyond the end");
        let mut copy = [0; 1024];
        let (mut passed, mut left) = (from, length);
        for piece in &self.pieces {
            if passed >= piece.length {
                passed -= piece.length;
                continue;
            }
            let end = piece.length.min(passed + left);
            left -= end - passed;
            // Data seldom begins with zeros: little of it is looked at.
            let mut step = 64;
            while passed < end {
                let part = &mut copy[..(end - passed).min(step)];
                // SAFETY: as in `copy_to`; `passed` and the part are within the piece.
                unsafe {
                    std::ptr::copy_nonoverlapping(piece.start.add(passed).as_ptr(), part.as_mut_ptr(), part.len());
                }
                if part.iter().fold(0, |all, byte| all | byte) != 0 {
                    return false;
                }
                passed += part.len();
                step = 1024;
            }
            passed = 0;
            if left == 0 {
                break;
            }
        }
        true
    }

    /// The first byte that is another than in `other`, which is as long.
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn first_difference(&self, other: &IoVector) -> Option<usize> {
        assert_eq!(other.length, self.length);
        let (mut here, mut there) = ([0; 4096], [0; 4096]);
        (0..self.length).step_by(here.len()).find_map(|at| {
            let part = (self.length - at).min(here.len());
            if let ([first], [second]) = (&self.pieces[..], &other.pieces[..]) {
                // SAFETY: both pieces are as long as the vectors; what changes meanwhile only changes the answer.
                let order = unsafe {
                    libc::memcmp(first.start.add(at).as_ptr().cast(), second.start.add(at).as_ptr().cast(), part)
                };
                if order == 0 {
                    return None;
                }
            }
            self.copy_part_to(at, &mut here[..part]);
            other.copy_part_to(at, &mut there[..part]);
            if here[..part] == there[..part] {
                return None;
            }
            here[..part].iter().zip(&there[..part]).position(|(a, b)| a != b).map(|position| at + position)
        })
    }

    /// Copies what is at byte `from` and behind.
    fn copy_part_to(&self, from: usize, bytes: &mut [u8]) {
        if let [piece] = &self.pieces[..] {
            assert!(from + bytes.len() <= piece.length);
            // SAFETY: as in `copy_to`; the part is within the piece.
            unsafe {
                std::ptr::copy_nonoverlapping(piece.start.add(from).as_ptr(), bytes.as_mut_ptr(), bytes.len());
            }
        } else {
            self.slice(from, bytes.len()).copy_to(bytes);
        }
    }

    /// True if each piece begins and ends at a multiple of `alignment` bytes.
    pub fn is_aligned(&self, alignment: usize) -> bool {
        let aligned = |piece: &Piece| (piece.start.as_ptr() as usize | piece.length).is_multiple_of(alignment);
        self.pieces.iter().all(aligned)
    }

    /// As the kernel takes it; at most `most` pieces.
    pub(crate) fn as_iovecs(&self, most: usize) -> SmallVec<[libc::iovec; 1]> {
        let iovec = |piece: &Piece| libc::iovec { iov_base: piece.start.as_ptr().cast(), iov_len: piece.length };
        self.pieces.iter().take(most).map(iovec).collect()
    }
}

impl std::fmt::Debug for IoVector {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "IoVector({} bytes in {} pieces)", self.length, self.pieces.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_the_same_memory() {
        let mut vector = IoVector::copy_of(b"abc");
        vector.append(IoVector::copy_of(b"defg"));
        vector.append(IoVector::empty());
        assert_eq!(vector.to_vec(), b"abcdefg");
        let middle = vector.slice(2, 3);
        assert_eq!(middle.to_vec(), b"cde");
        middle.copy_from(b"CDE");
        assert_eq!(vector.to_vec(), b"abCDEfg");
        middle.copy_from_vector(&IoVector::copy_of(b"xyz"));
        assert_eq!(vector.to_vec(), b"abxyzfg");
        assert!(vector.slice(7, 0).is_empty());
    }

    #[test]
    fn one_byte_makes_it_not_zero() {
        for at in [0, 1, 1023, 1024, 2999] {
            let mut bytes = vec![0; 3000];
            assert!(IoVector::copy_of(&bytes).is_zero());
            bytes[at] = 1;
            assert!(!IoVector::copy_of(&bytes).is_zero(), "{at}");
        }
    }

    #[test]
    fn zeros_and_differences_are_found_across_pieces() {
        let joined = |bytes: &[u8]| {
            let mut vector = IoVector::copy_of(&bytes[..2000]);
            vector.append(IoVector::copy_of(&bytes[2000..]));
            vector
        };
        let mut bytes = vec![0; 9000];
        for at in [1999, 2000, 6095, 6096, 8999] {
            bytes[at] = 1;
            assert!(!joined(&bytes).is_zero_within(at, 1));
            assert!(!joined(&bytes).is_zero_within(1000, 8000));
            assert!(joined(&bytes).is_zero_within(0, at));
            assert!(joined(&bytes).is_zero_within(at + 1, 8999 - at));
            assert_eq!(joined(&bytes).first_difference(&IoVector::zeroed(9000)), Some(at));
            assert_eq!(joined(&bytes).first_difference(&IoVector::copy_of(&bytes)), None);
            bytes[at] = 0;
        }
    }

    #[test]
    #[should_panic(expected = "beyond the end")]
    fn a_slice_beyond_the_end_is_a_mistake() {
        IoVector::zeroed(8).slice(6, 3);
    }
}
