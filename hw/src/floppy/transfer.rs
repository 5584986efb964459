//! Commands that move data between a disk, the FIFO and memory.

use serde::{Deserialize, Serialize};

use super::{
    DMA_CHANNEL, Job, OUTPUT_GATE, Phase, SECTOR, ST0_ABNORMAL, ST1_DATA_ERROR, ST1_END_OF_CYLINDER,
    ST1_NO_ADDRESS_MARK, ST1_NO_DATA, ST1_NOT_WRITABLE, ST2_CONTROL_MARK, ST2_SCAN_EQUAL, ST2_SCAN_FAILED, Shared,
    State,
};

/// What is done to the sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Operation {
    Read,
    ReadDeleted,
    /// From the first sector of the track on.
    Track,
    Write,
    Verify,
    ScanEqual,
    ScanLow,
    ScanHigh,
    Format,
    /// Tells which sector comes.
    Id,
}

/// Size code of the only sectors that there are.
const SIZE_512: u8 = 2;

/// Bytes that describe a sector to FORMAT TRACK.
const SECTOR_ID: usize = 4;

/// A command in execution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Transfer {
    operation: Operation,
    multi_track: bool,
    skip: bool,
    drive: usize,
    /// The side that is read.
    head: u8,
    // Address of the present sector, as it is in its header.
    track: u8,
    side: u8,
    sector: u8,
    size: u8,
    /// Number of the last sector of a track; of FORMAT TRACK, how many there shall be.
    last_sector: u8,
    /// Data length, step of a scan, or byte to fill sectors with.
    parameter: u8,
    /// How many sectors VERIFY or FORMAT TRACK has left; `None`: to the end.
    left: Option<u16>,
    buffer: Vec<u8>,
    position: usize,
    /// The guest's data is awaited, or the guest; otherwise the host's disk.
    waits_for_data: bool,
    /// The DMA channel's count has ended.
    ended: bool,
    /// A scan has found all bytes equal so far, and its condition met.
    equal: bool,
    met: bool,
}

impl Transfer {
    pub(super) fn new(operation: Operation, command: &[u8]) -> Transfer {
        let byte = |index: usize| command.get(index).copied().unwrap_or(0);
        let select = byte(1);
        let mut transfer = Transfer {
            operation,
            multi_track: byte(0) & 0x80 != 0,
            skip: byte(0) & 0x20 != 0,
            drive: usize::from(select & 3),
            head: select >> 2 & 1,
            track: byte(2),
            side: byte(3),
            sector: byte(4),
            size: byte(5),
            last_sector: byte(6),
            parameter: byte(8),
            left: None,
            buffer: Vec::new(),
            position: 0,
            waits_for_data: false,
            ended: false,
            equal: true,
            met: true,
        };
        match operation {
            Operation::Format => {
                (transfer.size, transfer.last_sector, transfer.parameter) = (byte(2), byte(3), byte(5));
                (transfer.track, transfer.side, transfer.sector) = (0, transfer.head, 0);
                transfer.left = Some(u16::from(byte(3)));
            }
            Operation::Track => transfer.sector = 1,
            Operation::Verify if select & 0x80 != 0 => {
                let count = u16::from(transfer.parameter);
                transfer.left = Some(if count == 0 { 256 } else { count });
            }
            _ => {}
        }
        transfer
    }

    pub(super) fn is_possible(&self) -> bool {
        self.buffer.len() <= SECTOR as usize && self.position <= self.buffer.len() && self.drive < 4 && self.head < 2
    }

    /// Data goes from the disk to the guest.
    pub(super) fn is_read(&self) -> bool {
        matches!(self.operation, Operation::Read | Operation::ReadDeleted | Operation::Track)
    }

    fn is_scan(&self) -> bool {
        matches!(self.operation, Operation::ScanEqual | Operation::ScanLow | Operation::ScanHigh)
    }

    pub(super) fn waits_for_fifo(&self, uses_dma: bool) -> bool {
        self.waits_for_data && !uses_dma
    }

    /// Goes on to the address of the next sector; false if that is beyond the end of the cylinder.
    fn advance(&mut self) -> bool {
        let step = if self.is_scan() { self.parameter.max(1) } else { 1 };
        if self.sector < self.last_sector {
            self.sector = self.sector.saturating_add(step);
            if self.sector <= self.last_sector {
                return true;
            }
        }
        self.sector = 1;
        let both_sides = self.multi_track && self.operation != Operation::Track;
        if both_sides && self.head == 0 {
            (self.head, self.side) = (1, self.side ^ 1);
            return true;
        }
        if both_sides {
            // The address that follows; the head stays where it is.
            self.side ^= 1;
        }
        self.track = self.track.wrapping_add(1);
        false
    }

    /// Compares a byte of the guest with one of the disk.
    fn compare(&mut self, disk: u8, guest: u8) {
        // A byte of all ones matches everything.
        if disk == guest || disk == 0xff || guest == 0xff {
            return;
        }
        self.equal = false;
        self.met &= match self.operation {
            Operation::ScanLow => disk <= guest,
            Operation::ScanHigh => disk >= guest,
            _ => false,
        };
    }
}

impl Shared {
    /// Begins the command in [`Phase::Execution`].
    pub(super) fn start_transfer(&self, state: &mut State) {
        let Some(mut transfer) = take(state) else { return };
        let drive = self.drive(transfer.drive);
        let Some((disk, geometry)) = drive.filter(|(_, geometry)| geometry.rate == state.rate) else {
            return self.fail(state, transfer, ST1_NO_ADDRESS_MARK, 0);
        };
        match transfer.operation {
            Operation::Id => {
                (transfer.track, transfer.side) = (state.tracks[transfer.drive], transfer.head);
                (transfer.sector, transfer.size) = (1, SIZE_512);
                if geometry.offset(transfer.track, transfer.head, 1).is_none() {
                    return self.fail(state, transfer, ST1_NO_ADDRESS_MARK, 0);
                }
                self.end(state, transfer, [0; 3]);
            }
            Operation::Write | Operation::Format if disk.medium.is_read_only() => {
                self.fail(state, transfer, ST1_NOT_WRITABLE, 0);
            }
            Operation::Format => {
                transfer.track = state.tracks[transfer.drive];
                if transfer.left == Some(0) {
                    return self.end(state, transfer, [0; 3]);
                }
                self.await_data(state, transfer, SECTOR_ID);
            }
            _ => self.begin_sector(state, transfer),
        }
    }

    /// Begins with the sector at the present address.
    fn begin_sector(&self, state: &mut State, transfer: Transfer) {
        let place = self.drive(transfer.drive).and_then(|(_, geometry)| {
            let fits = transfer.size == SIZE_512 && transfer.side == transfer.head;
            geometry.offset(transfer.track, transfer.head, transfer.sector).filter(|_| fits)
        });
        let Some(offset) = place else { return self.fail(state, transfer, ST1_NO_DATA, 0) };
        state.tracks[transfer.drive] = transfer.track;
        if transfer.operation == Operation::Write {
            return self.await_data(state, transfer, SECTOR as usize);
        }
        state.job = Some(Job::Read { drive: transfer.drive, offset });
        state.phase = Phase::Execution(Transfer { waits_for_data: false, ..transfer });
    }

    /// Waits for so many bytes of the guest.
    fn await_data(&self, state: &mut State, mut transfer: Transfer, length: usize) {
        transfer.buffer = vec![0; length];
        transfer.position = 0;
        transfer.waits_for_data = true;
        state.phase = Phase::Execution(transfer);
        self.move_data(state);
    }

    /// The host read or wrote a sector.
    pub(super) fn sector_done(&self, state: &mut State, succeeded: bool, data: Vec<u8>) {
        let Some(mut transfer) = take(state) else { return };
        if !succeeded {
            return self.fail(state, transfer, ST1_DATA_ERROR, ST1_DATA_ERROR);
        }
        match transfer.operation {
            Operation::ReadDeleted if transfer.skip => self.next_sector(state, transfer),
            Operation::Write | Operation::Verify | Operation::Format | Operation::Id => {
                self.next_sector(state, transfer)
            }
            _ => {
                transfer.buffer = data;
                transfer.position = 0;
                transfer.waits_for_data = true;
                state.phase = Phase::Execution(transfer);
                self.move_data(state);
            }
        }
    }

    /// Moves what can be moved by DMA, or tells the guest that the FIFO can be used.
    pub(super) fn move_data(&self, state: &mut State) {
        let (uses_dma, gate) = (state.uses_dma(), state.output & OUTPUT_GATE != 0);
        let Phase::Execution(transfer) = &mut state.phase else { return };
        if !transfer.waits_for_data {
            return;
        }
        if !uses_dma {
            return self.set_interrupt(state, true);
        }
        if !gate {
            return;
        }
        self.dma.set_request(DMA_CHANNEL, true);
        let position = transfer.position;
        let moved = if transfer.is_read() {
            self.dma.to_memory(DMA_CHANNEL, transfer.buffer.get(position..).unwrap_or_default())
        } else if transfer.is_scan() {
            let mut data = vec![0; transfer.buffer.len().saturating_sub(position)];
            let moved = self.dma.from_memory(DMA_CHANNEL, &mut data);
            let count = moved.map_or(0, |moved| moved.bytes);
            for (index, guest) in data.into_iter().take(count).enumerate() {
                let disk = transfer.buffer.get(position + index).copied().unwrap_or(0);
                transfer.compare(disk, guest);
            }
            moved
        } else {
            self.dma.from_memory(DMA_CHANNEL, transfer.buffer.get_mut(position..).unwrap_or_default())
        };
        // A closed channel will be opened.
        let Some(moved) = moved else { return };
        transfer.position += moved.bytes;
        transfer.ended |= moved.ended;
        if transfer.ended || transfer.position >= transfer.buffer.len() {
            self.dma.set_request(DMA_CHANNEL, false);
            self.data_done(state);
        }
    }

    /// The guest reads the FIFO while data is moved; `None`: there is nothing.
    pub(super) fn read_data(&self, state: &mut State) -> Option<u8> {
        let uses_dma = state.uses_dma();
        let Phase::Execution(transfer) = &mut state.phase else { return None };
        if !transfer.is_read() || !transfer.waits_for_fifo(uses_dma) {
            return None;
        }
        let byte = transfer.buffer.get(transfer.position).copied();
        transfer.position += 1;
        if transfer.position >= transfer.buffer.len() {
            self.set_interrupt(state, false);
            self.data_done(state);
        }
        byte
    }

    /// The guest writes the FIFO while data is moved.
    pub(super) fn write_data(&self, state: &mut State, value: u8) {
        let uses_dma = state.uses_dma();
        let Phase::Execution(transfer) = &mut state.phase else { return };
        if transfer.is_read() || !transfer.waits_for_fifo(uses_dma) {
            return;
        }
        if transfer.is_scan() {
            let disk = transfer.buffer.get(transfer.position).copied().unwrap_or(0);
            transfer.compare(disk, value);
        } else if let Some(place) = transfer.buffer.get_mut(transfer.position) {
            *place = value;
        }
        transfer.position += 1;
        if transfer.position >= transfer.buffer.len() {
            self.set_interrupt(state, false);
            self.data_done(state);
        }
    }

    /// The data of a sector has been moved, or the channel's count ended.
    fn data_done(&self, state: &mut State) {
        let Some(mut transfer) = take(state) else { return };
        transfer.waits_for_data = false;
        match transfer.operation {
            Operation::Write => {
                let place = self
                    .drive(transfer.drive)
                    .and_then(|(_, geometry)| geometry.offset(transfer.track, transfer.head, transfer.sector));
                let Some(offset) = place else { return self.fail(state, transfer, ST1_NO_DATA, 0) };
                let data = std::mem::take(&mut transfer.buffer);
                state.job = Some(Job::Write { drive: transfer.drive, offset, data });
                state.phase = Phase::Execution(transfer);
            }
            Operation::Format => {
                let [track, side, sector, _] = transfer.buffer[..] else {
                    return self.fail(state, transfer, ST1_NO_DATA, 0);
                };
                (transfer.track, transfer.side, transfer.sector) = (track, side, sector);
                let place =
                    self.drive(transfer.drive).and_then(|(_, geometry)| geometry.offset(track, transfer.head, sector));
                let Some(offset) = place.filter(|_| transfer.size == SIZE_512) else {
                    return self.fail(state, transfer, ST1_NO_DATA, 0);
                };
                let data = vec![transfer.parameter; SECTOR as usize];
                state.job = Some(Job::Write { drive: transfer.drive, offset, data });
                state.phase = Phase::Execution(transfer);
            }
            _ => self.next_sector(state, transfer),
        }
    }

    /// A sector is done: ends the command, or goes on.
    fn next_sector(&self, state: &mut State, mut transfer: Transfer) {
        let operation = transfer.operation;
        if transfer.is_scan() {
            if transfer.met {
                let status = if transfer.equal { ST2_SCAN_EQUAL } else { 0 };
                return self.end(state, transfer, [0, 0, status]);
            }
            (transfer.equal, transfer.met) = (true, true);
        }
        if let Some(left) = &mut transfer.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                if operation == Operation::Verify {
                    transfer.advance();
                }
                return self.end(state, transfer, [0; 3]);
            }
            if operation == Operation::Format {
                return self.await_data(state, transfer, SECTOR_ID);
            }
        }
        let ended = transfer.ended;
        let more = transfer.advance();
        match operation {
            // A sector with the other mark is moved, and is the last one.
            Operation::ReadDeleted if !transfer.skip => self.end(state, transfer, [0, 0, ST2_CONTROL_MARK]),
            _ if transfer.is_scan() && (ended || !more) => self.end(state, transfer, [0, 0, ST2_SCAN_FAILED]),
            _ if ended => self.end(state, transfer, [0; 3]),
            Operation::Verify if !more && transfer.left.is_none() => self.end(state, transfer, [0; 3]),
            _ if !more => {
                let mark = if operation == Operation::ReadDeleted { ST2_CONTROL_MARK } else { 0 };
                self.end(state, transfer, [ST0_ABNORMAL, ST1_END_OF_CYLINDER, mark]);
            }
            _ => self.begin_sector(state, transfer),
        }
    }

    fn fail(&self, state: &mut State, transfer: Transfer, status_1: u8, status_2: u8) {
        self.end(state, transfer, [ST0_ABNORMAL, status_1, status_2]);
    }

    /// Ends the command with its results.
    fn end(&self, state: &mut State, transfer: Transfer, [status_0, status_1, status_2]: [u8; 3]) {
        self.dma.set_request(DMA_CHANNEL, false);
        let select = transfer.head << 2 | transfer.drive as u8;
        let address = [transfer.track, transfer.side, transfer.sector, transfer.size];
        let status = [status_0 | select, status_1, status_2];
        self.finish(state, &[&status[..], &address].concat(), true);
    }
}

/// Takes the command in execution out of the state.
fn take(state: &mut State) -> Option<Transfer> {
    match std::mem::take(&mut state.phase) {
        Phase::Execution(transfer) => Some(transfer),
        other => {
            state.phase = other;
            None
        }
    }
}
