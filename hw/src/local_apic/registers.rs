//! The registers of one local APIC and what writing them does, without locks and without anybody else.

use accel::state::x86_64::{APIC_BASE_BOOTSTRAP, APIC_BASE_ENABLED, LOCAL_APIC_REGISTERS};

use super::message::{DeliveryMode, Destination, Message};
use super::timer::{Counter, Mode};

// Registers by number: their offset in the page divided by 16, and their MSR less 0x800.
pub(super) const ID: usize = 0x02;
pub(super) const VERSION: usize = 0x03;
pub(super) const TASK_PRIORITY: usize = 0x08;
const ARBITRATION_PRIORITY: usize = 0x09;
pub(super) const PROCESSOR_PRIORITY: usize = 0x0a;
pub(super) const EOI: usize = 0x0b;
const REMOTE_READ: usize = 0x0c;
pub(super) const LOGICAL_DESTINATION: usize = 0x0d;
pub(super) const DESTINATION_FORMAT: usize = 0x0e;
pub(super) const SPURIOUS: usize = 0x0f;
pub(super) const IN_SERVICE: usize = 0x10;
pub(super) const TRIGGER_MODE: usize = 0x18;
pub(super) const REQUEST: usize = 0x20;
pub(super) const ERROR_STATUS: usize = 0x28;
pub(super) const COMMAND: usize = 0x30;
pub(super) const COMMAND_HIGH: usize = 0x31;
pub(super) const LVT_TIMER: usize = 0x32;
const LVT_THERMAL: usize = 0x33;
const LVT_PERFORMANCE: usize = 0x34;
pub(super) const LVT_LINT0: usize = 0x35;
pub(super) const LVT_LINT1: usize = 0x36;
pub(super) const LVT_ERROR: usize = 0x37;
pub(super) const INITIAL_COUNT: usize = 0x38;
pub(super) const CURRENT_COUNT: usize = 0x39;
pub(super) const DIVIDE: usize = 0x3e;
pub(super) const SELF_IPI: usize = 0x3f;

/// Entries of the local vector table that are there: timer, thermal, performance, LINT0, LINT1, error.
const ENTRIES: std::ops::RangeInclusive<usize> = LVT_TIMER..=LVT_ERROR;
/// Version 0x14, and the number of the table's last entry.
const VERSION_VALUE: u32 = 0x14 | 5 << 16;

const ENTRY_MASKED: u32 = 1 << 16;
/// Read-only bits of an entry: delivery status and remote IRR.
const ENTRY_READ_ONLY: u32 = 1 << 12 | 1 << 14;
const SPURIOUS_ENABLED: u32 = 1 << 8;
const SPURIOUS_WRITABLE: u32 = 0x3ff;

const ERROR_SEND_VECTOR: u32 = 1 << 5;
const ERROR_RECEIVE_VECTOR: u32 = 1 << 6;
const ERROR_REGISTER: u32 = 1 << 7;

/// Bits of the interrupt command register that may be set; delivery status (12) is read-only.
const COMMAND_WRITABLE: u32 = 0xc_cfff;
const COMMAND_READ_ONLY: u32 = 1 << 12;

/// x2APIC mode.
pub(super) const BASE_X2APIC: u64 = 1 << 10;
/// Width of physical addresses that the base may have, bits.
const PHYSICAL_BITS: u32 = 40;
const DEFAULT_ADDRESS: u64 = 0xfee0_0000;

/// What a change asks of others, once the registers are unlocked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    /// To be sent.
    pub(super) message: Option<Message>,
    /// The level-triggered interrupt with this vector was served.
    pub(super) ended: Option<u8>,
    /// LINT1, or another local interrupt, is an NMI.
    pub(super) nmi: bool,
    /// The same, as a system-management interrupt.
    pub(super) smi: bool,
}

/// An access that raises #GP in x2APIC mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault;

/// The registers of a local APIC.
pub(super) struct Registers {
    /// Index of the processor, and its id at reset.
    index: u32,
    pub(super) base: u64,
    /// Those that are plain storage; the others are computed.
    page: [u32; LOCAL_APIC_REGISTERS],
    pub(super) id: u32,
    /// Errors since the error status register was last written.
    errors: u32,
    pub(super) timer: Counter,
    /// Levels of LINT0 and LINT1.
    pub(super) lint: [bool; 2],
}

fn highest(bits: &[u32]) -> Option<u8> {
    let word = bits.iter().rposition(|word| *word != 0)?;
    Some((word * 32) as u8 + bits[word].ilog2() as u8)
}

impl Registers {
    /// As after power-on. The bootstrap processor takes interrupts of the 8259 through LINT0, as firmware would set it up.
    pub(super) fn new(index: u32) -> Registers {
        let bootstrap = if index == 0 { APIC_BASE_BOOTSTRAP } else { 0 };
        let mut registers = Registers {
            index,
            base: DEFAULT_ADDRESS | APIC_BASE_ENABLED | bootstrap,
            page: [0; LOCAL_APIC_REGISTERS],
            id: index,
            errors: 0,
            timer: Counter::new(0),
            lint: [false; 2],
        };
        registers.initialise();
        if index == 0 {
            registers.page[LVT_LINT0] = 7 << 8;
        }
        registers
    }

    /// The state after INIT (SDM volume 3, 11.4.7): all but the id, the base and the inputs.
    pub(super) fn initialise(&mut self) {
        self.page = [0; LOCAL_APIC_REGISTERS];
        self.page[DESTINATION_FORMAT] = u32::MAX;
        self.page[SPURIOUS] = 0xff;
        for entry in ENTRIES {
            self.page[entry] = ENTRY_MASKED;
        }
        self.errors = 0;
        self.timer = Counter::new(0);
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.base & APIC_BASE_ENABLED != 0
    }

    fn is_software_enabled(&self) -> bool {
        self.page[SPURIOUS] & SPURIOUS_ENABLED != 0
    }

    pub(super) fn is_x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    /// Address of the page of registers, where there is one.
    pub(super) fn page_address(&self) -> Option<u64> {
        (self.is_enabled() && !self.is_x2apic()).then_some(self.base & !0xfff)
    }

    fn bits(&self, first: usize) -> &[u32] {
        &self.page[first..first + 8]
    }

    fn bit(&mut self, first: usize, vector: u8, value: bool) {
        let word = &mut self.page[first + usize::from(vector / 32)];
        *word = *word & !(1 << (vector % 32)) | u32::from(value) << (vector % 32);
    }

    fn has_bit(&self, first: usize, vector: u8) -> bool {
        self.page[first + usize::from(vector / 32)] & (1 << (vector % 32)) != 0
    }

    /// The processor-priority register.
    pub(super) fn processor_priority(&self) -> u32 {
        let served = u32::from(highest(self.bits(IN_SERVICE)).unwrap_or(0)) & 0xf0;
        let task = self.page[TASK_PRIORITY] & 0xff;
        if task & 0xf0 >= served { task } else { served }
    }

    /// CR8.
    pub(super) fn task_priority(&self) -> u64 {
        u64::from(self.page[TASK_PRIORITY] >> 4) & 0xf
    }

    /// Sets CR8; the low half of the task-priority register becomes zero.
    pub(super) fn set_task_priority(&mut self, value: u64) {
        self.page[TASK_PRIORITY] = (value as u32 & 0xf) << 4;
    }

    /// The vector of the interrupt that the processor should take now.
    fn deliverable(&self) -> Option<u8> {
        let vector = highest(self.bits(REQUEST))?;
        (self.is_enabled() && u32::from(vector) & 0xf0 > self.processor_priority() & 0xf0).then_some(vector)
    }

    /// The 8259's interrupt reaches the processor through LINT0.
    pub(super) fn wants_external(&self) -> bool {
        let entry = self.page[LVT_LINT0];
        let connected = entry & ENTRY_MASKED == 0 && DeliveryMode::from_bits(entry >> 8) == DeliveryMode::External;
        self.lint[0] && (connected || !self.is_enabled())
    }

    /// Level of INTR.
    pub(super) fn interrupts(&self) -> bool {
        self.wants_external() || self.deliverable().is_some()
    }

    /// The processor takes the interrupt.
    pub(super) fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.deliverable()?;
        self.bit(REQUEST, vector, false);
        self.bit(IN_SERVICE, vector, true);
        Some(vector)
    }

    fn error(&mut self, bit: u32) {
        self.errors |= bit;
        let entry = self.page[LVT_ERROR];
        // An illegal vector of this entry itself is no further error.
        if entry & ENTRY_MASKED == 0 && entry & 0xf0 != 0 {
            self.request(entry as u8, false);
        }
    }

    fn request(&mut self, vector: u8, level: bool) {
        self.bit(REQUEST, vector, true);
        self.bit(TRIGGER_MODE, vector, level);
    }

    /// A fixed interrupt comes in; true if it is accepted.
    pub(super) fn accept(&mut self, vector: u8, level: bool) -> bool {
        if !self.is_software_enabled() {
            return false;
        }
        if vector < 16 {
            self.error(ERROR_RECEIVE_VECTOR);
            return false;
        }
        self.request(vector, level);
        true
    }

    /// True if a message to `destination` is for this processor.
    pub(super) fn is_addressed(&self, destination: Destination) -> bool {
        let addressed = match destination {
            Destination::All => true,
            Destination::AllBut(index) => index != self.index,
            Destination::Itself(index) => index == self.index,
            Destination::Physical(id) => id == self.id,
            Destination::Logical(address) if self.is_x2apic() => {
                let own = self.logical_destination();
                own >> 16 == address >> 16 && own & address & 0xffff != 0
            }
            Destination::Logical(address) => {
                let own = self.page[LOGICAL_DESTINATION] >> 24;
                let flat = self.page[DESTINATION_FORMAT] >> 28 == 0xf;
                let wanted = if flat { 0xff } else { 0x0f };
                // In cluster form the high digit names the cluster, 15 all of them.
                let cluster = flat || own >> 4 == (address >> 4) & 0xf || (address >> 4) & 0xf == 0xf;
                cluster && own & address & wanted != 0
            }
        };
        addressed && self.is_enabled()
    }

    fn logical_destination(&self) -> u32 {
        if self.is_x2apic() { (self.id >> 4) << 16 | 1 << (self.id & 0xf) } else { self.page[LOGICAL_DESTINATION] }
    }

    /// A local interrupt source fires.
    pub(super) fn local_interrupt(&mut self, entry: usize, request: &mut Request) {
        let entry = self.page[entry];
        if entry & ENTRY_MASKED != 0 {
            return;
        }
        match DeliveryMode::from_bits(entry >> 8) {
            DeliveryMode::Fixed => {
                self.accept(entry as u8, false);
            }
            DeliveryMode::Nmi => request.nmi = true,
            DeliveryMode::Smi => request.smi = true,
            // The level of LINT0 counts for these, and nothing makes INIT locally.
            _ => {}
        }
    }

    /// The timer's deadline came: true if it was the present one.
    pub(super) fn timer_due(&mut self, now: u64) -> bool {
        let due = self.timer.take_due(now);
        if due {
            let entry = self.page[LVT_TIMER];
            if entry & ENTRY_MASKED == 0 {
                self.accept(entry as u8, false);
            }
        }
        due
    }

    /// True if the interrupt of the timer would do something.
    pub(super) fn timer_matters(&self) -> bool {
        // A masked periodic timer only counts; the others change when they end.
        self.timer.mode != Mode::Periodic || self.page[LVT_TIMER] & ENTRY_MASKED == 0
    }

    /// Writes `IA32_APIC_BASE`.
    pub(super) fn write_base(&mut self, value: u64) -> Result<(), Fault> {
        let allowed = ((1 << PHYSICAL_BITS) - 1) & !0xfff | APIC_BASE_BOOTSTRAP | APIC_BASE_ENABLED | BASE_X2APIC;
        let mode = |base: u64| (base & APIC_BASE_ENABLED != 0, base & BASE_X2APIC != 0);
        match (mode(self.base), mode(value)) {
            _ if value & !allowed != 0 => return Err(Fault),
            // Not a mode; x2APIC is entered from and left to certain modes only (SDM volume 3, figure 11-27).
            (_, (false, true)) | ((true, true), (true, false)) | ((false, _), (true, true)) => return Err(Fault),
            (old, (false, false)) if old.0 => {
                self.initialise();
                self.id = self.index;
            }
            ((_, false), (_, true)) => {
                self.id = self.index;
                self.page[COMMAND_HIGH] = 0;
            }
            _ => {}
        }
        self.base = value;
        Ok(())
    }

    /// Reads a register through the page.
    pub(super) fn read_page(&mut self, register: usize, now: u64) -> u32 {
        match register {
            SELF_IPI | EOI => 0,
            _ => match self.value(register, now) {
                Some(value) => value,
                None => {
                    self.error(ERROR_REGISTER);
                    0
                }
            },
        }
    }

    /// Reads a register by its MSR.
    pub(super) fn read_msr(&self, register: usize, now: u64) -> Result<u64, Fault> {
        match register {
            _ if !self.is_x2apic() => Err(Fault),
            ARBITRATION_PRIORITY | REMOTE_READ | DESTINATION_FORMAT | COMMAND_HIGH | EOI | SELF_IPI => Err(Fault),
            COMMAND => Ok(u64::from(self.page[COMMAND]) | u64::from(self.page[COMMAND_HIGH]) << 32),
            _ => self.value(register, now).map(u64::from).ok_or(Fault),
        }
    }

    fn value(&self, register: usize, now: u64) -> Option<u32> {
        Some(match register {
            ID => self.id_register(),
            VERSION => VERSION_VALUE,
            ARBITRATION_PRIORITY | PROCESSOR_PRIORITY => self.processor_priority(),
            LOGICAL_DESTINATION => self.logical_destination(),
            CURRENT_COUNT => self.timer.current(now),
            INITIAL_COUNT => self.timer.initial,
            REMOTE_READ | TASK_PRIORITY | DESTINATION_FORMAT..=ERROR_STATUS | COMMAND..=LVT_ERROR | DIVIDE => {
                self.page[register]
            }
            _ => return None,
        })
    }

    fn id_register(&self) -> u32 {
        if self.is_x2apic() { self.id } else { self.id << 24 }
    }

    /// Writes a register through the page.
    pub(super) fn write_page(&mut self, register: usize, value: u32, now: u64) -> Request {
        let mut request = Request::default();
        match register {
            ID => self.id = value >> 24,
            LOGICAL_DESTINATION => self.page[LOGICAL_DESTINATION] = value & 0xff00_0000,
            DESTINATION_FORMAT => self.page[DESTINATION_FORMAT] = value | 0x0fff_ffff,
            COMMAND_HIGH => self.page[COMMAND_HIGH] = value & 0xff00_0000,
            COMMAND => {
                let high = self.page[COMMAND_HIGH];
                self.command(value & COMMAND_WRITABLE, high, &mut request);
            }
            VERSION
            | ARBITRATION_PRIORITY
            | PROCESSOR_PRIORITY
            | REMOTE_READ
            | IN_SERVICE..ERROR_STATUS
            | CURRENT_COUNT => {}
            _ => {
                if !self.write(register, value, now, &mut request) {
                    self.error(ERROR_REGISTER);
                }
            }
        }
        request
    }

    /// Writes a register by its MSR.
    pub(super) fn write_msr(&mut self, register: usize, value: u64, now: u64) -> Result<Request, Fault> {
        let mut request = Request::default();
        if !self.is_x2apic() {
            return Err(Fault);
        }
        if register == COMMAND {
            if value as u32 & !(COMMAND_WRITABLE | COMMAND_READ_ONLY) != 0 {
                return Err(Fault);
            }
            self.page[COMMAND_HIGH] = (value >> 32) as u32;
            self.command(value as u32 & COMMAND_WRITABLE, (value >> 32) as u32, &mut request);
            return Ok(request);
        }
        let allowed = match register {
            TASK_PRIORITY | SELF_IPI => 0xff,
            EOI | ERROR_STATUS => 0,
            SPURIOUS => SPURIOUS_WRITABLE,
            INITIAL_COUNT => u32::MAX,
            DIVIDE => 0xb,
            _ if ENTRIES.contains(&register) => entry_writable(register) | ENTRY_READ_ONLY,
            _ => return Err(Fault),
        };
        if value & !u64::from(allowed) != 0 {
            return Err(Fault);
        }
        if register == SELF_IPI {
            self.command(1 << 18 | value as u32, 0, &mut request);
        } else {
            self.write(register, value as u32, now, &mut request);
        }
        Ok(request)
    }

    /// Writes a register that both modes have; false if there is no such register.
    fn write(&mut self, register: usize, value: u32, now: u64, request: &mut Request) -> bool {
        match register {
            TASK_PRIORITY => self.page[TASK_PRIORITY] = value & 0xff,
            EOI => {
                if let Some(vector) = highest(self.bits(IN_SERVICE)) {
                    self.bit(IN_SERVICE, vector, false);
                    request.ended = self.has_bit(TRIGGER_MODE, vector).then_some(vector);
                }
            }
            SPURIOUS => {
                self.page[SPURIOUS] = value & SPURIOUS_WRITABLE;
                if !self.is_software_enabled() {
                    for entry in ENTRIES {
                        self.page[entry] |= ENTRY_MASKED;
                    }
                }
            }
            ERROR_STATUS => self.page[ERROR_STATUS] = std::mem::take(&mut self.errors),
            INITIAL_COUNT => self.timer.set_initial(value, now),
            DIVIDE => {
                self.page[DIVIDE] = value & 0xb;
                self.timer.set_divide(value, now);
            }
            _ if ENTRIES.contains(&register) => {
                let masked = if self.is_software_enabled() { 0 } else { ENTRY_MASKED };
                self.page[register] = value & entry_writable(register) | masked;
                if register == LVT_TIMER {
                    self.timer.set_mode(Mode::from_entry(value), now);
                }
            }
            _ => return false,
        }
        true
    }

    fn command(&mut self, low: u32, high: u32, request: &mut Request) {
        self.page[COMMAND] = low;
        let Some(message) = Message::from_command(self.index, low, high, self.is_x2apic()) else { return };
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if message.vector < 16 => self.error(ERROR_SEND_VECTOR),
            DeliveryMode::Reserved | DeliveryMode::External => {}
            _ => request.message = Some(message),
        }
    }

    /// All registers as a saved state has them. In x2APIC mode the id stays in the highest byte, as KVM keeps it.
    pub(super) fn save(&self, now: u64) -> Vec<u32> {
        let mut page = self.page.to_vec();
        page[ID] = self.id << 24;
        page[VERSION] = VERSION_VALUE;
        page[PROCESSOR_PRIORITY] = self.processor_priority();
        page[LOGICAL_DESTINATION] = self.logical_destination();
        page[INITIAL_COUNT] = self.timer.initial;
        page[CURRENT_COUNT] = self.timer.current(now);
        page
    }

    /// Takes over saved registers; what is missing is as after INIT. The inputs stay.
    pub(super) fn load(&mut self, base: u64, page: &[u32], deadline: u64, now: u64) {
        self.initialise();
        for (own, saved) in self.page.iter_mut().zip(page) {
            *own = *saved;
        }
        self.base = base;
        self.id = if self.is_x2apic() { self.index } else { self.page[ID] >> 24 };
        let [initial, current, divide] = [INITIAL_COUNT, CURRENT_COUNT, DIVIDE].map(|register| self.page[register]);
        let mode = Mode::from_entry(self.page[LVT_TIMER]);
        self.timer = Counter::load(mode, divide, initial, current, deadline, now);
        // Vectors below 16 cannot have been accepted.
        for first in [IN_SERVICE, TRIGGER_MODE, REQUEST] {
            self.page[first] &= !0xffff;
        }
    }
}

/// Bits of a local vector table entry that can be written.
fn entry_writable(register: usize) -> u32 {
    0xff | ENTRY_MASKED
        | match register {
            LVT_TIMER => 3 << 17,
            LVT_THERMAL | LVT_PERFORMANCE => 7 << 8,
            // Polarity and trigger mode.
            LVT_LINT0 | LVT_LINT1 => 7 << 8 | 1 << 13 | 1 << 15,
            _ => 0,
        }
}
