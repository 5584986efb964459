//! Blocks whose code is rewritten so often that translating it is in vain: they are lifted, executed and remembered only as long as their code is
//! found unchanged, so that writes to it are as fast as to other memory.

use std::hash::BuildHasher;

use rustc_hash::FxBuildHasher;

use super::{Dispatcher, Ended, LONGEST_INSTRUCTION, MOST_CODE, MOST_INSTRUCTIONS};
use crate::activity::Activity;
use crate::cpu::{Cpu, Stopped};
use crate::guest::{Guest, NeedsMoreCode, helper_of};
use crate::interpret::interpret;
use crate::ir::{Block, Op, VectorOp};
use crate::platform::PAGE_SIZE;

/// How many are remembered.
const BLOCKS: usize = 2048;

/// A block and what it was lifted from.
struct Volatile {
    physical: u64,
    flags: u32,
    code: Box<[u8]>,
    block: Block,
}

/// The blocks of a processor's that were executed last.
pub(super) struct VolatileBlocks(Box<[Option<Volatile>]>);

impl VolatileBlocks {
    pub(super) fn new() -> VolatileBlocks {
        VolatileBlocks((0..BLOCKS).map(|_| None).collect())
    }

    fn place(physical: u64) -> usize {
        (FxBuildHasher.hash_one(physical) >> 32) as usize % BLOCKS
    }
}

impl<G: Guest> Dispatcher<G> {
    /// Executes the block at the processor's pc, of code that may run anywhere, at least [`LONGEST_INSTRUCTION`] bytes before the end of its page.
    pub(super) fn execute_volatile(&mut self, cpu: &mut Cpu<G>) -> Ended {
        cpu.counters.volatile += 1;
        let found = cpu.during(Activity::Translating, |cpu| self.find_volatile(cpu));
        let Ok(place) = found else { return Ended::Stopped };
        let Some(found) = &self.volatile.0[place] else { return Ended::Next };
        cpu.during(Activity::Interpreting, |cpu| interpret(cpu, &found.block, &mut self.values))
    }

    /// Where the block at the processor's pc is.
    fn find_volatile(&mut self, cpu: &mut Cpu<G>) -> Result<usize, Stopped> {
        let pc = cpu.context.pc;
        let physical = self.fetch_address(cpu, pc)?;
        let place = VolatileBlocks::place(physical);
        let mut room = [0; (MOST_CODE + LONGEST_INSTRUCTION) as usize];
        if let Some(known) = &self.volatile.0[place]
            && (known.physical, known.flags) == (physical, cpu.context.flags)
        {
            let code = &mut room[..known.code.len()];
            self.read_code(cpu, pc, physical, code)?;
            if *code == *known.code {
                return Ok(place);
            }
        }
        let code = &mut room[..(PAGE_SIZE - pc % PAGE_SIZE).min(MOST_CODE) as usize];
        self.read_code(cpu, pc, physical, code)?;
        let mut block = self.lift_volatile(cpu, code, MOST_INSTRUCTIONS);
        // Nothing notices if it writes to its own code, so it ends with what writes first.
        let first_write = block.ops.iter().position(may_write_memory::<G>);
        let most = first_write.map_or(block.instructions.len(), |op| block.instruction_index(op) + 1);
        if most < block.instructions.len() {
            block = self.lift_volatile(cpu, code, most);
        }
        let code: Box<[u8]> = code[..usize::from(block.length)].into();
        self.volatile.0[place] = Some(Volatile { physical, flags: cpu.context.flags, code, block });
        Ok(place)
    }

    fn lift_volatile(&self, cpu: &Cpu<G>, code: &[u8], most_instructions: usize) -> Block {
        match G::lift(cpu.context.pc, code, cpu.context.flags, G::features(cpu), most_instructions) {
            Ok(block) => block,
            Err(NeedsMoreCode) => {
                unreachable!("volatile code is no nearer to the page's end than an instruction is long")
            }
        }
    }
}

/// True if an operation may write to guest memory.
fn may_write_memory<G: Guest>(op: &Op) -> bool {
    match op {
        Op::Store { .. }
        | Op::AtomicReadModifyWrite { .. }
        | Op::AtomicCompareExchange { .. }
        | Op::StoreConditional { .. }
        | Op::Vector(VectorOp::Store { .. }) => true,
        op => helper_of::<G>(op).is_some_and(|helper| !helper.effects.only_computes()),
    }
}
