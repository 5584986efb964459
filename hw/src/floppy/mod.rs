//! Floppy disk controller of a PC.
//!
//! Intel 82078 data sheet (290475): registers at ports 0x3f0 to 0x3f5 and 0x3f7, ISA interrupt 6, DMA channel 2. What a
//! drive does by moving takes no time, and a command that reads or writes finds its track by itself; a disk has sectors of
//! 512 bytes, and no sector is marked as deleted.

mod command;
mod drive;
#[cfg(test)]
mod tests;
mod transfer;

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub use drive::{Drive, DriveKind, Geometry};

use crate::bus::{Effect, PioDevice, Width};
use crate::device::{Device, StateError, impossible, parse_state, state_value};
use crate::i8237::{DmaDevice, I8237};
use crate::interrupt::InterruptLine;
use crate::worker::Worker;
use drive::SECTOR;
use transfer::Transfer;

/// First port and number of ports of each range; the device sees offsets from 0x3f0 on. The port between belongs to IDE.
pub const PORTS: [(u64, u64, u64); 2] = [(0x3f0, 6, 0), (0x3f7, 1, 7)];

/// ISA interrupt.
pub const INTERRUPT: u8 = 6;
/// DMA channel.
pub const DMA_CHANNEL: usize = 2;
/// Drives that can be connected.
pub const DRIVES: usize = 2;

// Registers.
const STATUS_A: u64 = 0;
const STATUS_B: u64 = 1;
const DIGITAL_OUTPUT: u64 = 2;
const TAPE_DRIVE: u64 = 3;
/// Main status when read, data rate select when written.
const MAIN_STATUS: u64 = 4;
const FIFO: u64 = 5;
/// Digital input when read, configuration control when written.
const DIGITAL_INPUT: u64 = 7;

const OUTPUT_DRIVE: u8 = 0x03;
/// Low: the controller is held in reset.
const OUTPUT_RUN: u8 = 1 << 2;
/// Interrupts and DMA requests reach the bus.
const OUTPUT_GATE: u8 = 1 << 3;

const RATE_RESET: u8 = 1 << 7;
const RATE: u8 = 0x03;

const MAIN_READY: u8 = 1 << 7;
/// The guest reads.
const MAIN_READ: u8 = 1 << 6;
/// Data goes through the FIFO, not by DMA.
const MAIN_NO_DMA: u8 = 1 << 5;
const MAIN_BUSY: u8 = 1 << 4;

const INPUT_CHANGED: u8 = 1 << 7;

// Status register 0.
const ST0_ABNORMAL: u8 = 0x40;
const ST0_INVALID: u8 = 0x80;
const ST0_POLLED: u8 = 0xc0;
const ST0_SEEK_END: u8 = 0x20;
const ST0_EQUIPMENT: u8 = 0x10;
// Status register 1.
const ST1_END_OF_CYLINDER: u8 = 0x80;
const ST1_DATA_ERROR: u8 = 0x20;
const ST1_NO_DATA: u8 = 0x04;
const ST1_NOT_WRITABLE: u8 = 0x02;
const ST1_NO_ADDRESS_MARK: u8 = 0x01;
// Status register 2.
const ST2_CONTROL_MARK: u8 = 0x40;
const ST2_SCAN_EQUAL: u8 = 0x08;
const ST2_SCAN_FAILED: u8 = 0x04;

/// Longest command, bytes.
const LONGEST_COMMAND: usize = 17;

/// What the FIFO is for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
enum Phase {
    /// The guest writes a command.
    #[default]
    Command,
    /// Data is moved.
    Execution(Transfer),
    /// The guest reads results.
    Result,
}

/// Something that waits for the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Job {
    Read { drive: usize, offset: u64 },
    Write { drive: usize, offset: u64, data: Vec<u8> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct State {
    output: u8,
    tape: u8,
    rate: u8,
    phase: Phase,
    command: Vec<u8>,
    results: Vec<u8>,
    /// How many results were read.
    results_read: usize,
    interrupt: bool,
    /// What SENSE INTERRUPT STATUS will tell: status register 0 of each drive that has something to tell.
    sense: [Option<u8>; 4],
    /// Tracks where the heads are, as the controller counts.
    tracks: [u8; 4],
    /// The disk was changed since the drive moved last.
    changed: [bool; DRIVES],
    /// Parameters of SPECIFY, CONFIGURE (second and third), PERPENDICULAR MODE.
    specify: [u8; 2],
    configure: [u8; 2],
    perpendicular: u8,
    locked: bool,
    job: Option<Job>,
}

const CONFIGURE_NO_FIFO: u8 = 1 << 5;
const CONFIGURE_NO_POLLING: u8 = 1 << 4;
const SPECIFY_NO_DMA: u8 = 1 << 0;

/// After power-on the rate is 250 kbit/s.
const FIRST_RATE: u8 = 2;

impl State {
    fn new() -> State {
        State {
            output: 0,
            tape: 0,
            rate: FIRST_RATE,
            phase: Phase::Command,
            command: Vec::new(),
            results: Vec::new(),
            results_read: 0,
            interrupt: false,
            sense: [None; 4],
            tracks: [0; 4],
            changed: [true; DRIVES],
            specify: [0; 2],
            configure: [CONFIGURE_NO_FIFO, 0],
            perpendicular: 0,
            locked: false,
            job: None,
        }
    }

    fn selected(&self) -> usize {
        usize::from(self.output & OUTPUT_DRIVE)
    }

    /// Data goes by DMA.
    fn uses_dma(&self) -> bool {
        self.specify[1] & SPECIFY_NO_DMA == 0
    }
}

struct Shared {
    drives: [Option<(Drive, Geometry)>; DRIVES],
    line: InterruptLine,
    dma: Arc<I8237>,
    // Lock order: before interrupt and DMA controllers'; not held while the host's disk works.
    state: Mutex<State>,
}

/// The controller.
pub struct FloppyController {
    shared: Arc<Shared>,
    worker: Worker,
}

impl FloppyController {
    /// A controller with these drives, whose disks must have a [`Drive::geometry`]; others are left out.
    pub fn new(
        drives: [Option<Drive>; DRIVES],
        line: InterruptLine,
        dma: Arc<I8237>,
    ) -> std::io::Result<Arc<FloppyController>> {
        let drives = drives.map(|drive| drive.and_then(|drive| drive.geometry().map(|geometry| (drive, geometry))));
        let shared = Arc::new(Shared { drives, line, dma, state: Mutex::new(State::new()) });
        // The thread does not keep a controller alive that nobody has any more.
        let work: Weak<Shared> = Arc::downgrade(&shared);
        let worker = Worker::start("floppy", move || work.upgrade().is_some_and(|shared| shared.work()))?;
        let controller = Arc::new(FloppyController { shared, worker });
        let device: Weak<FloppyController> = Arc::downgrade(&controller);
        controller.shared.dma.connect(DMA_CHANNEL, device);
        Ok(controller)
    }

    /// Wakes the thread if there is something for it to do.
    fn go_on(&self, state: &State) {
        if state.job.is_some() {
            self.worker.kick();
        }
    }
}

impl DmaDevice for FloppyController {
    fn channel_opened(&self) {
        let mut state = self.shared.state.lock();
        self.shared.move_data(&mut state);
        self.go_on(&state);
    }
}

impl Shared {
    fn drive(&self, number: usize) -> Option<&(Drive, Geometry)> {
        self.drives.get(number)?.as_ref()
    }

    fn set_interrupt(&self, state: &mut State, level: bool) {
        state.interrupt = level;
        self.line.set(level && state.output & OUTPUT_GATE != 0);
    }

    /// What a reset by either register does; settings that are locked stay.
    fn software_reset(&self, state: &mut State) {
        let fresh = State::new();
        if !state.locked {
            (state.configure, state.perpendicular) = (fresh.configure, state.perpendicular & 0x3c);
        }
        (state.phase, state.job, state.tracks) = (fresh.phase, None, fresh.tracks);
        state.command.clear();
        state.results.clear();
        state.results_read = 0;
        state.sense = fresh.sense;
        self.dma.set_request(DMA_CHANNEL, false);
        self.set_interrupt(state, false);
    }

    /// The controller comes out of reset: it polls all drives and tells of each.
    fn start(&self, state: &mut State) {
        if state.configure[0] & CONFIGURE_NO_POLLING == 0 {
            state.sense = [0, 1, 2, 3].map(|drive| Some(ST0_POLLED | drive));
            self.set_interrupt(state, true);
        }
    }

    fn write_output(&self, state: &mut State, value: u8) {
        let before = std::mem::replace(&mut state.output, value);
        if value & OUTPUT_RUN == 0 && before & OUTPUT_RUN != 0 {
            self.software_reset(state);
        } else if value & OUTPUT_RUN != 0 && before & OUTPUT_RUN == 0 {
            self.start(state);
        }
        let level = state.interrupt;
        self.set_interrupt(state, level);
    }

    fn main_status(state: &State) -> u8 {
        if state.output & OUTPUT_RUN == 0 {
            return 0;
        }
        match &state.phase {
            Phase::Command if state.command.is_empty() => MAIN_READY,
            Phase::Command => MAIN_READY | MAIN_BUSY,
            Phase::Execution(transfer) if transfer.waits_for_fifo(state.uses_dma()) => {
                MAIN_READY | MAIN_BUSY | MAIN_NO_DMA | if transfer.is_read() { MAIN_READ } else { 0 }
            }
            Phase::Execution(_) => MAIN_BUSY,
            Phase::Result => MAIN_READY | MAIN_READ | MAIN_BUSY,
        }
    }

    fn read_fifo(&self, state: &mut State) -> u8 {
        match &mut state.phase {
            Phase::Result => {
                let byte = state.results.get(state.results_read).copied().unwrap_or(0);
                state.results_read += 1;
                if state.results_read >= state.results.len() {
                    state.phase = Phase::Command;
                    state.results.clear();
                    state.results_read = 0;
                }
                // A transfer's interrupt ends with its first result; SENSE INTERRUPT STATUS ended the others.
                self.set_interrupt(state, false);
                byte
            }
            Phase::Execution(_) => self.read_data(state).unwrap_or(0xff),
            Phase::Command => 0xff,
        }
    }

    fn write_fifo(&self, state: &mut State, value: u8) {
        if state.output & OUTPUT_RUN == 0 {
            return;
        }
        match &state.phase {
            Phase::Command => {
                state.command.push(value);
                self.interpret(state);
            }
            Phase::Execution(_) => self.write_data(state, value),
            Phase::Result => {}
        }
    }

    /// The command ends with these results.
    fn finish(&self, state: &mut State, results: &[u8], interrupt: bool) {
        state.command.clear();
        state.results = results.to_vec();
        state.results_read = 0;
        state.phase = if results.is_empty() { Phase::Command } else { Phase::Result };
        if interrupt {
            self.set_interrupt(state, true);
        }
    }

    /// Does the job that waits; true if there is another one.
    fn work(&self) -> bool {
        let Some(job) = self.state.lock().job.clone() else { return false };
        let (succeeded, data) = match &job {
            Job::Read { drive, offset } => {
                let mut data = vec![0; SECTOR as usize];
                (self.drive(*drive).is_some_and(|(drive, _)| drive.read(*offset, &mut data).is_ok()), data)
            }
            Job::Write { drive, offset, data } => {
                let written =
                    self.drive(*drive).is_some_and(|(drive, _)| drive.medium.write_blocking(*offset, data).is_ok());
                (written, Vec::new())
            }
        };
        let mut state = self.state.lock();
        // It may have been reset meanwhile.
        if state.job.as_ref() == Some(&job) {
            state.job = None;
            self.sector_done(&mut state, succeeded, data);
        }
        state.job.is_some()
    }
}

impl Device for FloppyController {
    fn debug_label(&self) -> &str {
        "floppy"
    }
    fn reset(&self) {
        let mut state = self.shared.state.lock();
        *state = State::new();
        self.shared.dma.set_request(DMA_CHANNEL, false);
        self.shared.set_interrupt(&mut state, false);
    }
    fn pause(&self) {
        self.worker.pause();
    }
    fn resume(&self) {
        self.worker.resume();
        self.go_on(&self.shared.state.lock());
    }
    fn save(&self) -> serde_json::Value {
        state_value(&*self.shared.state.lock())
    }
    fn restore(&self, state: &serde_json::Value) -> Result<(), StateError> {
        let new: State = parse_state(self.debug_label(), state)?;
        let sectors = |transfer: &Transfer| transfer.is_possible();
        if new.command.len() > LONGEST_COMMAND
            || new.results.len() > LONGEST_COMMAND
            || matches!(&new.job, Some(Job::Write { data, .. }) if data.len() != SECTOR as usize)
            || matches!(&new.phase, Phase::Execution(transfer) if !sectors(transfer))
        {
            return Err(impossible(self.debug_label(), "commands and results have 17 bytes at most, sectors 512"));
        }
        let mut state = self.shared.state.lock();
        *state = new;
        let level = state.interrupt;
        self.shared.set_interrupt(&mut state, level);
        Ok(())
    }
}

impl PioDevice for FloppyController {
    fn read_port(&self, offset: u64, _width: Width) -> u64 {
        let mut state = self.shared.state.lock();
        let value = match offset {
            // Bit 7 is the interrupt; the others are lines of a PS/2's drives, of which nothing moves.
            STATUS_A => u8::from(state.interrupt) << 7,
            STATUS_B => 0xc0 | (state.output & 0x30) >> 4 | (state.output & 1) << 5,
            DIGITAL_OUTPUT => state.output,
            TAPE_DRIVE => state.tape,
            MAIN_STATUS => Shared::main_status(&state),
            FIFO => self.shared.read_fifo(&mut state),
            DIGITAL_INPUT => match state.changed.get(state.selected()) {
                Some(true) if self.shared.drive(state.selected()).is_some() => INPUT_CHANGED,
                // An empty drive keeps saying so.
                Some(_) if self.shared.drive(state.selected()).is_none() => INPUT_CHANGED,
                _ => 0,
            },
            _ => 0xff,
        };
        self.go_on(&state);
        u64::from(value)
    }

    fn write_port(&self, offset: u64, _width: Width, value: u64) -> Effect {
        let value = value as u8;
        let mut state = self.shared.state.lock();
        match offset {
            DIGITAL_OUTPUT => self.shared.write_output(&mut state, value),
            TAPE_DRIVE => state.tape = value & 0x03,
            MAIN_STATUS => {
                state.rate = value & RATE;
                if value & RATE_RESET != 0 && state.output & OUTPUT_RUN != 0 {
                    self.shared.software_reset(&mut state);
                    self.shared.start(&mut state);
                }
            }
            FIFO => self.shared.write_fifo(&mut state, value),
            DIGITAL_INPUT => state.rate = value & RATE,
            _ => {}
        }
        self.go_on(&state);
        Effect::None
    }
}
