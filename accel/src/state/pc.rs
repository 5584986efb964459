//! The state of the interrupt controllers and the timer of a PC, which a backend may run itself.

use serde::{Deserialize, Serialize};

/// Both 8259A, the I/O APIC and the 8254.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Controllers {
    /// The first 8259A and the one that cascades into it.
    pub pics: [Pic; 2],
    /// The I/O APIC.
    pub io_apic: IoApic,
    /// The programmable interval timer.
    pub pit: Pit,
}

/// An 8259A programmable interrupt controller (Intel data sheet 231468).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pic {
    /// Levels of the inputs when last seen, by which edges are found.
    pub last_levels: u8,
    /// Interrupt request register.
    pub irr: u8,
    /// Interrupt mask register.
    pub imr: u8,
    /// In-service register.
    pub isr: u8,
    /// Input of the highest priority, as rotation left it.
    pub highest_priority: u8,
    /// Vector of input 0 (ICW2).
    pub vector_base: u8,
    /// The next read of the command port answers the in-service register, not the request register.
    pub read_isr: bool,
    /// Poll mode: the next read acknowledges.
    pub poll: bool,
    /// Special mask mode.
    pub special_mask: bool,
    /// Initialisation command word that is awaited next: 0 none, 1 ICW2, 2 ICW3, 3 ICW4.
    pub initialisation: u8,
    /// Automatic end of interrupt (ICW4).
    pub automatic_eoi: bool,
    /// Priorities rotate at each automatic end of interrupt.
    pub rotate_on_automatic_eoi: bool,
    /// Special fully nested mode (ICW4).
    pub special_fully_nested: bool,
    /// ICW4 follows in this initialisation.
    pub icw4_needed: bool,
    /// Edge/level control register of the chipset: inputs that are level-triggered.
    pub level_triggered: u8,
    /// Which bits of that register can be set.
    pub level_triggered_mask: u8,
}

/// An I/O APIC (Intel data sheet 290566, 82093AA).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApic {
    /// Guest-physical address of its registers.
    pub address: u64,
    /// Register that the data window shows.
    pub selected: u32,
    /// Its APIC id.
    pub id: u32,
    /// Levels of the inputs.
    pub levels: u32,
    /// Redirection table, one entry an input.
    pub redirection: [u64; 24],
}

/// An 8254 programmable interval timer (Intel data sheet 231164).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pit {
    /// Channels 0 to 2.
    pub channels: [PitChannel; 3],
    /// Channel 0 raises no interrupts, as an HPET took its place.
    pub replaced_by_hpet: bool,
    /// The speaker gate passes channel 2's output.
    pub speaker_on: bool,
}

/// A counter of an [`Pit`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PitChannel {
    /// Count that was loaded, 1 to 65536.
    pub count: u32,
    /// Count that the latch command kept.
    pub latched_count: u16,
    /// How a latched count is read: 0 none is latched, else as [`access`](PitChannel::access).
    pub latched: u8,
    /// A status byte is latched.
    pub status_latched: bool,
    /// That status byte.
    pub status: u8,
    /// Next byte of a read: 1 low, 2 high, 3 low of two, 4 high of two.
    pub read_state: u8,
    /// Next byte of a write, likewise.
    pub write_state: u8,
    /// Low byte of a count that is being written.
    pub write_latch: u8,
    /// Bytes that are accessed: 1 low, 2 high, 3 both.
    pub access: u8,
    /// Counting mode, 0 to 5.
    pub mode: u8,
    /// Counts in decimal.
    pub bcd: bool,
    /// Gate input.
    pub gate: bool,
    /// Nanoseconds since the count was loaded.
    pub elapsed: u64,
}
