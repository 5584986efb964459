//! Bitmaps of what changed on a disk.

use std::ops::Range;

use parking_lot::Mutex;

/// Which parts of a node were written since some time: a bit for each stretch of `granularity` bytes.
#[derive(Debug)]
pub struct DirtyBitmap {
    name: Option<String>,
    granularity: u64,
    // Lock order: alone.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Bit `n % 64` of word `n / 64` stands for stretch `n`.
    words: Vec<u64>,
    /// Length of the disk, bytes.
    length: u64,
    /// Writes are marked.
    is_recording: bool,
}

impl DirtyBitmap {
    /// Smallest and largest granularity, bytes.
    pub const GRANULARITIES: Range<u64> = 512..(2 << 30) + 1;
    /// Most bits of a bitmap: they take 128 MiB.
    const MOST_BITS: u64 = 1 << 30;

    /// A bitmap with these bits of a disk of `length` bytes takes more memory than it may.
    pub(crate) fn is_too_large(granularity: u64, length: u64) -> bool {
        length.div_ceil(granularity) > DirtyBitmap::MOST_BITS
    }

    /// A bitmap without a mark, of a disk of `length` bytes. The granularity is a power of two.
    pub fn new(name: Option<&str>, granularity: u64, length: u64) -> DirtyBitmap {
        debug_assert!(granularity.is_power_of_two());
        let bitmap = DirtyBitmap {
            name: name.map(str::to_owned),
            granularity,
            state: Mutex::new(State { words: Vec::new(), length: 0, is_recording: true }),
        };
        bitmap.resize(length);
        bitmap
    }

    /// Its name, if it is the user's.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Bytes that a bit stands for.
    pub fn granularity(&self) -> u64 {
        self.granularity
    }

    /// Length of the disk, bytes.
    pub fn length(&self) -> u64 {
        self.state.lock().length
    }

    /// It marks writes.
    pub fn is_recording(&self) -> bool {
        self.state.lock().is_recording
    }

    /// Has it mark writes, or keep its marks as they are.
    pub fn set_recording(&self, recording: bool) {
        self.state.lock().is_recording = recording;
    }

    /// The bits that stand for these bytes, as far as the disk has them.
    fn bits(&self, state: &State, bytes: &Range<u64>) -> Range<u64> {
        let end = bytes.end.min(state.length);
        bytes.start / self.granularity..end.div_ceil(self.granularity)
    }

    /// Marks bytes that were written, if it records.
    pub(crate) fn mark_written(&self, bytes: Range<u64>) {
        let mut state = self.state.lock();
        if state.is_recording {
            let bits = self.bits(&state, &bytes);
            state.set(bits, true);
        }
    }

    /// Marks bytes.
    pub fn mark(&self, bytes: Range<u64>) {
        let mut state = self.state.lock();
        let bits = self.bits(&state, &bytes);
        state.set(bits, true);
    }

    /// Takes all marks away; returns them, for [`DirtyBitmap::restore`].
    pub fn clear(&self) -> Vec<u64> {
        let mut state = self.state.lock();
        let empty = vec![0; state.words.len()];
        std::mem::replace(&mut state.words, empty)
    }

    /// A copy of the marks, for [`DirtyBitmap::restore`].
    pub(crate) fn marks(&self) -> Vec<u64> {
        self.state.lock().words.clone()
    }

    /// Has the marks that it had once, while the disk had the same length.
    pub(crate) fn restore(&self, marks: Vec<u64>) {
        let mut state = self.state.lock();
        if marks.len() == state.words.len() {
            state.words = marks;
        }
    }

    /// Marks what another bitmap marks, of whichever granularity.
    pub fn merge(&self, other: &DirtyBitmap) {
        let mut at = 0;
        while let Some(marked) = other.next_marked(at, u64::MAX) {
            at = marked.end;
            self.mark(marked);
        }
    }

    /// The first marked bytes from `offset` on, at most `most` of them.
    pub fn next_marked(&self, offset: u64, most: u64) -> Option<Range<u64>> {
        let state = self.state.lock();
        let bits = state.length.div_ceil(self.granularity);
        let first = state.next(offset / self.granularity, bits, true)?;
        let most = (most / self.granularity).max(1);
        let limit = bits.min(first.saturating_add(most));
        let last = state.next(first, limit, false).unwrap_or(limit);
        let start = (first * self.granularity).max(offset);
        Some(start..last.saturating_mul(self.granularity).min(state.length))
    }

    /// How many bytes are marked.
    pub fn count(&self) -> u64 {
        let state = self.state.lock();
        let bits: u64 = state.words.iter().map(|word| u64::from(word.count_ones())).sum();
        let whole = bits * self.granularity;
        // The last stretch may end with the disk.
        let last = state.length.div_ceil(self.granularity).saturating_sub(1);
        let beyond = (last + 1) * self.granularity - state.length.min((last + 1) * self.granularity);
        if state.is_set(last) { whole - beyond } else { whole }
    }

    /// The disk has another length. What is new is not marked.
    pub(crate) fn resize(&self, length: u64) {
        let mut state = self.state.lock();
        let bits = length.div_ceil(self.granularity);
        state.words.resize(bits.div_ceil(64) as usize, 0);
        if !bits.is_multiple_of(64)
            && let Some(last) = state.words.last_mut()
        {
            *last &= (1 << (bits % 64)) - 1;
        }
        state.length = length;
    }
}

impl State {
    fn is_set(&self, bit: u64) -> bool {
        self.words.get((bit / 64) as usize).is_some_and(|word| word >> (bit % 64) & 1 != 0)
    }

    fn set(&mut self, bits: Range<u64>, value: bool) {
        let mut at = bits.start;
        while at < bits.end {
            let Some(word) = self.words.get_mut((at / 64) as usize) else { return };
            let count = (64 - at % 64).min(bits.end - at);
            let mask = (u64::MAX >> (64 - count)) << (at % 64);
            if value {
                *word |= mask
            } else {
                *word &= !mask
            }
            at += count;
        }
    }

    /// The first bit from `from` on and before `end` that has this value.
    fn next(&self, from: u64, end: u64, value: bool) -> Option<u64> {
        let mut at = from;
        while at < end {
            let word = *self.words.get((at / 64) as usize)?;
            let word = (if value { word } else { !word }) >> (at % 64);
            if word != 0 {
                return Some(at + u64::from(word.trailing_zeros())).filter(|found| *found < end);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_in_order() {
        let bitmap = DirtyBitmap::new(None, 4096, 1 << 20);
        bitmap.mark(10_000..10_001);
        bitmap.mark(300_000..700_000);
        bitmap.mark((1 << 20) - 1..u64::MAX);
        assert_eq!(bitmap.next_marked(0, u64::MAX), Some(8192..12288));
        assert_eq!(bitmap.next_marked(9000, u64::MAX), Some(9000..12288));
        assert_eq!(bitmap.next_marked(12288, u64::MAX), Some(299_008..700_416));
        assert_eq!(bitmap.next_marked(12288, 65536), Some(299_008..299_008 + 65536));
        assert_eq!(bitmap.next_marked(700_416, u64::MAX), Some((1 << 20) - 4096..1 << 20));
        assert_eq!(bitmap.count(), 4096 + (700_416 - 299_008) + 4096);
        bitmap.clear();
        assert_eq!((bitmap.count(), bitmap.next_marked(0, u64::MAX)), (0, None));
        bitmap.set_recording(false);
        bitmap.mark_written(0..1);
        assert_eq!(bitmap.count(), 0);
    }

    #[test]
    fn the_last_stretch_ends_with_the_disk() {
        let bitmap = DirtyBitmap::new(Some("b"), 65536, 100_000);
        bitmap.mark(70_000..80_000);
        assert_eq!((bitmap.count(), bitmap.next_marked(0, u64::MAX)), (34_464, Some(65536..100_000)));
        bitmap.resize(65536 * 65);
        assert_eq!(bitmap.next_marked(0, u64::MAX), Some(65536..131_072));
        bitmap.mark(65536 * 64..u64::MAX);
        bitmap.resize(65536);
        bitmap.resize(65536 * 65);
        assert_eq!(bitmap.next_marked(0, u64::MAX), None);
    }

    #[test]
    fn another_granularity_is_merged() {
        let (fine, coarse) = (DirtyBitmap::new(None, 512, 1 << 20), DirtyBitmap::new(None, 65536, 1 << 20));
        fine.mark(512..1024);
        fine.mark(200_000..200_001);
        coarse.merge(&fine);
        assert_eq!(coarse.count(), 2 * 65536);
        fine.merge(&coarse);
        assert_eq!(fine.count(), 2 * 65536);
    }
}
