//! Regions: a hot block and the blocks around it that are compiled together.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::translations::{Generation, Key, Translation};
use crate::guest::Guest;
use crate::ir::{Block, Builder, Terminator};

/// Most blocks in a region.
const MOST_BLOCKS: usize = 24;
/// Most operations in a region: the time for register allocation grows faster than linearly.
const MOST_OPS: usize = 1200;

/// Blocks of one page that jump to one another, to be compiled as one function. Entered at the first.
pub struct Region {
    /// The blocks; the head comes first.
    pub blocks: Vec<Arc<Translation>>,
    /// What each of them does, simplified.
    pub code: Vec<Block>,
}

impl Region {
    /// Position of the block with this key.
    pub fn position(&self, key: &Key) -> Option<usize> {
        self.blocks.iter().position(|block| block.key == *key)
    }
}

impl Translation {
    /// The blocks of its page at which it may go on, as far as they are known.
    pub(crate) fn successors(&self) -> impl Iterator<Item = Key> + use<> {
        let (first, second) = match self.block().terminator {
            Terminator::Jump { target } => (Some(target), None),
            Terminator::Branch { taken, not_taken, .. } => (Some(not_taken), Some(taken)),
            _ => (None, None),
        };
        let near = [first, second].map(|target| self.key.in_same_page(self.block().distance(target?)));
        near.into_iter().flatten()
    }
}

/// Gathers what was executed and can be reached from `head` by direct jumps within its page.
pub(super) fn form<G: Guest>(generation: &Generation, head: &Translation) -> Region {
    let (mut blocks, mut code): (Vec<Arc<Translation>>, Vec<Block>) = Default::default();
    let mut seen: FxHashSet<Key> = FxHashSet::default();
    let mut waiting: VecDeque<Key> = VecDeque::from([head.key]);
    let mut ops = 0;
    while let Some(key) = waiting.pop_front() {
        if blocks.len() == MOST_BLOCKS || !seen.insert(key) {
            continue;
        }
        let Some(block) = generation.find(&key) else { continue };
        if block.alone || block.breakpoint {
            continue;
        }
        let simplified = Builder::for_region::<G>(block.block());
        if !blocks.is_empty() && ops + simplified.ops.len() > MOST_OPS {
            continue;
        }
        ops += simplified.ops.len();
        code.push(simplified);
        waiting.extend(block.successors());
        blocks.push(block);
    }
    Region { blocks, code }
}
