//! Commands that move no data, and the length of all.

use super::transfer::{Operation, Transfer};
use super::{
    CONFIGURE_NO_FIFO, DRIVES, LONGEST_COMMAND, Phase, ST0_ABNORMAL, ST0_EQUIPMENT, ST0_INVALID, ST0_SEEK_END,
};
use super::{Shared, State};

/// What VERSION answers for an enhanced controller.
const VERSION: u8 = 0x90;
/// What PART ID answers.
const PART: u8 = 0x41;

// Status register 3.
const ST3_TWO_SIDES: u8 = 0x08;
const ST3_TRACK_0: u8 = 0x10;
const ST3_READY: u8 = 0x20;
const ST3_PROTECTED: u8 = 0x40;

/// The drive with the highest bit of DRIVE SPECIFICATION COMMAND's parameters set ends it.
const SPECIFICATION_ENDS: u8 = 0x80;

/// Number of steps by which RECALIBRATE looks for track 0.
const RECALIBRATE_STEPS: u8 = 79;

/// Bytes of the command that begins with `code`; `None`: there is no such command.
fn length(code: u8) -> Option<usize> {
    Some(match code {
        // MT, MFM and SK are bits of these.
        _ if matches!(code & 0x1f, 0x06 | 0x0c | 0x11 | 0x16 | 0x19 | 0x1d) => 9,
        _ if code & 0x3f == 0x05 || code & 0x3f == 0x09 => 9,
        _ if code & 0x9f == 0x02 => 9,
        _ if code & 0xbf == 0x0a => 2,
        _ if code & 0xbf == 0x0d => 6,
        0x07 | 0x04 | 0x12 | 0x17 => 2,
        0x33 => 2,
        0x08 | 0x0e | 0x10 | 0x14 | 0x94 | 0x18 | 0x2e => 1,
        0x03 | 0x0f | 0x8f | 0xcf => 3,
        0x13 => 4,
        0x4e => LONGEST_COMMAND,
        0x8e => 6,
        _ => return None,
    })
}

impl Shared {
    /// Looks at the bytes of a command that are there, and carries it out if they are all.
    pub(super) fn interpret(&self, state: &mut State) {
        let Some(&code) = state.command.first() else { return };
        let Some(length) = length(code) else { return self.finish(state, &[ST0_INVALID], false) };
        let ends_early = code == 0x8e && state.command.last().is_some_and(|last| last & SPECIFICATION_ENDS != 0);
        if state.command.len() < length && !(ends_early && state.command.len() > 1) {
            return;
        }
        let command = std::mem::take(&mut state.command);
        let parameter = |index: usize| command.get(index).copied().unwrap_or(0);
        let select = parameter(1);
        let drive = usize::from(select & 3);
        match code {
            0x03 => {
                state.specify = [parameter(1), parameter(2)];
                self.finish(state, &[], false);
            }
            0x04 => {
                let status = self.drive_status(state, select);
                self.finish(state, &[status], false);
            }
            0x07 => self.recalibrate(state, drive),
            0x08 => self.sense_interrupt(state),
            0x0e => {
                let tracks = state.tracks;
                let lock = u8::from(state.locked) << 7 | state.perpendicular & 0x7f;
                let [first, second] = state.specify;
                let [configure, precompensation] = state.configure;
                let results =
                    [tracks[0], tracks[1], tracks[2], tracks[3], first, second, 0, lock, configure, precompensation];
                self.finish(state, &results, false);
            }
            0x0f => self.seek(state, drive, select, parameter(2)),
            0x8f | 0xcf => {
                let steps = parameter(2);
                let track = state.tracks[drive];
                let target = if code == 0xcf { track.saturating_add(steps) } else { track.saturating_sub(steps) };
                self.seek(state, drive, select, target);
            }
            0x10 => self.finish(state, &[VERSION], false),
            0x12 => {
                // Without OW, the bits of the drives stay.
                let new = parameter(1);
                state.perpendicular =
                    if new & 0x80 != 0 { new & 0x3f } else { state.perpendicular & 0x3c | new & 0x03 };
                self.finish(state, &[], false);
            }
            0x13 => {
                state.configure = [parameter(2), parameter(3)];
                self.finish(state, &[], false);
            }
            0x14 | 0x94 => {
                state.locked = code == 0x94;
                self.finish(state, &[u8::from(code == 0x94) << 4], false);
            }
            0x17 => self.finish(state, &[select], false),
            0x18 => self.finish(state, &[PART], false),
            0x2e => self.save_registers(state),
            0x33 | 0x8e => self.finish(state, &[], false),
            0x4e => {
                // In the order in which SAVE gives them.
                state.specify = [parameter(3), parameter(4)];
                state.rate = parameter(5) & 3;
                for (track, value) in state.tracks.iter_mut().zip(command.iter().skip(6)) {
                    *track = *value;
                }
                state.locked = parameter(13) & 0x80 != 0;
                state.perpendicular = parameter(13) & 0x3f;
                state.configure = [parameter(14), parameter(15)];
                self.finish(state, &[], false);
            }
            _ if code & 0xbf == 0x0a => self.begin(state, Transfer::new(Operation::Id, &command)),
            _ if code & 0xbf == 0x0d => self.begin(state, Transfer::new(Operation::Format, &command)),
            _ => {
                let operation = match code & 0x1f {
                    0x02 => Operation::Track,
                    0x05 | 0x09 => Operation::Write,
                    0x06 => Operation::Read,
                    0x0c => Operation::ReadDeleted,
                    0x16 => Operation::Verify,
                    0x11 => Operation::ScanEqual,
                    0x19 => Operation::ScanLow,
                    _ => Operation::ScanHigh,
                };
                self.begin(state, Transfer::new(operation, &command));
            }
        }
    }

    fn drive_status(&self, state: &State, select: u8) -> u8 {
        let number = usize::from(select & 3);
        let mut status = select & 7 | ST3_TWO_SIDES | ST3_READY;
        if let Some((drive, _)) = self.drive(number) {
            if drive.medium.is_read_only() {
                status |= ST3_PROTECTED;
            }
            if state.tracks[number] == 0 {
                status |= ST3_TRACK_0;
            }
        }
        status
    }

    /// A drive moved: a new disk is known now.
    fn moved(&self, state: &mut State, drive: usize) {
        if self.drive(drive).is_some()
            && let Some(changed) = state.changed.get_mut(drive)
        {
            *changed = false;
        }
    }

    fn seek(&self, state: &mut State, drive: usize, select: u8, track: u8) {
        state.tracks[drive] = track;
        self.moved(state, drive);
        state.sense[drive] = Some(ST0_SEEK_END | select & 7);
        self.finish(state, &[], true);
    }

    fn recalibrate(&self, state: &mut State, drive: usize) {
        // Without a drive, nothing says that track 0 was reached.
        let found = drive < DRIVES && self.drive(drive).is_some() && state.tracks[drive] <= RECALIBRATE_STEPS;
        let failed = if found { 0 } else { ST0_ABNORMAL | ST0_EQUIPMENT };
        state.tracks[drive] = if found { 0 } else { state.tracks[drive].saturating_sub(RECALIBRATE_STEPS) };
        self.moved(state, drive);
        state.sense[drive] = Some(ST0_SEEK_END | failed | drive as u8);
        self.finish(state, &[], true);
    }

    fn sense_interrupt(&self, state: &mut State) {
        let Some(drive) = state.sense.iter().position(Option::is_some) else {
            return self.finish(state, &[ST0_INVALID], false);
        };
        let status = state.sense[drive].take().unwrap_or(ST0_INVALID);
        let track = state.tracks[drive];
        self.set_interrupt(state, false);
        self.finish(state, &[status, track], false);
        // Those of the same polling came with one interrupt; a seek of another drive has its own.
        let more = state.sense.iter().flatten().any(|status| status & super::ST0_POLLED != super::ST0_POLLED);
        if more {
            self.set_interrupt(state, true);
        }
    }

    fn save_registers(&self, state: &mut State) {
        let [first, second] = state.specify;
        let [configure, precompensation] = state.configure;
        let [a, b, c, d] = state.tracks;
        let lock = u8::from(state.locked) << 7 | state.perpendicular & 0x7f;
        let (rate, none) = (state.rate, u8::from(configure & CONFIGURE_NO_FIFO != 0) << 5);
        let results = [none, 0, first, second, rate, a, b, c, d, 0, 0, 0, lock, configure, precompensation, 0];
        self.finish(state, &results, false);
    }

    fn begin(&self, state: &mut State, transfer: Transfer) {
        state.phase = Phase::Execution(transfer);
        self.start_transfer(state);
    }
}
