//! Platform-level interrupt controller.
//!
//! RISC-V Platform-Level Interrupt Controller Specification 1.0.0, with the register layout of the SiFive PLIC
//! (`sifive,plic-1.0.0`) and seven priorities. Two contexts a hart: machine mode, then supervisor mode.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::bus::{AccessRules, Effect, MmioDevice, Width};
use crate::device::{Device, StateError, impossible, parse_state, state_value};
use crate::interrupt::{InterruptController, InterruptLine};

/// Highest priority and threshold.
const HIGHEST_PRIORITY: u32 = 7;

const PENDING: u64 = 0x1000;
const ENABLE: u64 = 0x2000;
const ENABLE_STRIDE: u64 = 0x80;
const CONTEXT: u64 = 0x20_0000;
const CONTEXT_STRIDE: u64 = 0x1000;

/// Size of the register area for `contexts` contexts, bytes.
pub const fn size(contexts: u64) -> u64 {
    CONTEXT + contexts * CONTEXT_STRIDE
}

/// One context: a privilege mode of a hart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContextState {
    /// Enable bits, source 0 in bit 0 of word 0.
    pub enable: Vec<u32>,
    /// Only priorities above it interrupt.
    pub threshold: u32,
}

/// The registers of a [`Plic`]. Bit sets have source 0 in bit 0 of word 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlicState {
    /// Priority of each source.
    pub priority: Vec<u32>,
    /// Levels of the inputs.
    pub level: Vec<u32>,
    /// Sources whose requests wait to be claimed. A request stays, also when the input falls.
    pub pending: Vec<u32>,
    /// Sources that were claimed and not completed.
    pub claimed: Vec<u32>,
    /// The contexts.
    pub contexts: Vec<ContextState>,
}

impl PlicState {
    fn new(sources: u32, contexts: usize) -> PlicState {
        let words = sources.div_ceil(32) as usize;
        PlicState {
            priority: vec![0; sources as usize],
            level: vec![0; words],
            pending: vec![0; words],
            claimed: vec![0; words],
            contexts: vec![ContextState { enable: vec![0; words], threshold: 0 }; contexts],
        }
    }

    /// Has the gateways forward the requests of high inputs in `bits` of `word`, but of no source that is being handled.
    fn forward(&mut self, word: usize, bits: u32) {
        self.pending[word] |= self.level[word] & bits & !self.claimed[word];
    }

    /// The source that `context` would claim: highest priority above 0, lowest number among equals; with its priority.
    fn best(&self, context: usize) -> Option<(u32, u32)> {
        let enable = &self.contexts[context].enable;
        let mut best: Option<(u32, u32)> = None;
        for (word, enabled) in enable.iter().enumerate() {
            let mut candidates = self.pending[word] & enabled;
            while candidates != 0 {
                let source = word as u32 * 32 + candidates.trailing_zeros();
                candidates &= candidates - 1;
                let priority = self.priority[source as usize];
                if priority > best.map_or(0, |(_, priority)| priority) {
                    best = Some((source, priority));
                }
            }
        }
        best
    }
}

/// The interrupt controller of a RISC-V machine.
pub struct Plic {
    sources: u32,
    outputs: Vec<InterruptLine>,
    // Lock order: after devices', before vCPU handles'.
    state: Mutex<PlicState>,
}

impl Plic {
    /// A controller with sources 1 to `sources - 1`, and one context for each of the `outputs`.
    pub fn new(sources: u32, outputs: Vec<InterruptLine>) -> Arc<Plic> {
        let state = Mutex::new(PlicState::new(sources, outputs.len()));
        Arc::new(Plic { sources, outputs, state })
    }

    fn update(&self, state: &PlicState) {
        for (context, output) in self.outputs.iter().enumerate() {
            let threshold = state.contexts[context].threshold;
            output.set(state.best(context).is_some_and(|(_, priority)| priority > threshold));
        }
    }

    /// The valid bits of a word of a bit set; source 0 does not exist.
    fn valid_bits(&self, word: u64) -> u32 {
        let mut bits = u32::MAX;
        if word == 0 {
            bits &= !1;
        }
        let beyond = (word + 1).saturating_mul(32).saturating_sub(u64::from(self.sources));
        if beyond >= 32 { 0 } else { bits & (u32::MAX >> beyond) }
    }
}

impl InterruptController for Plic {
    fn set_input(&self, number: u32, level: bool) {
        if number == 0 || number >= self.sources {
            return;
        }
        let mut state = self.state.lock();
        let (word, bit) = ((number / 32) as usize, 1 << (number % 32));
        let old = state.level[word];
        let new = if level { old | bit } else { old & !bit };
        if old != new {
            state.level[word] = new;
            state.forward(word, bit);
            self.update(&state);
        }
    }
}

impl Device for Plic {
    fn debug_label(&self) -> &str {
        "plic"
    }
    fn reset(&self) {
        let mut state = self.state.lock();
        // The levels are those of the devices' outputs, which their own resets change.
        let level = std::mem::take(&mut state.level);
        *state = PlicState { pending: level.clone(), level, ..PlicState::new(self.sources, self.outputs.len()) };
        self.update(&state);
    }
    fn save(&self) -> serde_json::Value {
        state_value(&*self.state.lock())
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: PlicState = parse_state(self.debug_label(), state)?;
        let words = self.sources.div_ceil(32) as usize;
        let fits = new.priority.len() == self.sources as usize
            && new.priority.iter().all(|priority| *priority <= HIGHEST_PRIORITY)
            && [&new.level, &new.pending, &new.claimed]
                .into_iter()
                .chain(new.contexts.iter().map(|context| &context.enable))
                .all(|set| set.len() == words && (0..).zip(set).all(|(word, bits)| bits & !self.valid_bits(word) == 0))
            && new.contexts.len() == self.outputs.len();
        if !fits {
            let (sources, contexts) = (self.sources, self.outputs.len());
            let problem = format!("this machine has {sources} sources, {contexts} contexts and 7 priorities");
            return Err(impossible(self.debug_label(), problem));
        }
        let mut state = self.state.lock();
        *state = new;
        self.update(&state);
        Ok(())
    }
}

impl MmioDevice for Plic {
    fn access_rules(&self) -> AccessRules {
        AccessRules::WORD
    }

    fn read(&self, offset: u64, _width: Width) -> u64 {
        let mut state = self.state.lock();
        let value = match offset {
            0..PENDING => state.priority.get((offset / 4) as usize).copied(),
            PENDING..ENABLE => {
                let word = ((offset - PENDING) / 4) as usize;
                state.pending.get(word).copied()
            }
            ENABLE..CONTEXT => {
                let (context, word) = ((offset - ENABLE) / ENABLE_STRIDE, (offset % ENABLE_STRIDE) / 4);
                state.contexts.get(context as usize).and_then(|context| context.enable.get(word as usize)).copied()
            }
            _ => {
                let (index, register) = ((offset - CONTEXT) / CONTEXT_STRIDE, offset % CONTEXT_STRIDE);
                let index = index as usize;
                match (index < state.contexts.len(), register) {
                    (true, 0) => Some(state.contexts[index].threshold),
                    (true, 4) => {
                        // Claim. The threshold does not matter to it.
                        let source = state.best(index).map_or(0, |(source, _)| source);
                        if source != 0 {
                            let (word, bit) = ((source / 32) as usize, 1 << (source % 32));
                            state.claimed[word] |= bit;
                            state.pending[word] &= !bit;
                            self.update(&state);
                        }
                        Some(source)
                    }
                    _ => None,
                }
            }
        };
        u64::from(value.unwrap_or(0))
    }

    fn write(&self, offset: u64, _width: Width, value: u64) -> Effect {
        let value = value as u32;
        let mut state = self.state.lock();
        match offset {
            0..PENDING => {
                let source = (offset / 4) as usize;
                if source != 0
                    && let Some(priority) = state.priority.get_mut(source)
                {
                    *priority = value & HIGHEST_PRIORITY;
                }
            }
            PENDING..ENABLE => {}
            ENABLE..CONTEXT => {
                let (context, word) = ((offset - ENABLE) / ENABLE_STRIDE, (offset % ENABLE_STRIDE) / 4);
                let valid = self.valid_bits(word);
                let context = state.contexts.get_mut(context as usize);
                if let Some(enable) = context.and_then(|context| context.enable.get_mut(word as usize)) {
                    *enable = value & valid;
                }
            }
            _ => {
                let (index, register) = ((offset - CONTEXT) / CONTEXT_STRIDE, offset % CONTEXT_STRIDE);
                let Some(context) = state.contexts.get_mut(index as usize) else { return Effect::None };
                match register {
                    0 => context.threshold = value & HIGHEST_PRIORITY,
                    // Completion counts only for a source that the context has enabled.
                    4 if value < self.sources => {
                        let (word, bit) = ((value / 32) as usize, 1 << (value % 32));
                        if context.enable[word] & bit != 0 {
                            state.claimed[word] &= !bit;
                            state.forward(word, bit);
                        }
                    }
                    _ => {}
                }
            }
        }
        self.update(&state);
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Lines;

    const CLAIM: u64 = CONTEXT + 4;

    fn device() -> (Arc<Plic>, Arc<Lines>) {
        let lines = Lines::new();
        (Plic::new(96, (0..4).map(|context| lines.line(context)).collect()), lines)
    }

    fn read(device: &Plic, offset: u64) -> u64 {
        device.read(offset, Width::Word)
    }
    fn write(device: &Plic, offset: u64, value: u64) {
        assert_eq!(device.write(offset, Width::Word, value), Effect::None);
    }

    #[test]
    fn the_size_for_512_harts_is_that_of_the_virt_machine() {
        assert_eq!(size(1024), 0x60_0000);
    }

    #[test]
    fn registers_keep_only_their_implemented_bits() {
        let (device, _) = device();
        write(&device, 0, 7);
        write(&device, 4 * 10, 0xff);
        write(&device, 4 * 96, 7);
        assert_eq!((read(&device, 0), read(&device, 4 * 10), read(&device, 4 * 96)), (0, 7, 0));
        for word in 0..4 {
            write(&device, ENABLE + 4 * word, 0xffff_ffff);
        }
        let enable: Vec<u64> = (0..4).map(|word| read(&device, ENABLE + 4 * word)).collect();
        assert_eq!(enable, [0xffff_fffe, 0xffff_ffff, 0xffff_ffff, 0]);
        assert_eq!(read(&device, ENABLE + ENABLE_STRIDE), 0);
        write(&device, CONTEXT + CONTEXT_STRIDE, 0xff);
        assert_eq!((read(&device, CONTEXT), read(&device, CONTEXT + CONTEXT_STRIDE)), (0, 7));
        write(&device, CONTEXT + 4 * CONTEXT_STRIDE, 1);
        assert_eq!(read(&device, CONTEXT + 4 * CONTEXT_STRIDE), 0);
    }

    #[test]
    fn a_source_interrupts_is_claimed_once_and_comes_again_while_its_level_is_high() {
        let (device, lines) = device();
        write(&device, 4 * 10, 1);
        write(&device, ENABLE, 1 << 10);
        device.set_input(10, true);
        assert_eq!(read(&device, PENDING), 1 << 10);
        assert!(lines.level(0) && !lines.level(1));
        assert_eq!(read(&device, CLAIM), 10);
        assert!(!lines.level(0));
        assert_eq!((read(&device, CLAIM), read(&device, PENDING)), (0, 0));
        write(&device, CLAIM, 10);
        assert!(lines.level(0));
        assert_eq!(read(&device, CLAIM), 10);
        device.set_input(10, false);
        write(&device, CLAIM, 10);
        assert!(!lines.level(0));
    }

    #[test]
    fn priority_then_lowest_number_decides_and_the_threshold_masks() {
        let (device, lines) = device();
        for (source, priority) in [(40, 3), (41, 3), (5, 1), (6, 0)] {
            write(&device, 4 * source, priority);
            device.set_input(source as u32, true);
        }
        let s_mode = CONTEXT + CONTEXT_STRIDE;
        write(&device, ENABLE + ENABLE_STRIDE, 0xffff_ffff);
        write(&device, ENABLE + ENABLE_STRIDE + 4, 0xffff_ffff);
        write(&device, s_mode, 3);
        assert!(!lines.level(1));
        write(&device, s_mode, 2);
        assert!(lines.level(1));
        let claims: Vec<u64> = (0..4).map(|_| read(&device, s_mode + 4)).collect();
        assert_eq!(claims, [40, 41, 5, 0]);
    }

    #[test]
    fn completion_of_what_is_not_enabled_or_does_not_exist_is_ignored() {
        let (device, _) = device();
        write(&device, 4 * 10, 1);
        write(&device, ENABLE, 1 << 10);
        device.set_input(10, true);
        assert_eq!(read(&device, CLAIM), 10);
        write(&device, CLAIM + CONTEXT_STRIDE, 10);
        write(&device, CLAIM, 11);
        write(&device, CLAIM, 0xffff_ffff);
        assert_eq!(read(&device, CLAIM), 0);
        device.set_input(0, true);
        device.set_input(96, true);
        assert_eq!(read(&device, PENDING), 0);
    }
}
