//! The `parallels` format: QEMU's `docs/interop/parallels.rst`.
//!
//! The header is followed by a table with a number for each cluster: where it is in the file, in sectors, or in clusters where the
//! image has the extended form. The format's extension with bitmaps is not read; an image that has one says, once it has been written
//! to, that its extension is out of date.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::OnceCell;

use crate::fields::{Endian, Fields};
use crate::sparse::{Layout, Level, Pages, Place, Places, Sparse, Table, Used, check_offset};
use crate::{Driver, Error, FieldError, Node, Preallocation};

const MAGIC: &[u8; 16] = b"WithoutFreeSpace";
const MAGIC_EXTENDED: &[u8; 16] = b"WithouFreSpacExt";
const VERSION: u32 = 2;
const HEADER: usize = 64;
const SECTOR: u64 = 512;
/// Where it stands that somebody has the image open for writing.
const IN_USE_AT: u64 = 44;
const IN_USE: u32 = 0x746f_6e59;
const CLOSED: u32 = 0x312e_3276;
/// Closed by a program that does not know the extension.
const CLOSED_WITHOUT_EXTENSION: u32 = 0;
/// Most bytes of a cluster, and most clusters of a disk: QEMU takes no more.
const MOST_CLUSTER: u64 = (2 << 30) - SECTOR;
const MOST_CLUSTERS: u64 = (1 << 29) - 1;

/// Whether the first bytes of a file are those of a Parallels image.
pub fn probe(start: &[u8]) -> bool {
    (start.starts_with(MAGIC) || start.starts_with(MAGIC_EXTENDED))
        && Endian::Little.u32_at(start, MAGIC.len()) == Some(VERSION)
}

/// How an image is made.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions {
    /// Length of the disk, bytes; it is rounded up to whole sectors of 512 bytes.
    pub size: u64,
    /// Bytes of a cluster, a multiple of 512: 1 MiB by default.
    pub cluster_size: u64,
}

impl Default for CreateOptions {
    fn default() -> CreateOptions {
        CreateOptions { size: 0, cluster_size: 1 << 20 }
    }
}

/// Makes an image of a disk of zeros.
pub async fn create(file: &Node, options: &CreateOptions) -> Result<(), Error> {
    let cluster = options.cluster_size;
    if cluster > MOST_CLUSTER {
        return Err(Error::Unsupported("Cluster size is too large".into()));
    }
    if !cluster.is_multiple_of(SECTOR) {
        return Err(FieldError::value("cluster_size", cluster, "it must be a multiple of 512").into());
    }
    let size = options.size.checked_next_multiple_of(SECTOR).filter(|size| *size <= MOST_CLUSTERS * cluster);
    let size = size.filter(|_| cluster > 0);
    let too_large = || Error::Unsupported("Image size is too large for this cluster size".into());
    let size = size.ok_or_else(too_large)?;
    let clusters = size.div_ceil(cluster);
    let data = (HEADER as u64 + clusters * 4).next_multiple_of(cluster);
    let (heads, sectors_of_track) = (16, 32);
    let cylinders = size / SECTOR / (heads * sectors_of_track);
    let mut header = MAGIC_EXTENDED.to_vec();
    for number in [VERSION as u64, heads, cylinders.min(u32::MAX.into()), cluster / SECTOR, clusters] {
        header.extend((number as u32).to_le_bytes());
    }
    header.extend((size / SECTOR).to_le_bytes());
    header.extend(CLOSED.to_le_bytes());
    header.extend(((data / SECTOR) as u32).to_le_bytes());
    header.resize(HEADER, 0);
    file.truncate(0, Preallocation::Off).await?;
    file.write_zeroes(0, data, crate::ZeroFlags::MAY_UNMAP).await?;
    file.write_bytes(0, &header).await?;
    file.flush().await
}

/// The image in a file.
pub async fn open(file: Arc<Node>) -> Result<Box<dyn Driver>, Error> {
    let bytes = file.read_vec(0, (HEADER as u64).min(file.length()) as usize).await?;
    if !probe(&bytes) {
        return Err(Error::Unsupported("Image not in Parallels format".into()));
    }
    let header = Header::read(&bytes)?;
    let cluster = header.cluster;
    let table = Table { start: HEADER as u64, entries: header.entries.into(), width: 4, endian: Endian::Little };
    let clusters = header.length.div_ceil(cluster);
    table.check("the BAT's offset", HEADER as u64, clusters, &file)?;
    let table_end = table.start + table.entries * table.width;
    let data = if header.data == 0 { table_end.next_multiple_of(SECTOR) } else { u64::from(header.data) * SECTOR };
    if data < table_end {
        let valid = format!("the BAT ends at offset {table_end}, which is more sectors");
        return Err(FieldError::value("data_off", header.data, valid).into());
    }
    if data > file.length().next_multiple_of(cluster) {
        let valid = format!("the file ends at offset {}, which is fewer sectors", file.length());
        return Err(FieldError::value("data_off", header.data, valid).into());
    }
    let mut next = data;
    if !file.is_read_only() {
        let (mut used, mut places) = (Used::default(), Places::default());
        let end = file.length();
        let each = |index: u64, entry: u64| {
            if entry == 0 {
                return Ok(());
            }
            check_offset(entry * header.unit, "the offset of a cluster", table_end, end)?;
            if header.unit == cluster { used.mark(entry, index) } else { places.add(entry as u32) }
        };
        table.scan(&file, clusters, each).await?;
        let used_end = (used.end() * cluster).max(places.check(cluster / SECTOR)? * SECTOR);
        next = data.max(used_end).next_multiple_of(header.unit);
    }
    let layout = Parallels {
        pages: Pages::new(file.clone()),
        file: file.clone(),
        table,
        table_end,
        next: next.into(),
        noted_use: OnceCell::new(),
        header,
    };
    Ok(Box::new(Sparse::new(file, None, layout)))
}

struct Header {
    /// Bytes of a cluster.
    cluster: u64,
    /// Bytes that entries of the table count in.
    unit: u64,
    entries: u32,
    /// Length of the disk, bytes.
    length: u64,
    /// Where clusters begin, in sectors; 0: behind the table.
    data: u32,
    has_extension: bool,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Header, Error> {
        let mut fields = Fields::little("the Parallels header", bytes);
        let is_extended = fields.bytes("magic", 16)? == MAGIC_EXTENDED;
        fields.bytes("version, heads and cylinders", 12)?;
        let tracks = fields.u32("tracks")?;
        let cluster = u64::from(tracks) * SECTOR;
        if !(SECTOR..=MOST_CLUSTER).contains(&cluster) {
            let valid = format!("a cluster has between 1 and {} sectors", MOST_CLUSTER / SECTOR);
            return Err(FieldError::value("tracks", tracks, valid).into());
        }
        let entries = fields.u32("nb_bat_entries")?;
        if u64::from(entries) > MOST_CLUSTERS {
            return Err(
                FieldError::value("nb_bat_entries", entries, format!("it must be at most {MOST_CLUSTERS}")).into()
            );
        }
        let sectors = fields.u64("nb_sectors")?;
        let sectors = if is_extended { sectors } else { sectors & u64::from(u32::MAX) };
        let most = u64::from(entries) * u64::from(tracks);
        if sectors > most {
            return Err(FieldError::value("nb_sectors", sectors, format!("{entries} clusters have {most}")).into());
        }
        fields.u32("in_use")?;
        let data = fields.u32("data_off")?;
        fields.u32("flags")?;
        let has_extension = fields.u64("ext_off")? != 0;
        let unit = if is_extended { cluster } else { SECTOR };
        Ok(Header { cluster, unit, entries, length: sectors * SECTOR, data, has_extension })
    }
}

struct Parallels {
    pages: Pages,
    file: Arc<Node>,
    table: Table,
    header: Header,
    /// Where the table ends in the file. Clusters may be anywhere behind it: QEMU itself has put some before `data_off`.
    table_end: u64,
    /// Where in the file the next new cluster goes.
    next: AtomicU64,
    /// The header says that the image is in use.
    noted_use: OnceCell<()>,
}

impl Parallels {
    async fn note_use(&self, value: u32) -> Result<(), Error> {
        self.file.write_bytes(IN_USE_AT, &value.to_le_bytes()).await?;
        self.file.flush().await
    }
}

#[async_trait]
impl Layout for Parallels {
    fn name(&self) -> &'static str {
        "parallels"
    }
    fn length(&self) -> u64 {
        self.header.length
    }
    fn block_size(&self) -> u64 {
        self.header.cluster
    }
    fn pages(&self) -> &Pages {
        &self.pages
    }

    async fn find(&self, block: u64) -> Result<Place, Error> {
        match self.table.get(&self.pages, block).await? {
            0 => Ok(Place::Absent),
            entry => Place::at(entry * self.header.unit, "the offset of a cluster", self.table_end, &self.file),
        }
    }

    async fn reserve(&self) -> Result<u64, Error> {
        let offset = self.next.fetch_add(self.header.cluster, Ordering::Relaxed);
        if offset / self.header.unit > u32::MAX.into() {
            return Err(Error::Unsupported("the image's file is as long as a Parallels image can be".into()));
        }
        Ok(offset)
    }

    async fn set(&self, block: u64, place: Place) -> Result<(), Error> {
        let Place::At(offset) = place else { return Err(Error::Unsupported("a cluster has one place".into())) };
        self.table.set(&self.pages, block, offset / self.header.unit, Level::Leaf).await
    }

    async fn before_change(&self) -> Result<(), Error> {
        self.noted_use.get_or_try_init(|| self.note_use(IN_USE)).await.map(|_| ())
    }

    async fn close(&self) -> Result<(), Error> {
        if !self.noted_use.initialized() {
            return Ok(());
        }
        let closed = if self.header.has_extension { CLOSED_WITHOUT_EXTENSION } else { CLOSED };
        self.note_use(closed).await
    }
}
