//! Zeros in data, in blocks.

use crate::IoVector;

/// Stretches of a buffer that are all zero, or not.
pub(super) struct Runs<'a> {
    memory: &'a IoVector,
    block: usize,
    /// Fewer bytes of zeros are taken for data.
    smallest: usize,
    at: usize,
}

/// A stretch of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) start: usize,
    pub(super) length: usize,
    pub(super) is_zero: bool,
}

/// Tells zeros from data in blocks of `block` bytes; fewer than `smallest` zeros in a row are data.
pub(super) fn runs(memory: &IoVector, block: usize, smallest: usize) -> Runs<'_> {
    Runs { memory, block, smallest, at: 0 }
}

impl Runs<'_> {
    /// The blocks from `start` on that are alike.
    fn alike(&self, start: usize) -> Run {
        let mut run = Run { start, length: 0, is_zero: false };
        while start + run.length < self.memory.len() {
            let at = start + run.length;
            let part = self.block.min(self.memory.len() - at);
            let is_zero = self.memory.is_zero_within(at, part);
            if run.length > 0 && is_zero != run.is_zero {
                break;
            }
            run.is_zero = is_zero;
            run.length += part;
        }
        run
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        if self.at >= self.memory.len() {
            return None;
        }
        let mut run = self.alike(self.at);
        if run.is_zero && run.length < self.smallest && run.length < self.memory.len() {
            run.is_zero = false;
        }
        while !run.is_zero && run.start + run.length < self.memory.len() {
            let next = self.alike(run.start + run.length);
            if next.is_zero && next.length >= self.smallest {
                break;
            }
            run.length += next.length;
        }
        self.at += run.length;
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8], block: usize, smallest: usize) -> Vec<(usize, bool)> {
        runs(&IoVector::copy_of(bytes), block, smallest).map(|run| (run.length, run.is_zero)).collect()
    }

    #[test]
    fn zeros_and_data_are_told_apart_in_blocks() {
        assert_eq!(of(&[0; 10], 4, 4), [(10, true)]);
        assert_eq!(of(&[1; 10], 4, 4), [(10, false)]);
        assert_eq!(of(&[0, 0, 0, 0, 1, 0, 0, 0, 0, 0], 4, 1), [(4, true), (4, false), (2, true)]);
        assert_eq!(of(&[1, 0, 0, 0, 0, 0, 0, 0, 1, 1], 2, 4), [(2, false), (6, true), (2, false)]);
        assert_eq!(of(&[1, 0, 0, 0, 0, 0, 0, 0, 1, 1], 2, 8), [(10, false)]);
        assert_eq!(of(&[0, 0, 1, 0, 0, 0, 0, 0, 1, 1], 2, 4), [(4, false), (4, true), (2, false)]);
        assert_eq!(of(&[], 2, 4), []);
    }
}
