//! IDE channels: the registers and data transfers of ATA disks and ATAPI CD-ROM drives.
//!
//! T13 1410D (ATA/ATAPI-6) for registers, commands and protocols; commands of CD-ROM drives are those of MMC-3. The bus
//! master of a channel is that of Intel's 82371SB data sheet (290550), section 2.7.3.
//!
//! Whatever waits for the host's disk is a [`Job`] that the channel's own thread does while the device is busy.

mod ata;
mod atapi;
mod bus_master;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};

use accel::memory::GuestMemory;
use block::{Backend, ErrorAction, Operation};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::bus::{AccessRules, Effect, PioDevice, Width};
use crate::device::{Device, StateError, impossible, parse_state, state_value};
use crate::interrupt::InterruptLine;
use crate::worker::Worker;
use bus_master::BusMaster;

/// Number of ports of the command block.
pub const COMMAND_PORTS: u64 = 8;
/// Offset at which the device sees the control port.
pub const CONTROL: u64 = 0x10;

/// Number of ports of a channel's bus master.
pub const BUS_MASTER_PORTS: u64 = 8;

// Registers of the command block.
const DATA: u64 = 0;
const ERROR: u64 = 1;
const COUNT: u64 = 2;
const LBA_LOW: u64 = 3;
const LBA_MID: u64 = 4;
const LBA_HIGH: u64 = 5;
const DEVICE: u64 = 6;
const STATUS: u64 = 7;

const STATUS_ERROR: u8 = 1 << 0;
const STATUS_REQUEST: u8 = 1 << 3;
const STATUS_SEEK_DONE: u8 = 1 << 4;
const STATUS_READY: u8 = 1 << 6;
const STATUS_BUSY: u8 = 1 << 7;
/// A disk that waits for a command.
const IDLE: u8 = STATUS_READY | STATUS_SEEK_DONE;

const ERROR_ABORTED: u8 = 1 << 2;
const ERROR_NOT_FOUND: u8 = 1 << 4;
const ERROR_UNCORRECTABLE: u8 = 1 << 6;

const CONTROL_NO_INTERRUPTS: u8 = 1 << 1;
const CONTROL_RESET: u8 = 1 << 2;
const CONTROL_HIGH_BYTES: u8 = 1 << 7;

const DEVICE_SECOND: u8 = 1 << 4;

/// Most bytes that are moved to or from a disk at a time. A multiple of both sector sizes.
const MOST_AT_ONCE: u64 = 128 * 1024;

const SECTOR: u64 = 512;
const CD_SECTOR: u64 = 2048;

/// What a drive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriveKind {
    /// A hard disk.
    Disk,
    /// A CD-ROM drive.
    CdRom,
}

/// A drive on a channel.
#[derive(Clone)]
pub struct Drive {
    /// What it is.
    pub kind: DriveKind,
    /// The disk; a CD-ROM drive may be without one.
    pub medium: Arc<Backend>,
    /// Serial number, at most 20 characters of ASCII.
    pub serial: String,
}

impl Drive {
    /// Size of a sector, bytes.
    fn sector(&self) -> u64 {
        match self.kind {
            DriveKind::Disk => SECTOR,
            DriveKind::CdRom => CD_SECTOR,
        }
    }

    /// Number of whole sectors.
    fn sectors(&self) -> u64 {
        self.medium.length() / self.sector()
    }
}

/// A register of two bytes that are written one after the other, for 48-bit commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Twice {
    last: u8,
    before: u8,
}

impl Twice {
    fn write(&mut self, value: u8) {
        (self.before, self.last) = (self.last, value);
    }

    fn both(self) -> u64 {
        u64::from(self.before) << 8 | u64::from(self.last)
    }
}

/// Registers of one drive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct DriveRegisters {
    error: u8,
    features: Twice,
    count: Twice,
    lba_low: Twice,
    lba_mid: Twice,
    lba_high: Twice,
    device: u8,
    status: u8,
    /// Sectors in a block of READ MULTIPLE and WRITE MULTIPLE; 0: not set.
    multiple: u8,
    /// Heads and sectors of a track in the present translation.
    heads: u8,
    track: u8,
    /// Transfer mode that SET FEATURES chose.
    transfer_mode: u8,
    /// A CD-ROM drive's sense key, additional sense code and its qualifier.
    sense: [u8; 3],
}

/// What the data port, or the bus master, is moving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// Nothing.
    #[default]
    Idle,
    /// The buffer goes to the guest in blocks of `block` bytes. After it, `left` bytes from `offset` of the disk.
    Read { offset: u64, left: u64, block: u64 },
    /// The guest fills the buffer for `offset`; of a write of `left` bytes, in blocks of `block` bytes.
    Write { offset: u64, left: u64, block: u64 },
    /// `left` bytes at `offset` wait for the bus master.
    Dma { offset: u64, left: u64, write: bool },
    /// The guest writes a packet.
    Packet,
    /// The buffer goes to the guest, as the answer to a packet, in parts of `limit` bytes. After it, as in `Read`.
    Answer { offset: u64, left: u64, limit: u64 },
    /// The buffer waits for the bus master, as the answer to a packet.
    AnswerDma,
}

/// Something that waits for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Job {
    /// Fill the buffer with `length` bytes from `offset`.
    Read { offset: u64, length: u64 },
    /// Write the buffer at `offset`.
    Write { offset: u64 },
    /// Move between the disk and the bus master's memory.
    Dma { offset: u64, length: u64, write: bool },
    /// Move the buffer to the bus master's memory.
    AnswerDma,
    /// Make everything safe.
    Flush,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    drives: [DriveRegisters; 2],
    second: bool,
    control: u8,
    /// INTRQ.
    interrupt: bool,
    phase: Phase,
    /// Data on its way, and how much of it was moved through the data port.
    buffer: Vec<u8>,
    position: usize,
    job: Option<Job>,
    /// How many jobs there were, so that one that ends late is not taken for another that is the same.
    #[serde(skip)]
    jobs: u64,
    bus_master: BusMaster,
}

impl State {
    fn selected(&mut self) -> &mut DriveRegisters {
        &mut self.drives[usize::from(self.second)]
    }
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JobEnd {
    Done,
    Failed,
    /// It is to be done again when the machine goes on.
    Stalled,
}

impl JobEnd {
    fn of(done: bool) -> JobEnd {
        if done { JobEnd::Done } else { JobEnd::Failed }
    }
}

/// What a request to the medium comes to, by the user's choice of what happens when it fails.
fn end_of(medium: &Backend, operation: Operation, result: Result<(), block::Error>) -> JobEnd {
    let Err(error) = result else { return JobEnd::Done };
    match medium.failed(operation, &error) {
        ErrorAction::Report => JobEnd::Failed,
        ErrorAction::Ignore => JobEnd::Done,
        ErrorAction::Stop => JobEnd::Stalled,
    }
}

struct Shared {
    label: String,
    drives: [Option<Drive>; 2],
    line: InterruptLine,
    memory: Arc<GuestMemory>,
    // Lock order: before interrupt controllers'; not held while the host's disk works.
    state: Mutex<State>,
}

/// An IDE channel with its two drives.
pub struct Channel {
    shared: Arc<Shared>,
    worker: Worker,
}

impl Channel {
    /// A channel called `label` that interrupts through `line`.
    pub fn new(
        label: String,
        drives: [Option<Drive>; 2],
        line: InterruptLine,
        memory: Arc<GuestMemory>,
    ) -> std::io::Result<Arc<Channel>> {
        let shared = Arc::new(Shared { label, drives, line, memory, state: Mutex::default() });
        shared.reset(&mut shared.state.lock());
        // The thread does not keep a channel alive that nobody has any more.
        let work: Weak<Shared> = Arc::downgrade(&shared);
        let worker = Worker::start("ide", move || work.upgrade().is_some_and(|shared| shared.work()))?;
        Ok(Arc::new(Channel { shared, worker }))
    }

    /// The drives: first and second.
    pub fn drives(&self) -> &[Option<Drive>; 2] {
        &self.shared.drives
    }

    /// Reads a register of the bus master.
    pub fn read_bus_master(&self, offset: u64) -> u8 {
        self.shared.state.lock().bus_master.read(offset)
    }

    /// Writes a register of the bus master.
    pub fn write_bus_master(&self, offset: u64, value: u8) {
        let mut state = self.shared.state.lock();
        if state.bus_master.write(offset, value) {
            self.shared.start_dma(&mut state);
        }
        self.go_on(&state);
    }

    /// Wakes the thread if there is something for it to do.
    fn go_on(&self, state: &State) {
        if state.job.is_some() {
            self.worker.kick();
        }
    }
}

impl Shared {
    fn drive(&self, state: &State) -> Option<&Drive> {
        self.drives[usize::from(state.second)].as_ref()
    }

    /// Power-on.
    fn reset(&self, state: &mut State) {
        *state = State { jobs: state.jobs, ..State::default() };
        for (registers, drive) in state.drives.iter_mut().zip(&self.drives) {
            (registers.heads, registers.track) = (ata::HEADS, ata::TRACK);
            if let Some(drive) = drive {
                registers.transfer_mode = ata::DEFAULT_MODE;
                sign(registers, drive.kind);
            }
        }
        self.line.set(false);
    }

    /// A reset by the control register, or EXECUTE DEVICE DIAGNOSTIC: transfers end, modes stay.
    fn software_reset(&self, state: &mut State) {
        (state.phase, state.job, state.second) = (Phase::Idle, None, false);
        state.buffer.clear();
        state.position = 0;
        for (registers, drive) in state.drives.iter_mut().zip(&self.drives) {
            if let Some(drive) = drive {
                sign(registers, drive.kind);
            }
        }
        self.set_interrupt(state, false);
    }

    fn set_interrupt(&self, state: &mut State, level: bool) {
        if level && !state.interrupt {
            state.bus_master.interrupt();
        }
        state.interrupt = level;
        self.line.set(level && state.control & CONTROL_NO_INTERRUPTS == 0);
    }

    /// The present command ends.
    fn finish(&self, state: &mut State) {
        state.phase = Phase::Idle;
        let registers = state.selected();
        registers.status = IDLE;
        registers.error = 0;
        self.set_interrupt(state, true);
    }

    /// The present command of a disk ends with an error.
    fn fail(&self, state: &mut State, error: u8) {
        state.phase = Phase::Idle;
        state.bus_master.stop(false);
        let registers = state.selected();
        registers.status = IDLE | STATUS_ERROR;
        registers.error = error;
        self.set_interrupt(state, true);
    }

    /// The device is busy until `job` is done.
    fn begin(&self, state: &mut State, job: Job) {
        state.selected().status = STATUS_BUSY | STATUS_READY;
        state.job = Some(job);
        state.jobs += 1;
    }

    /// The guest may move the next block of the buffer.
    fn request(&self, state: &mut State, interrupt: bool) {
        state.selected().status = IDLE | STATUS_REQUEST;
        if interrupt {
            self.set_interrupt(state, true);
        }
    }

    /// Starts what waits for the bus master, if that is on.
    fn start_dma(&self, state: &mut State) {
        if !state.bus_master.is_started() || state.job.is_some() {
            return;
        }
        match state.phase {
            Phase::Dma { offset, left, write } => self.begin(state, Job::Dma { offset, length: left, write }),
            Phase::AnswerDma => self.begin(state, Job::AnswerDma),
            _ => return,
        }
        state.phase = Phase::Idle;
    }

    /// Does the job that there is; false, as there is never a second one.
    fn work(&self) -> bool {
        let (job, number, second, mut buffer, regions) = {
            let mut state = self.state.lock();
            let Some(job) = state.job else { return false };
            let regions = match job {
                Job::Dma { .. } | Job::AnswerDma => Some(state.bus_master.regions(&self.memory)),
                _ => None,
            };
            (job, state.jobs, state.second, std::mem::take(&mut state.buffer), regions)
        };
        let medium = self.drives[usize::from(second)].as_ref().map(|drive| drive.medium.clone());
        let memory = &*self.memory;
        let end = match (job, &medium, &regions) {
            (Job::AnswerDma, _, Some(regions)) => JobEnd::of(regions.write(memory, 0, &buffer)),
            (Job::Read { offset, length }, Some(medium), _) => {
                // Bounded: no job is longer than MOST_AT_ONCE.
                buffer.resize(length as usize, 0);
                end_of(medium, Operation::Read, medium.read_blocking(offset, &mut buffer))
            }
            (Job::Write { offset }, Some(medium), _) => {
                end_of(medium, Operation::Write, medium.write_blocking(offset, &buffer))
            }
            (Job::Flush, Some(medium), _) => end_of(medium, Operation::Write, medium.flush_blocking()),
            (Job::Dma { offset, length, write }, Some(medium), Some(regions)) => {
                self.dma(medium, regions, offset, length, write)
            }
            _ => JobEnd::Failed,
        };
        let mut state = self.state.lock();
        // A reset may have come meanwhile, and even a new job after it.
        if state.job == Some(job) && state.jobs == number && state.second == second {
            state.buffer = buffer;
            if end == JobEnd::Stalled {
                // It is done again when the machine goes on.
                return false;
            }
            state.job = None;
            state.position = 0;
            let length = job.length(&state);
            let used_up = regions.is_some_and(|regions| regions.is_used_up(length));
            self.done(&mut state, job, end == JobEnd::Done, used_up);
        }
        state.job.is_some()
    }

    fn dma(&self, medium: &Backend, regions: &bus_master::Regions, offset: u64, length: u64, write: bool) -> JobEnd {
        let mut buffer = vec![0; length.min(MOST_AT_ONCE) as usize];
        let mut moved = 0;
        while moved < length {
            let part = &mut buffer[..(length - moved).min(MOST_AT_ONCE) as usize];
            let at = offset.saturating_add(moved);
            let end = if write {
                match regions.read(&self.memory, moved, part) {
                    true => end_of(medium, Operation::Write, medium.write_blocking(at, part)),
                    false => JobEnd::Failed,
                }
            } else {
                match end_of(medium, Operation::Read, medium.read_blocking(at, part)) {
                    JobEnd::Done => JobEnd::of(regions.write(&self.memory, moved, part)),
                    other => other,
                }
            };
            if end != JobEnd::Done {
                return end;
            }
            moved += part.len() as u64;
        }
        JobEnd::Done
    }

    /// After a job.
    fn done(&self, state: &mut State, job: Job, done: bool, memory_used_up: bool) {
        let is_cd = self.drive(state).is_some_and(|drive| drive.kind == DriveKind::CdRom);
        if !done {
            state.bus_master.fail();
            if is_cd {
                self.packet_fail(state, atapi::MEDIUM_ERROR);
            } else {
                self.fail(
                    state,
                    if matches!(job, Job::Read { .. } | Job::Dma { write: false, .. }) {
                        ERROR_UNCORRECTABLE
                    } else {
                        ERROR_ABORTED
                    },
                );
            }
            return;
        }
        match (job, state.phase) {
            (Job::Read { .. }, Phase::Answer { .. }) => self.next_answer(state),
            (Job::Read { .. }, _) => self.request(state, true),
            (Job::Write { .. }, Phase::Write { left: 1.., .. }) => {
                state.buffer.clear();
                self.request(state, true);
            }
            (Job::Dma { .. } | Job::AnswerDma, _) => {
                state.bus_master.stop(!memory_used_up);
                if is_cd { self.packet_done(state) } else { self.finish(state) }
            }
            _ => self.finish(state),
        }
    }

    /// A block of the buffer was read through the data port to its end.
    fn block_read(&self, state: &mut State) {
        let Phase::Read { offset, left, block } = state.phase else { return };
        if state.position < state.buffer.len() {
            // The next block is there.
            self.request(state, true);
        } else if left > 0 {
            let length = left.min(MOST_AT_ONCE);
            state.phase = Phase::Read { offset: offset.saturating_add(length), left: left - length, block };
            self.begin(state, Job::Read { offset, length });
        } else {
            state.phase = Phase::Idle;
            state.selected().status = IDLE;
        }
    }

    /// A block was written through the data port.
    fn block_written(&self, state: &mut State) {
        let Phase::Write { offset, left, block } = state.phase else { return };
        let length = state.buffer.len() as u64;
        state.phase = Phase::Write { offset: offset.saturating_add(length), left: left.saturating_sub(length), block };
        self.begin(state, Job::Write { offset });
    }

    fn read_data(&self, state: &mut State, width: Width) -> u64 {
        let count = width.bytes() as usize;
        let block = match state.phase {
            Phase::Read { block, .. } => block,
            Phase::Answer { limit, .. } => limit,
            _ => return 0,
        };
        if state.selected().status & STATUS_REQUEST == 0 {
            return 0;
        }
        let mut bytes = [0; 8];
        let end = state.buffer.len().min(state.position + count);
        let part = state.buffer.get(state.position..end).unwrap_or_default();
        bytes[..part.len()].copy_from_slice(part);
        state.position = end;
        let at_end = end >= state.buffer.len();
        match state.phase {
            Phase::Read { .. } if at_end || (end as u64).is_multiple_of(block.max(1)) => self.block_read(state),
            Phase::Answer { .. } => self.answer_read(state),
            _ => {}
        }
        u64::from_le_bytes(bytes)
    }

    fn write_data(&self, state: &mut State, width: Width, value: u64) {
        let (phase, requested) = (state.phase, state.selected().status & STATUS_REQUEST != 0);
        let wanted = match phase {
            Phase::Write { left, block, .. } => block.min(left) as usize,
            Phase::Packet => atapi::PACKET_LENGTH,
            _ => return,
        };
        if !requested {
            return;
        }
        let room = wanted.saturating_sub(state.buffer.len()).min(width.bytes() as usize);
        state.buffer.extend(&value.to_le_bytes()[..room]);
        if state.buffer.len() >= wanted {
            if phase == Phase::Packet { self.packet(state) } else { self.block_written(state) }
        }
    }

    fn read_register(&self, state: &mut State, register: u64) -> u8 {
        if self.drives.iter().all(Option::is_none) || self.drive(state).is_none() {
            // An absent second drive is answered for by the first, with a status of nothing.
            return 0;
        }
        let high = state.control & CONTROL_HIGH_BYTES != 0;
        let registers = state.selected();
        let pick = |twice: Twice| if high { twice.before } else { twice.last };
        match register {
            ERROR => registers.error,
            COUNT => pick(registers.count),
            LBA_LOW => pick(registers.lba_low),
            LBA_MID => pick(registers.lba_mid),
            LBA_HIGH => pick(registers.lba_high),
            DEVICE => registers.device,
            STATUS => {
                let status = registers.status;
                self.set_interrupt(state, false);
                status
            }
            _ => registers.status,
        }
    }

    fn write_register(&self, state: &mut State, register: u64, value: u8) {
        match register {
            DEVICE => {
                // Not while a command is under way, whose registers these are.
                if state.job.is_none() {
                    state.second = value & DEVICE_SECOND != 0;
                }
                state.drives.iter_mut().for_each(|registers| registers.device = value | 0xa0);
            }
            STATUS => {
                if self.drive(state).is_some() {
                    self.command(state, value);
                }
            }
            CONTROL => {
                let before = std::mem::replace(&mut state.control, value);
                if value & CONTROL_RESET != 0 && before & CONTROL_RESET == 0 {
                    self.software_reset(state);
                    state.drives.iter_mut().for_each(|registers| registers.status |= STATUS_BUSY);
                } else if value & CONTROL_RESET == 0 && before & CONTROL_RESET != 0 {
                    state.drives.iter_mut().for_each(|registers| registers.status &= !STATUS_BUSY);
                }
                let interrupt = state.interrupt;
                self.set_interrupt(state, interrupt);
            }
            _ => {
                // Both drives listen.
                state.control &= !CONTROL_HIGH_BYTES;
                for registers in &mut state.drives {
                    match register {
                        ERROR => registers.features.write(value),
                        COUNT => registers.count.write(value),
                        LBA_LOW => registers.lba_low.write(value),
                        LBA_MID => registers.lba_mid.write(value),
                        LBA_HIGH => registers.lba_high.write(value),
                        _ => {}
                    }
                }
            }
        }
    }

    fn command(&self, state: &mut State, command: u8) {
        let kind = self.drive(state).map_or(DriveKind::Disk, |drive| drive.kind);
        if command == atapi::DEVICE_RESET && kind == DriveKind::CdRom {
            let second = state.second;
            self.software_reset(state);
            state.second = second;
            return;
        }
        if state.selected().status & (STATUS_BUSY | STATUS_REQUEST) != 0 && command != ata::DIAGNOSTIC {
            return;
        }
        state.control &= !CONTROL_HIGH_BYTES;
        self.set_interrupt(state, false);
        state.selected().error = 0;
        state.buffer.clear();
        state.position = 0;
        match kind {
            DriveKind::Disk => self.ata_command(state, command),
            DriveKind::CdRom => self.atapi_command(state, command),
        }
    }
}

impl Job {
    /// How many bytes go through the bus master.
    fn length(self, state: &State) -> u64 {
        match self {
            Job::Dma { length, .. } => length,
            _ => state.buffer.len() as u64,
        }
    }
}

/// Puts the signature of a drive into its registers, as after a reset.
fn sign(registers: &mut DriveRegisters, kind: DriveKind) {
    let value = |last| Twice { last, before: 0 };
    (registers.count, registers.lba_low) = (value(1), value(1));
    (registers.lba_mid, registers.lba_high, registers.status) = match kind {
        DriveKind::Disk => (value(0), value(0), IDLE),
        DriveKind::CdRom => (value(0x14), value(0xeb), 0),
    };
    (registers.device, registers.error, registers.multiple) = (0, 1, 0);
}

impl Device for Channel {
    fn debug_label(&self) -> &str {
        &self.shared.label
    }
    fn reset(&self) {
        let mut state = self.shared.state.lock();
        self.shared.reset(&mut state);
    }
    fn pause(&self) {
        self.worker.pause();
    }
    fn resume(&self) {
        self.worker.resume();
        if self.shared.state.lock().job.is_some() {
            self.worker.kick();
        }
    }
    fn save(&self) -> serde_json::Value {
        state_value(&*self.shared.state.lock())
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: State = parse_state(self.debug_label(), state)?;
        let job_is_short = match new.job {
            Some(Job::Read { length, .. }) => length <= MOST_AT_ONCE,
            Some(Job::Dma { length, .. }) => length <= ata::MOST_SECTORS * CD_SECTOR,
            _ => true,
        };
        let block_is_short = match new.phase {
            Phase::Read { block, .. } | Phase::Write { block, .. } => block <= MOST_AT_ONCE,
            _ => true,
        };
        let fits = new.buffer.len() as u64 <= MOST_AT_ONCE && new.position <= new.buffer.len();
        if !fits || !job_is_short || !block_is_short {
            return Err(impossible(self.debug_label(), format!("a transfer has {MOST_AT_ONCE} bytes at most")));
        }
        let mut state = self.shared.state.lock();
        *state = new;
        let interrupt = state.interrupt;
        self.shared.set_interrupt(&mut state, interrupt);
        self.go_on(&state);
        Ok(())
    }
}

impl PioDevice for Channel {
    fn port_rules(&self) -> AccessRules {
        AccessRules { narrowest: Width::Byte, widest: Width::Word, split_to: Width::Word, unaligned: true }
    }

    fn read_port(&self, offset: u64, width: Width) -> u64 {
        let mut state = self.shared.state.lock();
        let value = match offset {
            DATA => self.shared.read_data(&mut state, width),
            _ => u64::from(self.shared.read_register(&mut state, offset)),
        };
        self.go_on(&state);
        value
    }

    fn write_port(&self, offset: u64, width: Width, value: u64) -> Effect {
        let mut state = self.shared.state.lock();
        match offset {
            DATA => self.shared.write_data(&mut state, width, value),
            _ => self.shared.write_register(&mut state, offset, value as u8),
        }
        self.go_on(&state);
        Effect::None
    }
}
