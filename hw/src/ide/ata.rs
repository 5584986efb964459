//! Commands of hard disks (ATA/ATAPI-6, chapter 8).

use super::{Drive, ERROR_ABORTED, ERROR_NOT_FOUND, IDLE, Job, MOST_AT_ONCE, Phase, SECTOR, Shared, State, Twice};

/// Heads and sectors of a track that the default translation has.
pub(super) const HEADS: u8 = 16;
pub(super) const TRACK: u8 = 63;
const MOST_CYLINDERS: u64 = 16_383;

/// Most sectors that one command moves.
pub(super) const MOST_SECTORS: u64 = 0x1_0000;
/// Most sectors in a block of READ MULTIPLE and WRITE MULTIPLE.
const MOST_MULTIPLE: u8 = 16;

/// Ultra DMA mode 5, as firmware would have chosen it.
pub(super) const DEFAULT_MODE: u8 = 0x45;

const LBA: u8 = 1 << 6;

pub(super) const DIAGNOSTIC: u8 = 0x90;
pub(super) const IDENTIFY: u8 = 0xec;
pub(super) const SET_FEATURES: u8 = 0xef;

/// The transfer that a command's registers describe.
struct Extent {
    first: u64,
    count: u64,
}

/// How a command moves data.
#[derive(Clone, Copy)]
enum Way {
    /// Through the data port, a sector at a time.
    Sectors,
    /// Through the data port, in blocks of several sectors.
    Multiple,
    Dma,
}

/// Puts `text` into words of an identification, first character in the high byte, filled up with spaces.
pub(super) fn put_text(words: &mut [u16], text: &str) {
    let mut bytes = text.bytes().filter(|byte| (0x20..0x7f).contains(byte)).chain(std::iter::repeat(b' '));
    for word in words {
        let mut next = || u16::from(bytes.next().unwrap_or(b' '));
        *word = next() << 8 | next();
    }
}

pub(super) fn to_bytes(words: &[u16; 256]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The words that tell the transfer modes: multiword DMA 0 to 2, PIO 3 and 4, Ultra DMA 0 to 5.
pub(super) fn put_modes(words: &mut [u16; 256], transfer_mode: u8) {
    let number = transfer_mode & 7;
    words[53] = 6;
    words[63] = 7 | if transfer_mode >> 3 == 4 { 1 << (8 + number) } else { 0 };
    words[64] = 3;
    words[65..69].fill(120);
    words[88] = 0x3f | if transfer_mode >> 3 == 8 { 1 << (8 + number) } else { 0 };
}

impl Shared {
    /// Carries a command out, or starts it.
    pub(super) fn ata_command(&self, state: &mut State, command: u8) {
        let Some(drive) = self.drive(state) else { return };
        match command {
            0x20 | 0x21 => self.transfer(state, drive, false, false, Way::Sectors),
            0x24 => self.transfer(state, drive, true, false, Way::Sectors),
            0x25 => self.transfer(state, drive, true, false, Way::Dma),
            0x29 => self.transfer(state, drive, true, false, Way::Multiple),
            0x30 | 0x31 => self.transfer(state, drive, false, true, Way::Sectors),
            0x34 => self.transfer(state, drive, true, true, Way::Sectors),
            0x35 | 0x3d => self.transfer(state, drive, true, true, Way::Dma),
            0x39 | 0xce => self.transfer(state, drive, true, true, Way::Multiple),
            0xc4 => self.transfer(state, drive, false, false, Way::Multiple),
            0xc5 => self.transfer(state, drive, false, true, Way::Multiple),
            0xc8 | 0xc9 => self.transfer(state, drive, false, false, Way::Dma),
            0xca | 0xcb => self.transfer(state, drive, false, true, Way::Dma),
            // READ VERIFY and SEEK: the sectors are there, or not.
            0x40 | 0x41 | 0x42 | 0x70 => {
                let extent = extent(state, drive, command == 0x42);
                let count = if command == 0x70 { 1 } else { extent.count };
                match extent.first.checked_add(count) {
                    Some(end) if end <= drive.sectors() => self.finish(state),
                    _ => self.fail(state, ERROR_NOT_FOUND),
                }
            }
            // READ NATIVE MAX ADDRESS (EXT).
            0xf8 | 0x27 => {
                let last = drive.sectors().saturating_sub(1);
                set_address(state, if command == 0x27 { last } else { last.min(0xfff_ffff) }, command == 0x27);
                self.finish(state);
            }
            0x10..=0x1f => self.finish(state),
            DIAGNOSTIC => {
                self.software_reset(state);
                self.set_interrupt(state, true);
            }
            // INITIALIZE DEVICE PARAMETERS.
            0x91 => {
                let registers = state.selected();
                (registers.heads, registers.track) = ((registers.device & 0xf) + 1, registers.count.last);
                self.finish(state);
            }
            // SET MULTIPLE MODE.
            0xc6 => {
                let count = state.selected().count.last;
                if count > MOST_MULTIPLE || count != 0 && !count.is_power_of_two() {
                    self.fail(state, ERROR_ABORTED);
                } else {
                    state.selected().multiple = count;
                    self.finish(state);
                }
            }
            // IDLE, STANDBY and SLEEP in all their forms: nothing turns.
            0xe0..=0xe3 | 0xe6 | 0x94..=0x97 | 0x99 => self.finish(state),
            // CHECK POWER MODE: active.
            0xe5 | 0x98 => {
                state.selected().count = Twice { last: 0xff, before: 0 };
                self.finish(state);
            }
            // FLUSH CACHE (EXT).
            0xe7 | 0xea => self.begin(state, Job::Flush),
            IDENTIFY => {
                let registers = state.selected();
                let (mode, multiple, translation) =
                    (registers.transfer_mode, registers.multiple, (registers.heads, registers.track));
                state.buffer = to_bytes(&identification(drive, mode, multiple, translation));
                state.phase = Phase::Read { offset: 0, left: 0, block: SECTOR };
                self.request(state, true);
            }
            SET_FEATURES => self.set_features(state),
            _ => self.fail(state, ERROR_ABORTED),
        }
    }

    /// SET FEATURES: transfer modes; caches and look-ahead are taken note of by nobody.
    pub(super) fn set_features(&self, state: &mut State) {
        let registers = state.selected();
        match registers.features.last {
            0x03 => {
                let mode = registers.count.last;
                match (mode >> 3, mode & 7) {
                    (0, 0..=1) | (1, 0..=4) => registers.transfer_mode = 0,
                    (4, 0..=2) | (8, 0..=5) => registers.transfer_mode = mode,
                    _ => return self.fail(state, ERROR_ABORTED),
                }
                self.finish(state);
            }
            0x02 | 0x82 | 0xaa | 0x55 | 0x05 | 0x85 | 0x42 | 0xc2 | 0x66 | 0xcc | 0x67 | 0x69 | 0x96 | 0x9a => {
                self.finish(state);
            }
            _ => self.fail(state, ERROR_ABORTED),
        }
    }

    fn transfer(&self, state: &mut State, drive: &Drive, wide: bool, write: bool, way: Way) {
        let Extent { first, count } = extent(state, drive, wide);
        if first.checked_add(count).is_none_or(|end| end > drive.sectors()) {
            return self.fail(state, ERROR_NOT_FOUND | ERROR_ABORTED);
        }
        if write && drive.medium.is_read_only() {
            return self.fail(state, ERROR_ABORTED);
        }
        let multiple = state.selected().multiple;
        let block = match way {
            Way::Multiple if multiple == 0 => return self.fail(state, ERROR_ABORTED),
            Way::Multiple => u64::from(multiple) * SECTOR,
            _ => SECTOR,
        };
        let (offset, length) = (first * SECTOR, count * SECTOR);
        match (way, write) {
            (Way::Dma, _) => {
                state.phase = Phase::Dma { offset, left: length, write };
                state.selected().status = IDLE | super::STATUS_REQUEST;
                self.start_dma(state);
            }
            (_, true) => {
                state.phase = Phase::Write { offset, left: length, block };
                self.request(state, false);
            }
            (_, false) => {
                let now = length.min(MOST_AT_ONCE);
                state.phase = Phase::Read { offset: offset + now, left: length - now, block };
                self.begin(state, Job::Read { offset, length: now });
            }
        }
    }
}

/// First sector and number of sectors that the registers of the selected drive name. A sector that does not exist is
/// `u64::MAX`.
fn extent(state: &mut State, drive: &Drive, wide: bool) -> Extent {
    let registers = state.selected();
    let low = [registers.lba_low, registers.lba_mid, registers.lba_high];
    if wide {
        let byte = |twice: Twice, shift: u32| u64::from(twice.last) << shift | u64::from(twice.before) << (shift + 24);
        let first = byte(low[0], 0) | byte(low[1], 8) | byte(low[2], 16);
        let count = match registers.count.both() {
            0 => MOST_SECTORS,
            count => count,
        };
        return Extent { first, count };
    }
    let [low, mid, high] = low.map(|twice| u64::from(twice.last));
    let top = u64::from(registers.device & 0xf);
    let first = if registers.device & LBA != 0 {
        top << 24 | high << 16 | mid << 8 | low
    } else {
        let (heads, track) = (u64::from(registers.heads), u64::from(registers.track));
        let cylinder = high << 8 | mid;
        // Sectors of a track count from 1.
        match low.checked_sub(1) {
            Some(sector) if sector < track && top < heads => (cylinder * heads + top) * track + sector,
            _ => drive.sectors(),
        }
    };
    let count = match registers.count.last {
        0 => 256,
        count => u64::from(count),
    };
    Extent { first, count }
}

fn set_address(state: &mut State, address: u64, wide: bool) {
    let registers = state.selected();
    let part = |shift: u32| Twice { last: (address >> shift) as u8, before: (address >> (shift + 24)) as u8 };
    (registers.lba_low, registers.lba_mid, registers.lba_high) = (part(0), part(8), part(16));
    if !wide {
        registers.device = registers.device & 0xf0 | (address >> 24) as u8 & 0xf;
    }
}

/// Answer of IDENTIFY DEVICE.
fn identification(drive: &Drive, transfer_mode: u8, multiple: u8, translation: (u8, u8)) -> [u16; 256] {
    let mut words = [0; 256];
    let sectors = drive.sectors();
    let (heads, track) = (u64::from(HEADS), u64::from(TRACK));
    let cylinders = (sectors / (heads * track)).clamp(1, MOST_CYLINDERS);
    words[0] = 0x0040;
    (words[1], words[3], words[6]) = (cylinders as u16, heads as u16, track as u16);
    put_text(&mut words[10..20], &drive.serial);
    put_text(&mut words[23..27], env!("CARGO_PKG_VERSION"));
    put_text(&mut words[27..47], "BROLGA HARDDISK");
    words[47] = 0x8000 | u16::from(MOST_MULTIPLE);
    words[48] = 1;
    // IORDY, LBA, DMA.
    words[49] = 0x0b00;
    words[50] = 0x4000;
    put_modes(&mut words, transfer_mode);
    words[53] |= 1;
    let (heads, track) = (u64::from(translation.0), u64::from(translation.1));
    let cylinders = sectors.checked_div(heads * track).unwrap_or(0).min(MOST_CYLINDERS);
    let current = (cylinders * heads * track) as u32;
    (words[54], words[55], words[56]) = (cylinders as u16, heads as u16, track as u16);
    (words[57], words[58]) = (current as u16, (current >> 16) as u16);
    words[59] = if multiple > 0 { 0x100 | u16::from(multiple) } else { 0 };
    let short = sectors.min(0xfff_ffff) as u32;
    (words[60], words[61]) = (short as u16, (short >> 16) as u16);
    // ATA/ATAPI-4 to 6.
    (words[80], words[81]) = (0x70, 0x18);
    // NOP-free: write cache; FLUSH CACHE (EXT) and 48-bit addresses; and that these words count.
    (words[82], words[83], words[84]) = (0x0020, 0x7400, 0x4000);
    (words[85], words[86], words[87]) = (0x0020, 0x3400, 0x4000);
    // Result of the reset: device 0 passed, cable of 80 conductors.
    words[93] = 0x600b;
    for (index, word) in words[100..104].iter_mut().enumerate() {
        *word = (sectors >> (16 * index)) as u16;
    }
    words
}
