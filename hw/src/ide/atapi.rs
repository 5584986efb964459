//! Commands of CD-ROM drives: those of ATA that they have, and packets (MMC-3, SPC-2).

use super::{
    CD_SECTOR, Drive, ERROR_ABORTED, IDLE, Job, MOST_AT_ONCE, Phase, SECTOR, STATUS_ERROR, STATUS_READY,
    STATUS_REQUEST, Shared, State, Twice, ata, sign,
};

/// Length of a packet, bytes.
pub(super) const PACKET_LENGTH: usize = 12;

pub(super) const DEVICE_RESET: u8 = 0x08;
const PACKET: u8 = 0xa0;
const IDENTIFY_PACKET: u8 = 0xa1;

// Interrupt reason, in the sector count register.
const REASON_COMMAND: u8 = 1 << 0;
const REASON_TO_HOST: u8 = 1 << 1;

/// Feature: data goes through the bus master.
const FEATURE_DMA: u8 = 1 << 0;

/// Sense key, additional sense code and qualifier.
type Sense = [u8; 3];
const NOT_PRESENT: Sense = [2, 0x3a, 0];
pub(super) const MEDIUM_ERROR: Sense = [3, 0x11, 0];
const INVALID_COMMAND: Sense = [5, 0x20, 0];
const OUT_OF_RANGE: Sense = [5, 0x21, 0];
const INVALID_FIELD: Sense = [5, 0x24, 0];

/// Frames of an audio minute and second come into MSF addresses; data begins after two seconds.
const FRAMES: u64 = 75;
const LEAD_IN: u64 = 150;

/// Start of the lead-out in tables of contents.
const LEAD_OUT_TRACK: u8 = 0xaa;

/// Minutes, seconds and frames of a sector.
fn msf(sector: u64) -> [u8; 4] {
    let frames = sector + LEAD_IN;
    [0, (frames / FRAMES / 60) as u8, (frames / FRAMES % 60) as u8, (frames % FRAMES) as u8]
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// What a packet asks for.
enum Answer {
    /// These bytes, at most so many.
    Bytes(Vec<u8>, u64),
    /// Sectors of the disc: first and number.
    Sectors(u64, u64),
    /// Nothing.
    Done,
}

impl Shared {
    /// Carries a command out, or starts it.
    pub(super) fn atapi_command(&self, state: &mut State, command: u8) {
        let Some(drive) = self.drive(state) else { return };
        match command {
            PACKET => {
                state.phase = Phase::Packet;
                let registers = state.selected();
                registers.count = Twice { last: REASON_COMMAND, before: 0 };
                registers.status = IDLE | STATUS_REQUEST;
            }
            IDENTIFY_PACKET => {
                state.buffer =
                    ata::to_bytes(&identification(drive, state.drives[usize::from(state.second)].transfer_mode));
                state.phase = Phase::Read { offset: 0, left: 0, block: SECTOR };
                self.request(state, true);
            }
            // These tell a host that it speaks to a packet device.
            ata::IDENTIFY | 0x20 => {
                let kind = drive.kind;
                sign(state.selected(), kind);
                self.fail(state, ERROR_ABORTED);
            }
            ata::DIAGNOSTIC => {
                self.software_reset(state);
                self.set_interrupt(state, true);
            }
            ata::SET_FEATURES => self.set_features(state),
            0xe0..=0xe3 | 0xe6 => self.finish(state),
            0xe5 => {
                state.selected().count = Twice { last: 0xff, before: 0 };
                self.finish(state);
            }
            _ => self.fail(state, ERROR_ABORTED),
        }
    }

    /// A packet ends well.
    pub(super) fn packet_done(&self, state: &mut State) {
        state.selected().sense = [0; 3];
        state.selected().count = Twice { last: REASON_COMMAND | REASON_TO_HOST, before: 0 };
        self.finish(state);
        state.selected().status = STATUS_READY | super::STATUS_SEEK_DONE;
    }

    /// A packet ends with this sense.
    pub(super) fn packet_fail(&self, state: &mut State, sense: Sense) {
        state.phase = Phase::Idle;
        state.bus_master.stop(false);
        let registers = state.selected();
        registers.sense = sense;
        registers.count = Twice { last: REASON_COMMAND | REASON_TO_HOST, before: 0 };
        registers.status = STATUS_READY | STATUS_ERROR;
        registers.error = sense[0] << 4 | if sense[0] == 5 { ERROR_ABORTED } else { 0 };
        self.set_interrupt(state, true);
    }

    /// The packet in the buffer is complete.
    pub(super) fn packet(&self, state: &mut State) {
        let Some(drive) = self.drive(state) else { return };
        let mut packet = [0; PACKET_LENGTH];
        packet.copy_from_slice(&state.buffer[..PACKET_LENGTH]);
        state.buffer.clear();
        state.position = 0;
        match answer(drive, &packet, state.selected().sense) {
            Err(sense) => self.packet_fail(state, sense),
            Ok(Answer::Done) => self.packet_done(state),
            Ok(Answer::Bytes(mut bytes, room)) => {
                bytes.truncate(room as usize);
                if bytes.is_empty() {
                    return self.packet_done(state);
                }
                state.buffer = bytes;
                if state.selected().features.last & FEATURE_DMA != 0 {
                    state.phase = Phase::AnswerDma;
                    state.selected().status = IDLE | STATUS_REQUEST;
                    self.start_dma(state);
                } else {
                    state.phase = Phase::Answer { offset: 0, left: 0, limit: 0 };
                    self.next_answer(state);
                }
            }
            Ok(Answer::Sectors(first, count)) => {
                let (offset, length) = (first * CD_SECTOR, count * CD_SECTOR);
                if length == 0 {
                    return self.packet_done(state);
                }
                if state.selected().features.last & FEATURE_DMA != 0 {
                    state.phase = Phase::Dma { offset, left: length, write: false };
                    state.selected().status = IDLE | STATUS_REQUEST;
                    self.start_dma(state);
                } else {
                    let now = length.min(MOST_AT_ONCE);
                    state.phase = Phase::Answer { offset: offset + now, left: length - now, limit: 0 };
                    self.begin(state, Job::Read { offset, length: now });
                }
            }
        }
    }

    /// The next part of the buffer goes to the guest, of the length that it set as its limit.
    pub(super) fn next_answer(&self, state: &mut State) {
        let Phase::Answer { offset, left, .. } = state.phase else { return };
        let there = (state.buffer.len() - state.position) as u64;
        let registers = state.selected();
        let limit = match u64::from(registers.lba_high.last) << 8 | u64::from(registers.lba_mid.last) {
            0 | 0xffff => 0xfffe,
            // All parts but the last are of whole words.
            1 => 2,
            limit => limit & !1,
        };
        let part = there.min(limit);
        // The register holds the length of the part now; the limit is kept as the end of the part.
        registers.count = Twice { last: REASON_TO_HOST, before: 0 };
        (registers.lba_mid.last, registers.lba_high.last) = (part as u8, (part >> 8) as u8);
        registers.lba_mid.before = limit as u8;
        registers.lba_high.before = (limit >> 8) as u8;
        state.phase = Phase::Answer { offset, left, limit: state.position as u64 + part };
        self.request(state, true);
    }

    /// Data was read through the data port; `limit` of the phase is where the present part ends.
    pub(super) fn answer_read(&self, state: &mut State) {
        let Phase::Answer { offset, left, limit } = state.phase else { return };
        if (state.position as u64) < limit {
            return;
        }
        let registers = state.selected();
        (registers.lba_mid.last, registers.lba_high.last) = (registers.lba_mid.before, registers.lba_high.before);
        if state.position < state.buffer.len() {
            self.next_answer(state);
        } else if left > 0 {
            let length = left.min(MOST_AT_ONCE);
            state.phase = Phase::Answer { offset: offset.saturating_add(length), left: left - length, limit: 0 };
            self.begin(state, Job::Read { offset, length });
        } else {
            self.packet_done(state);
        }
    }
}

fn answer(drive: &Drive, packet: &[u8; PACKET_LENGTH], sense: Sense) -> Result<Answer, Sense> {
    let sectors = drive.sectors();
    let present = || if sectors > 0 { Ok(()) } else { Err(NOT_PRESENT) };
    let extent = |first: u64, count: u64| {
        present()?;
        match first.checked_add(count) {
            Some(end) if end <= sectors => Ok(Answer::Sectors(first, count)),
            _ => Err(OUT_OF_RANGE),
        }
    };
    let room = |at: usize| big_endian(&packet[at..at + 2]);
    match packet[0] {
        // TEST UNIT READY.
        0x00 => present().map(|()| Answer::Done),
        // REQUEST SENSE.
        0x03 => {
            let mut bytes = vec![0; 18];
            (bytes[0], bytes[2], bytes[7], bytes[12], bytes[13]) = (0x70, sense[0], 10, sense[1], sense[2]);
            Ok(Answer::Bytes(bytes, u64::from(packet[4])))
        }
        // INQUIRY: a CD-ROM, removable, of MMC.
        0x12 => {
            let mut bytes = vec![5, 0x80, 0, 0x21, 31, 0, 0, 0];
            bytes.extend(b"BROLGA  DVD-ROM         1.0 ");
            Ok(Answer::Bytes(bytes, u64::from(packet[4])))
        }
        // START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL, SET CD SPEED, SYNCHRONIZE CACHE: nothing moves.
        0x1b | 0x1e | 0xbb | 0x35 => Ok(Answer::Done),
        // SEEK.
        0x2b => extent(big_endian(&packet[2..6]), 1).map(|_| Answer::Done),
        // READ CAPACITY.
        0x25 => {
            present()?;
            let last = (sectors - 1).min(u64::from(u32::MAX)) as u32;
            Ok(Answer::Bytes([last.to_be_bytes(), (CD_SECTOR as u32).to_be_bytes()].concat(), 8))
        }
        // READ (10), READ (12).
        0x28 => extent(big_endian(&packet[2..6]), big_endian(&packet[7..9])),
        0xa8 => {
            let count = big_endian(&packet[6..10]);
            // As many as fit into the counters; nobody asks for more at a time.
            if count > ata::MOST_SECTORS { Err(INVALID_FIELD) } else { extent(big_endian(&packet[2..6]), count) }
        }
        // READ CD: user data of sectors in mode 1 only.
        0xbe => match packet[9] & 0xf8 {
            0x00 => Ok(Answer::Done),
            0x10 => extent(big_endian(&packet[2..6]), big_endian(&packet[6..9]).min(ata::MOST_SECTORS)),
            _ => Err(INVALID_FIELD),
        },
        // READ TOC.
        0x43 => {
            present()?;
            // Older hosts put the format into the control byte.
            let format = match packet[2] & 0xf {
                0 => packet[9] >> 6,
                format => format,
            };
            let bytes = table_of_contents(format, packet[1] & 2 != 0, packet[6], sectors).ok_or(INVALID_FIELD)?;
            Ok(Answer::Bytes(bytes, room(7)))
        }
        // GET CONFIGURATION: profile of a CD-ROM, or none.
        0x46 => {
            let profile: [u8; 2] = if sectors > 0 { [0, 8] } else { [0, 0] };
            let mut bytes = vec![0, 0, 0, 0, 0, 0, profile[0], profile[1]];
            // Profile list, core, removable medium.
            bytes.extend([0, 0, 3, 4, 0, 8, u8::from(sectors > 0), 0]);
            bytes.extend([0, 1, 7, 8, 0, 0, 0, 2, 1, 0, 0, 0]);
            bytes.extend([0, 3, 3, 4, 0x29, 0, 0, 0]);
            let length = bytes.len() as u32 - 4;
            bytes[..4].copy_from_slice(&length.to_be_bytes());
            Ok(Answer::Bytes(bytes, room(7)))
        }
        // GET EVENT STATUS NOTIFICATION, polled: no event, and whether there is a disc.
        0x4a => {
            if packet[1] & 1 == 0 {
                return Err(INVALID_FIELD);
            }
            let medium = if sectors > 0 { 2 } else { 0 };
            let bytes =
                if packet[4] & 0x10 != 0 { vec![0, 6, 4, 0x10, 0, medium, 0, 0] } else { vec![0, 2, 0x80, 0x10] };
            Ok(Answer::Bytes(bytes, room(7)))
        }
        // READ DISC INFORMATION: one finished session with one track.
        0x51 => {
            present()?;
            let mut bytes = vec![0; 34];
            bytes[1] = 32;
            bytes[2..7].copy_from_slice(&[0x0e, 1, 1, 1, 1]);
            bytes[7] = 0x20;
            Ok(Answer::Bytes(bytes, room(7)))
        }
        // MECHANISM STATUS: one slot.
        0xbd => {
            let room = big_endian(&packet[8..10]);
            Ok(Answer::Bytes(vec![0, 0, 0, 0, 0, 1, 0, 0], room))
        }
        // MODE SENSE (6) and (10).
        0x1a => mode_page(packet[2], 4).map(|bytes| Answer::Bytes(bytes, u64::from(packet[4]))),
        0x5a => mode_page(packet[2], 8).map(|bytes| Answer::Bytes(bytes, room(7))),
        _ => Err(INVALID_COMMAND),
    }
}

/// A mode page after a header of `header` bytes.
fn mode_page(page: u8, header: usize) -> Result<Vec<u8>, Sense> {
    let page: &[u8] = match page & 0x3f {
        // Error recovery.
        0x01 => &[0x01, 6, 0, 5, 0, 0, 0, 0],
        // Audio control.
        0x0e => &[0x0e, 14, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        // Capabilities: reads discs of all kinds, a tray, speed 4.
        0x2a => &[0x2a, 18, 0x3b, 0, 0x70, 0x60, 0x29, 0, 2, 0xc2, 0, 2, 2, 0, 2, 0xc2, 0, 0, 0, 0],
        _ => return Err(INVALID_FIELD),
    };
    let mut bytes = vec![0; header];
    bytes.extend(page);
    if header == 4 {
        bytes[0] = bytes.len() as u8 - 1;
        bytes[1] = 1;
    } else {
        bytes[1] = bytes.len() as u8 - 2;
        bytes[2] = 1;
    }
    Ok(bytes)
}

/// The table of contents of a disc with one data track; `None` for a format or track that there is not.
fn table_of_contents(format: u8, wants_msf: bool, first_track: u8, sectors: u64) -> Option<Vec<u8>> {
    let address = |sector: u64| if wants_msf { msf(sector) } else { (sector as u32).to_be_bytes() };
    let mut bytes = vec![0, 0, 1, 1];
    match format {
        0 => {
            if first_track > 1 && first_track != LEAD_OUT_TRACK {
                return None;
            }
            if first_track <= 1 {
                bytes.extend([0, 0x14, 1, 0]);
                bytes.extend(address(0));
            }
            bytes.extend([0, 0x14, LEAD_OUT_TRACK, 0]);
            bytes.extend(address(sectors));
        }
        // The last session.
        1 => {
            bytes.extend([0, 0x14, 1, 0]);
            bytes.extend(address(0));
        }
        // All of the table: first and last track, lead-out, and the track.
        2 => {
            let mut entry = |point: u8, address: [u8; 4]| {
                bytes.extend([1, 0x14, 0, point, 0, 0, 0]);
                bytes.extend(address);
            };
            entry(0xa0, [0, 1, 0, 0]);
            entry(0xa1, [0, 1, 0, 0]);
            entry(0xa2, msf(sectors));
            entry(1, msf(0));
        }
        _ => return None,
    }
    let length = (bytes.len() - 2) as u16;
    bytes[..2].copy_from_slice(&length.to_be_bytes());
    Some(bytes)
}

/// Answer of IDENTIFY PACKET DEVICE.
fn identification(drive: &Drive, transfer_mode: u8) -> [u16; 256] {
    let mut words = [0; 256];
    // A packet device of CD-ROM kind, removable, that asks for a packet within 50 microseconds, of 12 bytes.
    words[0] = 0x85c0;
    ata::put_text(&mut words[10..20], &drive.serial);
    ata::put_text(&mut words[23..27], env!("CARGO_PKG_VERSION"));
    ata::put_text(&mut words[27..47], "BROLGA DVD-ROM");
    words[48] = 1;
    words[49] = 0x0b00;
    ata::put_modes(&mut words, transfer_mode);
    // ATA/ATAPI-4 to 6; packets, and device resets.
    (words[80], words[81]) = (0x70, 0x18);
    (words[82], words[83], words[84]) = (0x0210, 0x4000, 0x4000);
    (words[85], words[87]) = (0x0210, 0x4000);
    words[93] = 0x600b;
    words
}
