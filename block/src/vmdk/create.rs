//! Makes images.

use std::path::Path;
use std::sync::Arc;

use super::extent::{CHECK, HAS_MARKERS, HAS_REDUNDANT, HAS_ZERO_GRAINS, IS_COMPRESSED, MAGIC};
use super::{SECTOR, Vmdk};
use crate::create::NewFile;
use crate::neighbours::Neighbours;
use crate::open::generated_name;
use crate::{Error, FieldError, ImageOptions, Node, Preallocation};

/// Sectors of a grain.
const GRAIN: u64 = 128;
/// Entries of a grain table, and the sectors that it takes.
const TABLE_ENTRIES: u64 = 512;
const TABLE_SECTORS: u64 = TABLE_ENTRIES * 4 / SECTOR;
/// Where the descriptor is in a sparse file, and how long it may be, sectors.
const DESCRIPTOR: u64 = 1;
const DESCRIPTOR_SECTORS: u64 = 20;
/// Most bytes of each of many extents.
const SPLIT: u64 = 2 << 30;
/// Most bytes of a disk. Of a sparse one less than 2 TiB can have data: entries of grain tables are numbers of sectors of 32 bits.
const MOST_SIZE: u64 = super::extent::MOST_SECTORS * SECTOR;

/// Of what files an image is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subformat {
    /// One file with grains where something was written, and the descriptor.
    #[default]
    MonolithicSparse,
    /// A descriptor, and a file with the disk's bytes.
    MonolithicFlat,
    /// A descriptor, and sparse files for 2 GiB each.
    TwoGbMaxExtentSparse,
    /// A descriptor, and files with 2 GiB of the disk's bytes each.
    TwoGbMaxExtentFlat,
    /// One file with compressed grains, which are written once.
    StreamOptimized,
}

impl Subformat {
    /// The kinds, by name.
    pub const ALL: [(&str, Subformat); 5] = [
        ("monolithicSparse", Subformat::MonolithicSparse),
        ("monolithicFlat", Subformat::MonolithicFlat),
        ("twoGbMaxExtentSparse", Subformat::TwoGbMaxExtentSparse),
        ("twoGbMaxExtentFlat", Subformat::TwoGbMaxExtentFlat),
        ("streamOptimized", Subformat::StreamOptimized),
    ];

    fn name(self) -> &'static str {
        Subformat::ALL.into_iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    fn is_flat(self) -> bool {
        matches!(self, Subformat::MonolithicFlat | Subformat::TwoGbMaxExtentFlat)
    }

    fn is_split(self) -> bool {
        matches!(self, Subformat::TwoGbMaxExtentSparse | Subformat::TwoGbMaxExtentFlat)
    }
}

/// What kind of disk the image is said to be for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdapterType {
    /// `ide`
    #[default]
    Ide,
    /// `buslogic`
    BusLogic,
    /// `lsilogic`
    LsiLogic,
    /// `legacyESX`
    LegacyEsx,
}

impl AdapterType {
    /// The kinds, by name.
    pub const ALL: [(&str, AdapterType); 4] = [
        ("ide", AdapterType::Ide),
        ("buslogic", AdapterType::BusLogic),
        ("lsilogic", AdapterType::LsiLogic),
        ("legacyESX", AdapterType::LegacyEsx),
    ];

    fn name(self) -> &'static str {
        AdapterType::ALL.into_iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// How an image is made.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// Length of the disk, bytes; it is rounded up to whole sectors of 512 bytes.
    pub size: u64,
    /// Of what files it is made.
    pub subformat: Subformat,
    /// `adapter_type=`
    pub adapter_type: AdapterType,
    /// `hwversion=`; 4 by default.
    pub hardware_version: Option<String>,
    /// `toolsversion=`; 2147483647 by default.
    pub tools_version: Option<String>,
    /// Grains can be said to be zero (`zeroed_grain=on`).
    pub zeroed_grain: bool,
    /// Name of the image behind, which is of this format too, as the image is to have it.
    pub backing_file: Option<String>,
    /// Where the file system copies bytes before they change, it does not with those of the new files (`nocow=on`).
    pub in_place: bool,
}

/// Makes an image without data, with this file as the one that is opened, and others beside it. What was in them is lost; those that
/// were not there before are not there afterwards if it fails.
pub async fn create(path: &Path, options: &CreateOptions) -> Result<(), Error> {
    let mut files = Vec::new();
    let done = create_files(path, options, &mut files).await;
    files.into_iter().fold(done, |done, file| file.keep_if(done))
}

async fn create_files(path: &Path, options: &CreateOptions, files: &mut Vec<NewFile>) -> Result<(), Error> {
    let size = options.size.checked_next_multiple_of(SECTOR).filter(|size| *size <= MOST_SIZE);
    let size =
        size.ok_or_else(|| FieldError::value("size", options.size, format!("it must be at most {MOST_SIZE}")))?;
    let kind = options.subformat;
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.filter(|name| !name.contains(['"', '\n']));
    let Some(name) = name else {
        return Err(Error::Unsupported(format!("a VMDK image cannot have the name {path:?}")));
    };
    let mut parent = (u32::MAX, String::new());
    if let Some(backing) = &options.backing_file {
        if kind.is_flat() {
            return Err(Error::Unsupported("Flat image can't have backing file".into()));
        }
        if backing.contains(['"', '\n']) {
            return Err(Error::Unsupported(format!("a VMDK image cannot have {backing:?} behind it")));
        }
        let neighbours = Neighbours::of(path, ImageOptions::default());
        let Some(node) = neighbours.open_backing(backing, None).await? else { return Ok(()) };
        let found = node.driver().name();
        let vmdk = node.driver_as::<Vmdk>();
        let other = || Error::Unsupported(format!("Invalid backing file format: {found}. Must be vmdk"));
        let cid = vmdk.ok_or_else(other)?.cid();
        let cid = cid.ok_or_else(|| Error::Unsupported(format!("{backing:?} has no CID")))?;
        parent = (cid, format!("parentFileNameHint=\"{backing}\"\n"));
    }
    if kind.is_flat() && options.zeroed_grain {
        return Err(Error::Unsupported("Flat image can't enable zeroed grain".into()));
    }
    let (stem, ending) = name.rfind('.').map_or((name, ""), |dot| name.split_at(dot));
    let mut lines = String::new();
    let mut parts = Vec::new();
    let mut left = size;
    while left > 0 || parts.is_empty() {
        let length = if kind.is_split() { left.min(SPLIT) } else { left };
        let number = parts.len() + 1;
        let part = match kind {
            Subformat::MonolithicSparse | Subformat::StreamOptimized => name.to_owned(),
            Subformat::MonolithicFlat => format!("{stem}-flat{ending}"),
            Subformat::TwoGbMaxExtentSparse => format!("{stem}-s{number:03}{ending}"),
            Subformat::TwoGbMaxExtentFlat => format!("{stem}-f{number:03}{ending}"),
        };
        let (word, first) = if kind.is_flat() { ("FLAT", " 0") } else { ("SPARSE", "") };
        lines += &format!("RW {} {word} \"{part}\"{first}\n", length / SECTOR);
        parts.push((part, length));
        left -= length;
    }
    let descriptor = descriptor(options, parent, &lines, size);
    if descriptor.len() as u64 > DESCRIPTOR_SECTORS * SECTOR && !kind.is_split() {
        return Err(Error::Unsupported("the names that the descriptor is to have are too long".into()));
    }
    let is_separate = kind.is_flat() || kind.is_split();
    let folder = path.parent().unwrap_or(Path::new(""));
    for (part, length) in parts {
        let file = new_file(&folder.join(part), options, files).await?;
        if kind.is_flat() {
            file.truncate(length, Preallocation::Off).await?;
        } else {
            let embedded = if is_separate { "" } else { &descriptor };
            write_sparse(&file, length / SECTOR, options, embedded).await?;
        }
        file.flush().await?;
    }
    if is_separate {
        let file = new_file(path, options, files).await?;
        file.write_bytes(0, descriptor.as_bytes()).await?;
        file.flush().await?;
    }
    Ok(())
}

/// An empty file, which is noted among those that there are.
async fn new_file(path: &Path, options: &CreateOptions, files: &mut Vec<NewFile>) -> Result<Arc<Node>, Error> {
    let (path, in_place) = (path.to_owned(), options.in_place);
    let (file, protocol) = blocking::unblock(move || NewFile::make(&path, in_place)).await?;
    files.push(file);
    let node = Node::new(generated_name(), protocol);
    node.truncate(0, Preallocation::Off).await?;
    Ok(node)
}

fn descriptor(options: &CreateOptions, (parent_cid, parent_line): (u32, String), extents: &str, size: u64) -> String {
    let adapter = options.adapter_type;
    let (heads, sectors_of_track) = if adapter == AdapterType::Ide { (16, 63) } else { (255, 63) };
    let cylinders = size / SECTOR / (heads * sectors_of_track);
    let cid = uuid::Uuid::new_v4().as_fields().0 & 0x7fff_ffff;
    let kind = options.subformat.name();
    let hardware = options.hardware_version.as_deref().unwrap_or("4");
    let tools = options.tools_version.as_deref().unwrap_or("2147483647");
    let adapter = adapter.name();
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID={parent_cid:08x}\ncreateType=\"{kind}\"\n\
         {parent_line}\n# Extent description\n{extents}\n# The Disk Data Base\n#DDB\n\n\
         ddb.virtualHWVersion = \"{hardware}\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"{heads}\"\n\
         ddb.geometry.sectors = \"{sectors_of_track}\"\n\
         ddb.adapterType = \"{adapter}\"\n\
         ddb.toolsVersion = \"{tools}\"\n"
    )
}

/// Writes a sparse extent without grains. All grain tables are there from the beginning.
async fn write_sparse(file: &Node, sectors: u64, options: &CreateOptions, descriptor: &str) -> Result<(), Error> {
    let is_stream = options.subformat == Subformat::StreamOptimized;
    let tables = sectors.div_ceil(GRAIN).div_ceil(TABLE_ENTRIES);
    let directory_sectors = (tables * 4).div_ceil(SECTOR);
    let redundant = DESCRIPTOR + DESCRIPTOR_SECTORS;
    let directory = redundant + directory_sectors + tables * TABLE_SECTORS;
    let grains = (directory + directory_sectors + tables * TABLE_SECTORS).next_multiple_of(GRAIN);
    let version = match options.zeroed_grain {
        _ if is_stream => 3_u32,
        true => 2,
        false => 1,
    };
    // The first says that the bytes which tell text are there.
    let mut flags = 1 | HAS_REDUNDANT;
    if is_stream {
        flags |= IS_COMPRESSED | HAS_MARKERS;
    }
    if options.zeroed_grain {
        flags |= HAS_ZERO_GRAINS;
    }
    let mut header = MAGIC.to_vec();
    header.extend(version.to_le_bytes());
    header.extend(flags.to_le_bytes());
    for number in [sectors, GRAIN, DESCRIPTOR, DESCRIPTOR_SECTORS] {
        header.extend(number.to_le_bytes());
    }
    header.extend((TABLE_ENTRIES as u32).to_le_bytes());
    for number in [redundant, directory, grains] {
        header.extend(number.to_le_bytes());
    }
    header.push(0);
    header.extend(CHECK);
    header.extend(u16::from(is_stream).to_le_bytes());
    header.resize(SECTOR as usize, 0);
    header.extend(descriptor.as_bytes());
    file.truncate(grains * SECTOR, Preallocation::Off).await?;
    file.write_bytes(0, &header).await?;
    for start in [redundant, directory] {
        let first = start + directory_sectors;
        let entries = (0..tables).flat_map(|index| ((first + index * TABLE_SECTORS) as u32).to_le_bytes());
        file.write_bytes(start * SECTOR, &entries.collect::<Vec<u8>>()).await?;
    }
    Ok(())
}
