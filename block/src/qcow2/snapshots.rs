//! The table of internal snapshots.

use super::header::Header;
use super::{MetadataError, read_part};
use crate::Node;
use crate::driver::SnapshotInfo;
use crate::fields::{FieldError, Fields};

/// Most bytes of the table.
const MOST_BYTES: u64 = 64 << 20;
/// Bytes of an entry before what differs in length.
const FIXED: usize = 40;
/// Most bytes of extra data of an entry.
const MOST_EXTRA: u32 = 1024;

/// A state of the disk, and perhaps of the machine, that is kept in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its identifier, a number as text.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made: seconds since 1970, and nanoseconds.
    pub date: (u32, u32),
    /// For how long the guest had run, nanoseconds.
    pub vm_clock: u64,
    /// Bytes of the machine's state.
    pub vm_state_size: u64,
    /// Length of the disk then, bytes, if that is known.
    pub disk_size: Option<u64>,
    /// How many instructions the guest had executed, where that is counted.
    pub instructions: Option<u64>,
    /// Where its L1 table is.
    pub l1_table: u64,
    /// Entries of that.
    pub l1_entries: u32,
    /// What the entry has beside, in the form of the image.
    pub(super) extra: Vec<u8>,
}

impl Snapshot {
    /// A snapshot of a disk of `size` bytes, whose L1 table is at an offset and has so many entries.
    pub(super) fn new(id: &str, info: &SnapshotInfo, size: u64, l1: (u64, u32)) -> Snapshot {
        let numbers = [0, size, info.instructions.unwrap_or(u64::MAX)];
        Snapshot {
            id: id.to_owned(),
            name: info.name.clone(),
            date: info.date,
            vm_clock: info.vm_clock,
            vm_state_size: 0,
            disk_size: Some(size),
            instructions: info.instructions,
            l1_table: l1.0,
            l1_entries: l1.1,
            extra: numbers.iter().flat_map(|number| number.to_be_bytes()).collect(),
        }
    }

    /// What users see of it.
    pub(super) fn info(&self) -> SnapshotInfo {
        SnapshotInfo {
            id: self.id.clone(),
            name: self.name.clone(),
            date: self.date,
            vm_clock: self.vm_clock,
            vm_state_size: self.vm_state_size,
            instructions: self.instructions,
        }
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.l1_table.to_be_bytes());
        bytes.extend(self.l1_entries.to_be_bytes());
        bytes.extend((self.id.len() as u16).to_be_bytes());
        bytes.extend((self.name.len() as u16).to_be_bytes());
        bytes.extend(self.date.0.to_be_bytes());
        bytes.extend(self.date.1.to_be_bytes());
        bytes.extend(self.vm_clock.to_be_bytes());
        // A larger one is in the extra data.
        bytes.extend(u32::try_from(self.vm_state_size).unwrap_or(0).to_be_bytes());
        bytes.extend((self.extra.len() as u32).to_be_bytes());
        bytes.extend(&self.extra);
        bytes.extend(self.id.as_bytes());
        bytes.extend(self.name.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }

    /// Bytes of its entry in the table.
    pub(super) fn table_bytes(&self) -> u64 {
        let length = FIXED + self.extra.len() + self.id.len() + self.name.len();
        length.next_multiple_of(8) as u64
    }
}

/// The table, as it is written.
pub(super) fn encode_table(snapshots: &[Snapshot]) -> Vec<u8> {
    let mut bytes = Vec::new();
    snapshots.iter().for_each(|snapshot| snapshot.encode(&mut bytes));
    bytes
}

/// Reads the table.
pub(super) async fn read(file: &Node, header: &Header) -> Result<Vec<Snapshot>, MetadataError> {
    let mut snapshots = Vec::new();
    let mut offset = header.snapshot_table;
    for _ in 0..header.snapshots {
        let (snapshot, length) = read_one(file, offset).await?;
        offset += length;
        if offset - header.snapshot_table > MOST_BYTES {
            let valid = format!("the table must have at most {MOST_BYTES} bytes");
            return Err(FieldError::value("nb_snapshots", header.snapshots, valid).into());
        }
        snapshots.push(snapshot);
    }
    Ok(snapshots)
}

/// The entry at an offset, and its length.
async fn read_one(file: &Node, offset: u64) -> Result<(Snapshot, u64), MetadataError> {
    let fixed = read_part(file, "snapshots_offset", offset, FIXED as u64).await?;
    let mut fields = Fields::new("an entry of the snapshot table", &fixed);
    let l1_table = fields.u64("l1_table_offset")?;
    let l1_entries = fields.u32("l1_size")?;
    let id_length = fields.u16("id_str_size")?;
    let name_length = fields.u16("name_size")?;
    let date = (fields.u32("date_sec")?, fields.u32("date_nsec")?);
    let vm_clock = fields.u64("vm_clock_nsec")?;
    let vm_state_size = fields.u32("vm_state_size")?;
    let extra_length = fields.u32("extra_data_size")?;
    if extra_length > MOST_EXTRA {
        return Err(
            FieldError::value("extra_data_size", extra_length, format!("it must be at most {MOST_EXTRA}")).into()
        );
    }
    let length = u64::from(extra_length) + u64::from(id_length) + u64::from(name_length);
    let rest = read_part(file, "snapshots_offset", offset + FIXED as u64, length).await?;
    let (extra, texts) = rest.split_at(extra_length as usize);
    // Each of these is there if the extra data is that long.
    let mut numbers = extra.chunks_exact(8).filter_map(|bytes| Some(u64::from_be_bytes(*bytes.first_chunk()?)));
    let large_vm_state_size = numbers.next();
    let disk_size = numbers.next();
    // All ones: not counted.
    let instructions = numbers.next().filter(|count| *count != u64::MAX);
    let mut texts = Fields::new("an entry of the snapshot table", texts);
    let snapshot = Snapshot {
        id: texts.text("a snapshot's id", id_length.into())?,
        name: texts.text("a snapshot's name", name_length.into())?,
        date,
        vm_clock,
        vm_state_size: large_vm_state_size.unwrap_or(vm_state_size.into()),
        disk_size,
        instructions,
        l1_table,
        l1_entries,
        extra: extra.to_vec(),
    };
    Ok((snapshot, (FIXED + rest.len()).next_multiple_of(8) as u64))
}
