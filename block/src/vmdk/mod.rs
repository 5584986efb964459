//! The `vmdk` format: VMware's "Virtual Disk Format 5.0".
//!
//! A descriptor, text, says of what files the disk is made: sparse extents, whose tables say where each grain is, or flat ones, which
//! have the disk's bytes. An image of one sparse file has its descriptor in it. Extents in the forms of ESX (`VMFSSPARSE`,
//! `SESPARSE`) are not built.

mod create;
mod descriptor;
mod extent;
mod info;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OnceCell;

use crate::driver::{Role, Status, StatusKind, ZeroFlags, Zeroed};
use crate::neighbours::Neighbours;
use crate::open::generated_name;
use crate::slice::Slice;
use crate::{Driver, Error, FieldError, FileOptions, Format, ImageOptions, IoVector, Node, Preallocation};

pub use create::{AdapterType, CreateOptions, Subformat, create};
use descriptor::{Descriptor, ExtentKind};
pub use info::{ExtentInfo, Info};

const SECTOR: u64 = 512;
/// Most bytes of a descriptor in a file of its own.
const MOST_DESCRIPTOR: u64 = 1 << 20;
/// What a descriptor in a file of its own may say of its kind.
const KINDS: [&str; 5] = ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "vmfs", "custom"];

/// Whether the first bytes of a file are those of a VMDK image, or of the descriptor of one.
pub fn probe(start: &[u8]) -> bool {
    start.starts_with(extent::MAGIC) || Descriptor::probe(start)
}

/// The image in a file, which is at `path`: the other files that it names are looked for there, and opened with `options`.
pub async fn open(file: Arc<Node>, path: &Path, options: FileOptions) -> Result<Box<dyn Driver>, Error> {
    open_beside(file, &Neighbours::of(path, ImageOptions { file: options, ..ImageOptions::default() })).await
}

/// [`open`], for an image which may stand behind others.
pub(crate) async fn open_beside(file: Arc<Node>, neighbours: &Neighbours) -> Result<Box<dyn Driver>, Error> {
    let start = file.read_vec(0, SECTOR.min(file.length()) as usize).await?;
    let mut descriptor = None;
    let mut room = 0..MOST_DESCRIPTOR;
    let mut only_extent = None;
    if start.starts_with(extent::MAGIC) {
        let header = extent::Header::read(&file).await?;
        let (at, length) = header.descriptor;
        if length != 0 {
            if at.checked_add(length).is_none_or(|end| end > file.length()) {
                let valid = format!("{length} bytes must be there, and the file has {}", file.length());
                return Err(FieldError::value("descriptorOffset", at / SECTOR, valid).into());
            }
            room = at..at + length;
            descriptor = Some(Descriptor::parse(&file.read_vec(at, length as usize).await?)?);
        }
        // A capacity of 0 says that the descriptor is what counts.
        if header.capacity != 0 || descriptor.is_none() {
            only_extent = Some(header);
        }
    } else if Descriptor::probe(&start) {
        let bytes = file.read_vec(0, file.length().min(MOST_DESCRIPTOR) as usize).await?;
        descriptor = Some(Descriptor::parse(&bytes)?);
    } else {
        return Err(Error::Unsupported("Image not in VMDK format".into()));
    }
    let mut vmdk = Vmdk {
        file: file.clone(),
        descriptor: descriptor.map(|descriptor| (room, descriptor)),
        extents: Vec::new(),
        parts: Vec::new(),
        backing: None,
        length: 0,
        has_read_only: false,
        changed_cid: OnceCell::new(),
    };
    vmdk.open_parent(neighbours).await?;
    match only_extent {
        Some(header) => {
            let info = header.info(neighbours.path().to_owned(), "");
            let extent = extent::open(file, header, vmdk.backing.clone())?;
            vmdk.add(ExtentInfo { length: extent.length(), ..info }, Some(Box::new(extent)));
        }
        None => vmdk.open_extents(neighbours).await?,
    }
    Ok(Box::new(vmdk))
}

pub(crate) struct Vmdk {
    file: Arc<Node>,
    /// The descriptor, and which bytes of the file it may take.
    descriptor: Option<(std::ops::Range<u64>, Descriptor)>,
    /// The parts of the disk, in order and without gaps.
    extents: Vec<Extent>,
    /// Files of the extents, where they are not `file`.
    parts: Vec<Arc<Node>>,
    backing: Option<Arc<Node>>,
    length: u64,
    has_read_only: bool,
    /// The descriptor has got another identifier since the image was opened.
    changed_cid: OnceCell<()>,
}

/// A part of the disk.
struct Extent {
    /// Where it begins in the disk, and how long it is, bytes.
    start: u64,
    length: u64,
    info: ExtentInfo,
    /// What has its bytes; `None`: they are zeros.
    disk: Option<Box<dyn Driver>>,
}

/// Bytes of a request that are in one extent.
struct Part<'a> {
    disk: Option<&'a dyn Driver>,
    /// Where they begin in the extent, bytes.
    offset: u64,
    /// Where they begin in the request, and how many they are.
    at: u64,
    length: u64,
}

impl Vmdk {
    fn add(&mut self, info: ExtentInfo, disk: Option<Box<dyn Driver>>) {
        let length = info.length;
        self.extents.push(Extent { start: self.length, length, info, disk });
        self.length += length;
    }

    async fn open_parent(&mut self, neighbours: &Neighbours) -> Result<(), Error> {
        let parent = self.descriptor.as_ref().and_then(|(_, descriptor)| descriptor.parent.as_ref());
        let Some(parent) = parent else { return Ok(()) };
        let Some(backing) = neighbours.open_backing(&parent.name, Some(Format::Vmdk)).await? else { return Ok(()) };
        let cid = backing.driver_as::<Vmdk>().and_then(Vmdk::cid);
        if cid != Some(parent.cid) {
            let text = format!("parentCID is {:08x}, but the CID of {:?} is {:08x?}", parent.cid, parent.name, cid);
            return Err(Error::Corrupt(text));
        }
        self.backing = Some(backing);
        Ok(())
    }

    /// Identifier of what is on the disk.
    fn cid(&self) -> Option<u32> {
        self.descriptor.as_ref().map(|(_, descriptor)| descriptor.cid)
    }

    async fn open_extents(&mut self, neighbours: &Neighbours) -> Result<(), Error> {
        let Some((_, descriptor)) = self.descriptor.clone() else { return Ok(()) };
        if !KINDS.contains(&descriptor.create_type.as_str()) {
            let text = format!("createType is {:?}; built are {}", descriptor.create_type, KINDS.join(", "));
            return Err(Error::Unsupported(text));
        }
        if descriptor.extents.is_empty() {
            return Err(Error::Corrupt("the descriptor names no extents".into()));
        }
        for line in descriptor.extents {
            self.has_read_only |= line.is_read_only;
            let length = line.sectors * SECTOR;
            let mut info = ExtentInfo { path: None, length, form: "ZERO", grain: None, is_compressed: false };
            let disk: Option<Box<dyn Driver>> = match line.kind {
                ExtentKind::Zero => None,
                ExtentKind::Flat(name, first) => {
                    info = ExtentInfo { path: Some(neighbours.place(&name)?), form: "FLAT", ..info };
                    let file = neighbours.open_part(&name).await?;
                    self.parts.push(file.clone());
                    let start = first * SECTOR;
                    if start + length > file.length() {
                        let valid = format!("{name:?} has {} bytes, and the extent begins at {start}", file.length());
                        return Err(FieldError::value("length of a flat extent", length, valid).into());
                    }
                    Some(Box::new(Slice::new(file, start, length)))
                }
                ExtentKind::Sparse(name) => {
                    let file = neighbours.open_part(&name).await?;
                    self.parts.push(file.clone());
                    let header = extent::Header::read(&file).await?;
                    if header.capacity < line.sectors {
                        let valid = format!("the descriptor says {} for {name:?}", line.sectors);
                        return Err(FieldError::value("capacity", header.capacity, valid).into());
                    }
                    info = header.info(neighbours.place(&name)?, "SPARSE");
                    let start = self.length;
                    let behind = |node| Node::new(generated_name(), Slice::new(node, start, length));
                    let backing = self.backing.clone().map(behind);
                    Some(Box::new(extent::open(file, header, backing)?))
                }
            };
            self.has_read_only |= disk.as_ref().is_some_and(|disk| disk.is_read_only());
            self.add(ExtentInfo { length, ..info }, disk);
        }
        Ok(())
    }

    /// Changes the identifier, so that images which have this one behind them see that it is not what it was.
    async fn change_cid(&self) -> Result<(), Error> {
        let Some((room, descriptor)) = &self.descriptor else { return Ok(()) };
        let text = descriptor.with_cid(uuid::Uuid::new_v4().as_fields().0 & 0x7fff_ffff);
        if text.len() as u64 > room.end - room.start {
            return Ok(());
        }
        self.file.write_bytes(room.start, text.as_bytes()).await
    }

    /// The parts of a request, which lies within the disk.
    fn parts(&self, offset: u64, length: u64) -> impl Iterator<Item = Part<'_>> {
        let first = self.extents.partition_point(|extent| extent.start + extent.length <= offset);
        let end = offset.saturating_add(length);
        self.extents[first..].iter().take_while(move |extent| extent.start < end).map(move |extent| {
            let start = extent.start.max(offset);
            Part {
                disk: extent.disk.as_deref(),
                offset: start - extent.start,
                at: start - offset,
                length: (extent.start + extent.length).min(end) - start,
            }
        })
    }

    /// The first of the extents whose grains are compressed.
    fn compressed_extent(&self) -> Option<&dyn Driver> {
        self.extents.iter().filter_map(|extent| extent.disk.as_deref()).find(|disk| disk.needs_compression())
    }

    async fn begin_change(&self, offset: u64, length: u64) -> Result<(), Error> {
        if self.is_read_only() {
            return Err(Error::ReadOnly);
        }
        if offset.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(Error::OutOfBounds { offset, length, disk: self.length });
        }
        self.changed_cid.get_or_try_init(|| self.change_cid()).await.map(|_| ())
    }
}

#[async_trait]
impl Driver for Vmdk {
    fn name(&self) -> &'static str {
        "vmdk"
    }
    fn length(&self) -> u64 {
        self.length
    }
    fn is_read_only(&self) -> bool {
        self.file.is_read_only() || self.has_read_only || self.extents.iter().any(Extent::is_read_only)
    }

    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        let there = self.length.saturating_sub(offset).min(to.len() as u64);
        to.slice(there as usize, to.len() - there as usize).fill(0);
        for part in self.parts(offset, there) {
            let into = to.slice(part.at as usize, part.length as usize);
            match part.disk {
                Some(disk) => disk.read(part.offset, into).await?,
                None => into.fill(0),
            }
        }
        Ok(())
    }

    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        self.begin_change(offset, from.len() as u64).await?;
        for part in self.parts(offset, from.len() as u64) {
            let text = "an extent of zeros cannot be written";
            let disk = part.disk.ok_or_else(|| Error::Unsupported(text.into()))?;
            disk.write(part.offset, from.slice(part.at as usize, part.length as usize)).await?;
        }
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, length: u64, flags: ZeroFlags) -> Result<Zeroed, Error> {
        self.begin_change(offset, length).await?;
        for part in self.parts(offset, length) {
            if let Some(disk) = part.disk {
                disk.write_zeroes(part.offset, part.length, flags).await?;
            }
        }
        Ok(Zeroed::Done)
    }

    async fn discard(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.begin_change(offset, length).await?;
        for part in self.parts(offset, length) {
            if let Some(disk) = part.disk {
                disk.discard(part.offset, part.length).await?;
            }
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), Error> {
        for extent in &self.extents {
            if let Some(disk) = extent.disk.as_deref().filter(|disk| !disk.is_read_only()) {
                disk.flush().await?;
            }
        }
        // The descriptor.
        self.file.flush().await
    }

    async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        let Some(part) = self.parts(offset, length).next() else {
            return Err(Error::OutOfBounds { offset, length, disk: self.length });
        };
        match part.disk {
            Some(disk) => {
                let status = disk.status(part.offset, part.length).await?;
                // It is an offset in one of many files.
                let file_offset = status.file_offset.filter(|_| self.parts.is_empty());
                Ok(Status { file_offset, ..status })
            }
            None => {
                let kind = StatusKind::Zero;
                Ok(Status { length: part.length, kind, is_here: true, file_offset: None, is_compressed: false })
            }
        }
    }

    async fn truncate(&self, length: u64, preallocation: Preallocation) -> Result<(), Error> {
        let _ = (length, preallocation);
        Err(Error::Unsupported("Image format driver does not support resize".into()))
    }

    fn cluster_size(&self) -> u64 {
        self.block_size().unwrap_or(1)
    }

    fn block_size(&self) -> Option<u64> {
        self.extents.first().and_then(|extent| extent.info.grain)
    }

    fn needs_compression(&self) -> bool {
        self.compressed_extent().is_some()
    }

    async fn compress(&self, plain: IoVector) -> Result<Option<Vec<u8>>, Error> {
        match self.compressed_extent() {
            Some(extent) => extent.compress(plain).await,
            None => Ok(None),
        }
    }

    async fn write_compressed(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        let compressed = self.compress(from.clone()).await?;
        self.write_as_compressed(offset, from, compressed).await
    }

    async fn write_as_compressed(&self, offset: u64, from: IoVector, compressed: Option<Vec<u8>>) -> Result<(), Error> {
        if compressed.is_none() {
            return self.write(offset, from).await;
        }
        self.begin_change(offset, from.len() as u64).await?;
        let mut parts = self.parts(offset, from.len() as u64);
        match (parts.next(), parts.next()) {
            (Some(Part { disk: Some(disk), offset, .. }), None) => {
                disk.write_as_compressed(offset, from, compressed).await
            }
            _ => Err(Error::Unsupported("compressed data is written to one extent at once".into())),
        }
    }

    fn children(&self) -> Vec<(Role, Arc<Node>)> {
        let parts = self.parts.iter().cloned().map(|part| (Role::Extent, part));
        let backing = self.backing.clone().map(|backing| (Role::Backing, backing));
        [(Role::File, self.file.clone())].into_iter().chain(parts).chain(backing).collect()
    }

    async fn close(&self) -> Result<(), Error> {
        let mut first = Ok(());
        for disk in self.extents.iter().filter_map(|extent| extent.disk.as_deref()) {
            let closed = disk.close().await;
            first = first.and(closed);
        }
        first
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

impl Extent {
    fn is_read_only(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.is_read_only())
    }
}
