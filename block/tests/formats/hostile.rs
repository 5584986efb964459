//! Images that lie: each ends in an error or in success, soon, and never in a panic.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use block::{Driver, Error, Preallocation, Zeroed, bochs, cloop, dmg, parallels, qcow, vdi, vhdx, vmdk, vpc};

use super::*;

/// A file in memory of which most may be holes, however long it is.
struct Memory {
    parts: Mutex<HashMap<u64, Vec<u8>>>,
    length: AtomicU64,
    read_only: bool,
}

const PART: u64 = 4096;

impl Memory {
    fn node(bytes: &[u8], read_only: bool) -> Arc<Node> {
        let zeros = [0; PART as usize];
        let some = bytes.chunks(PART as usize).enumerate().filter(|(_, part)| **part != zeros[..part.len()]);
        let parts = some.map(|(index, part)| {
            let mut part = part.to_vec();
            part.resize(PART as usize, 0);
            (index as u64, part)
        });
        let length = AtomicU64::new(bytes.len() as u64);
        Node::new("file", Memory { parts: Mutex::new(parts.collect()), length, read_only })
    }

    /// Calls `each` with every part of a stretch, and where that is in the request.
    fn for_parts(offset: u64, length: usize, mut each: impl FnMut(u64, std::ops::Range<usize>, usize)) {
        let mut done = 0;
        while done < length {
            let at = offset + done as u64;
            let within = (at % PART) as usize;
            let part = (PART as usize - within).min(length - done);
            each(at / PART, within..within + part, done);
            done += part;
        }
    }
}

#[async_trait]
impl Driver for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }
    fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }
    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        let parts = self.parts.lock().unwrap();
        Memory::for_parts(offset, to.len(), |index, within, done| {
            let into = to.slice(done, within.len());
            match parts.get(&index) {
                Some(part) => into.copy_from(&part[within]),
                None => into.fill(0),
            }
        });
        Ok(())
    }
    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        // As long as a file can be.
        if offset.checked_add(from.len() as u64).is_none_or(|end| end > i64::MAX as u64) {
            return Err(Error::host("write", std::io::ErrorKind::FileTooLarge.into()));
        }
        let mut parts = self.parts.lock().unwrap();
        Memory::for_parts(offset, from.len(), |index, within, done| {
            let part = parts.entry(index).or_insert_with(|| vec![0; PART as usize]);
            from.slice(done, within.len()).copy_to(&mut part[within]);
        });
        self.length.fetch_max(offset + from.len() as u64, Ordering::Relaxed);
        Ok(())
    }
    async fn write_zeroes(&self, offset: u64, length: u64, _: ZeroFlags) -> Result<Zeroed, Error> {
        let end = offset + length;
        self.parts.lock().unwrap().retain(|index, part| {
            let start = index * PART;
            let (from, to) = (offset.clamp(start, start + PART) - start, end.clamp(start, start + PART) - start);
            part[from as usize..(to.max(from)) as usize].fill(0);
            true
        });
        self.length.fetch_max(end, Ordering::Relaxed);
        Ok(Zeroed::Done)
    }
    async fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
    async fn truncate(&self, length: u64, _: Preallocation) -> Result<(), Error> {
        // Nothing here makes a file shorter.
        self.length.fetch_max(length, Ordering::Relaxed);
        Ok(())
    }
    fn is_read_only(&self) -> bool {
        self.read_only
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

type Opened = Result<Box<dyn Driver>, Error>;

/// Uses a disk in all ways. What comes of it does not matter.
async fn use_disk(driver: Box<dyn Driver>) {
    let node = Node::of("hostile", driver);
    let length = node.length();
    for at in [0, length / 2, length.saturating_sub(70_000)] {
        let _ = node.read_vec(at, 100_000).await;
        let _ = node.status(at, 1 << 30).await;
    }
    if !node.is_read_only() {
        for at in [0, length / 3, length.saturating_sub(3000)] {
            let _ = node.write_bytes(at, &[1; 3000]).await;
            let _ = node.write_zeroes(at, 100_000.min(length.saturating_sub(at)), ZeroFlags::MAY_UNMAP).await;
        }
        let _ = node.discard(length / 4, 5_000_000.min(length / 2)).await;
        let _ = node.flush().await;
    }
    let _ = node.close().await;
}

/// Changes bytes of `places` in an image and uses what it then is; also what is left when it is cut short.
fn mutate(image: &[u8], places: &[std::ops::Range<usize>], rounds: usize, open: impl AsyncFn(Arc<Node>) -> Opened) {
    let mut random = Random(0xfeed_beef_1234_5677);
    let total: usize = places.iter().map(ExactSizeIterator::len).sum();
    for round in 0..rounds {
        let mut changed = image.to_vec();
        for _ in 0..1 + random.below(3) {
            let mut chosen = random.below(total as u64) as usize;
            let place = places.iter().find_map(|place| {
                let found = place.clone().nth(chosen);
                chosen = chosen.saturating_sub(place.len());
                found
            });
            // Four bytes of one kind make numbers absurd, which single ones seldom do.
            let at = place.unwrap();
            let (value, width) = match random.below(4) {
                0 => (0xff, 4),
                1 => (0, 4),
                2 => (0x7f, 1),
                _ => (random.below(256) as u8, 1),
            };
            let end = (at + width).min(changed.len());
            changed[at..end].fill(value);
        }
        if round % 16 == 0 {
            changed.truncate(random.below(changed.len() as u64) as usize);
        }
        let file = Memory::node(&changed, round % 4 == 0);
        block_on(async {
            if let Ok(driver) = open(file).await {
                use_disk(driver).await;
            }
        });
    }
}

/// An image of 3 MB with some data in it, by `qemu-img`.
fn image(format: &str, options: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = vec![0; 3_000_320];
    disk[1_500_000..1_600_000].fill(3);
    disk[..3000].copy_from_slice(&Random(3).bytes(3000));
    std::fs::write(folder.path().join("disk.raw"), disk).unwrap();
    let mut arguments = vec!["convert", "-f", "raw", "-O", format];
    for option in options {
        arguments.extend(["-o", option]);
    }
    arguments.extend(["disk.raw", "image"]);
    qemu_img(folder.path(), &arguments);
    std::fs::read(folder.path().join("image")).unwrap()
}

/// Says what opening an image says once a number of it is something else.
fn error_with(image: &[u8], at: usize, bytes: &[u8], open: impl AsyncFn(Arc<Node>) -> Opened) -> String {
    let mut changed = image.to_vec();
    changed[at..at + bytes.len()].copy_from_slice(bytes);
    match block_on(open(Memory::node(&changed, false))) {
        Ok(_) => "no error".into(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn vdi_headers_and_tables() {
    let image = image("vdi", &[]);
    mutate(&image, &[0x40..0x1e0, 0x40..0x60, 512..540], 1500, vdi::open);
    for (at, number, named) in [
        (0x44, 0x20000, "version is 131072"),
        (0x4c, 4, "image_type is 4"),
        (0x154, 513, "offset_bmap is 513"),
        (0x154, 0, "offset_bmap is 0"),
        (0x154, 0xffff_fe00, "offset_bmap is 4294966784"),
        (0x158, 512, "offset_data is 512"),
        (0x168, 4096, "sector_size is 4096"),
        (0x178, 4096, "block_size is 4096"),
        (0x17c, 512, "block_extra is 512"),
        (0x180, 0xffff_ffff, "blocks_in_image is 4294967295"),
        (0x180, 1, "disk_size is 3000320"),
        (0x174, 1, "disk_size is 4297967616"),
        (0x1b0, 1, "difference"),
        (0x200, 1, "two blocks are at place 1"),
        (0x200, 77, "the place of a block is 80741376"),
    ] {
        let error = error_with(&image, at, &u32::to_le_bytes(number), vdi::open);
        assert!(error.contains(named), "{error:?} does not say {named:?}");
    }
}

#[test]
fn vhd_footers_headers_and_tables() {
    let dynamic = image("vpc", &["force_size=on"]);
    // A wrong checksum would hide what is behind it: it is put right.
    let open_sealed = async |file: Arc<Node>| {
        for (start, length, sum_at) in [(0, 512, 64), (512, 1024, 36)] {
            let mut bytes = file.read_vec(start, length).await?;
            bytes[sum_at..sum_at + 4].fill(0);
            let sum = !bytes.iter().fold(0_u32, |sum, byte| sum + u32::from(*byte));
            if !file.is_read_only() && file.length() > 2048 {
                file.write_bytes(start + sum_at as u64, &sum.to_be_bytes()).await?;
            }
        }
        vpc::open(file).await
    };
    mutate(&dynamic, &[0..84, 512..560, 1536..1550], 1500, open_sealed);
    for (at, number, named) in [
        (12, 0x20000, "file_format_version is 131072"),
        (16, 1, "data_offset is 4294967808"),
        (20, 100, "data_offset is 100"),
        (60, 7, "disk_type is 7"),
        (60, 4, "differencing"),
        (48, 0x7fff_ffff, "current_size is"),
        (528, 1, "table_offset is 4294968832"),
        (536, 0, "header_version is 0"),
        (540, 1, "the disk needs 2"),
        (540, 0xffff_ffff, "table_offset is 1536"),
        (544, 3 << 20, "block_size is 3145728"),
        (544, 1 << 30, "block_size is 1073741824"),
        (1536, 0xffff_fff0, "the place of a block is"),
        (1536, 0, "the place of a block is 0"),
        (1536, 3, "the bytes from 1536 to"),
        (1536, 1, "the bytes from"),
    ] {
        let error = error_with(&dynamic, at, &u32::to_be_bytes(number), open_sealed);
        assert!(error.contains(named), "{error:?} does not say {named:?}");
    }
    assert!(error_with(&dynamic, 60, &[9], vpc::open).contains("checksum of the footer"));
    assert!(error_with(&dynamic, 544, &[9], vpc::open).contains("checksum of the dynamic disk's header"));
    let fixed = image("vpc", &["subformat=fixed", "force_size=on"]);
    let footer = fixed.len() - 512;
    mutate(&fixed, &[footer..footer + 84, footer + 40..footer + 64], 300, vpc::open);
}

#[test]
fn parallels_headers_and_tables() {
    let image = image("parallels", &[]);
    mutate(&image, &[0..64, 16..64, 64..76], 1500, parallels::open);
    for (at, number, named) in [
        (28, 0, "tracks is 0"),
        (28, 0xffff_ffff, "tracks is 4294967295"),
        (32, 0xffff_ffff, "nb_bat_entries is 4294967295"),
        (32, 1, "nb_sectors is 5860"),
        (40, 1, "nb_sectors is 4294973156"),
        (48, 0xffff_ffff, "data_off is 4294967295"),
        (48, 0x100, "no error"),
        (48, 0, "no error"),
        (64, 0xffff_ffff, "the offset of a cluster is"),
        (64, 2, "two blocks are at place 2"),
    ] {
        let error = error_with(&image, at, &u32::to_le_bytes(number), parallels::open);
        assert!(error.contains(named), "{error:?} does not say {named:?}");
    }
}

#[test]
fn qcow_headers_and_tables() {
    let image = image("qcow", &[]);
    let l1 = 48..72;
    let entry = u64::from_be_bytes(image[48..56].try_into().unwrap()) as usize;
    let open = async |file| qcow::open(file, None).await;
    mutate(&image, &[0..48, 8..48, l1, entry..entry + 64], 2000, open);
    for (at, bytes, named) in [
        (16, &[0_u8, 0, 0, 1][..], "no error"),
        (24, &[1, 0, 0, 0, 0, 0, 0, 1], "size is 72057594037927937"),
        (24, &[0, 8, 0, 0, 0, 0, 0, 0], "L1 entries"),
        (32, &[8], "cluster_bits is 8"),
        (32, &[17], "cluster_bits is 17"),
        (33, &[5], "l2_bits is 5"),
        (33, &[14], "l2_bits is 14"),
        (36, &[0, 0, 0, 1], "AES are not built"),
        (36, &[0, 0, 0, 2], "crypt_method is 2"),
        (40, &[0, 0, 0, 1], "l1_table_offset is 4294967344"),
        (40, &[0, 0, 0, 0, 0, 0, 0, 0], "l1_table_offset is 0"),
        (8, &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 4, 0], "backing_file_size is 1024"),
        (8, &[0xff; 8], "backing_file_offset is 18446744073709551615"),
    ] {
        let error = error_with(&image, at, bytes, open);
        assert!(error.contains(named), "{error:?} does not say {named:?}");
    }
}

#[test]
fn vmdk_headers_descriptors_and_tables() {
    let folder = tempfile::tempdir().unwrap();
    let open = async |file| vmdk::open(file, &folder.path().join("image"), FileOptions::default()).await;
    for subformat in ["subformat=monolithicSparse", "subformat=streamOptimized"] {
        let image = image("vmdk", &[subformat]);
        let sector = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap()) as usize * 512;
        let (redundant, directory) = (sector(48), sector(56));
        let places = [0..80, 4..80, 512..900, redundant..redundant + 8, directory..directory + 8];
        let tables = directory + 512..directory + 512 + 200;
        let places: Vec<_> = places.into_iter().chain([tables]).collect();
        mutate(&image, &places, 1500, open);
        // Compressed grains.
        mutate(&image, &[65536..65536 + 40, 65536..66000], 500, open);
    }
    let image = image("vmdk", &[]);
    for (at, number, named) in [
        (4, 4, "version is 4"),
        (16, 0x1000, "capacity is 17592186050276"),
        (20, 3, "grainSize is 3"),
        (20, 0x4000_0000, "grainSize is 1073741824"),
        (28, 0x1000_0000, "descriptorOffset is 268435456"),
        (36, 0xffff, "descriptorSize is 65535"),
        (44, 0, "numGTEsPerGT is 0"),
        (44, 513, "numGTEsPerGT is 513"),
        (48, 0xffff_ffff, "rgdOffset is"),
        (56, 0xffff_ffff, "gdOffset is"),
        (73, 0x0a0a_0a0a, "taken for text"),
        (77, 1, "compressAlgorithm is 1"),
    ] {
        let error = error_with(&image, at, &u32::to_le_bytes(number), open);
        assert!(error.contains(named), "{error:?} does not say {named:?}");
    }
}

/// Puts right the checksums of headers, region tables and of the log's first entry, which would hide what is behind them.
async fn seal_vhdx(file: &Node) -> Result<(), Error> {
    if file.is_read_only() || file.length() < 2 << 20 {
        return Ok(());
    }
    let mut places = vec![(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 65536), (256 << 10, 65536)];
    let entry = file.read_vec(1 << 20, 12).await?;
    let length = u32::from_le_bytes(entry[8..12].try_into().unwrap()) as usize;
    if length <= 1 << 20 {
        places.push((1 << 20, length.max(8)));
    }
    for (at, length) in places {
        let mut bytes = file.read_vec(at, length).await?;
        bytes[4..8].fill(0);
        file.write_bytes(at + 4, &crc32c::crc32c(&bytes).to_le_bytes()).await?;
    }
    Ok(())
}

#[test]
fn vhdx_headers_regions_metadata_tables_and_logs() {
    let image = image("vhdx", &["block_size=1M"]);
    let open = async |file: Arc<Node>| {
        seal_vhdx(&file).await?;
        vhdx::open(file).await
    };
    let number = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap()) as usize;
    let region = |first: u8| (0..2).map(|index| (192 << 10) + 16 + index * 32).find(|at| image[*at] == first).unwrap();
    let (bat, metadata) = (number(region(0x66) + 16), number(region(0x06) + 16));
    let headers = [64 << 10, 128 << 10];
    let newest = if number(headers[0] + 8) > number(headers[1] + 8) { headers[0] } else { headers[1] };
    let places = [
        headers[0]..headers[0] + 80,
        headers[1]..headers[1] + 80,
        (192 << 10)..(192 << 10) + 80,
        metadata..metadata + 200,
        metadata + (64 << 10)..metadata + (64 << 10) + 40,
        bat..bat + 40,
    ];
    mutate(&image, &places, 600, open);
    // With a log, whose entry is what is changed.
    let table = image[bat..bat + 4096].to_vec();
    let logged = images::vhdx_with_log(&image, &table, 3, 0);
    let log = 1 << 20;
    mutate(&logged, &[log..log + 96, log + 8..log + 48, log + 4096..log + 4110], 600, open);
    // Where one of the headers cannot be used, the other one is.
    let mut one_header = image.clone();
    let other = headers[0] + headers[1] - newest;
    one_header[other..other + 4].fill(0);
    for (at, number, named) in [
        (newest + 66, 2, "Version is 2"),
        (newest + 68, 1, "LogLength is 1"),
        (newest + 68, 0x8000_0000, "2147483648 bytes behind the first MiB must be there"),
        (newest + 72, 1, "LogOffset is 1"),
        (newest + 76, 1, "LogOffset is 4296015872"),
        ((192 << 10) + 8, 5000, "EntryCount is 5000"),
        (region(0x66) + 16, 0x1000, "FileOffset of a region is 4096"),
        (region(0x66) + 24, 0x1000, "Length of a region is 4096"),
        (region(0x66), 0, "no BAT region"),
        (metadata + 8, 0xffff_0000, "EntryCount of the metadata is 65535"),
        (metadata + 48, 5, "Offset of a metadata item is 5"),
        (bat, 6, "the offset of a block is 0"),
        (bat, 0x0010_0006, "two blocks are at place 1"),
        (bat, 7, "the state of a block is 7"),
    ] {
        let mut error = error_with(&one_header, at, &u32::to_le_bytes(number), open);
        if error == "no error" {
            // It is found when it is needed.
            let mut changed = image.clone();
            changed[at..at + 4].copy_from_slice(&u32::to_le_bytes(number));
            let node = Node::of("changed", block_on(vhdx::open(Memory::node(&changed, true))).unwrap());
            error = block_on(node.read_vec(0, 512)).unwrap_err().to_string();
        }
        assert!(error.contains(named), "{error:?} does not say {named:?}");
    }
    let item = |first: u8| {
        let at = (0..5).map(|index| metadata + 32 + index * 32).find(|at| image[*at] == first).unwrap();
        metadata + u32::from_le_bytes(image[at + 16..at + 20].try_into().unwrap()) as usize
    };
    for (at, bytes, named) in [
        (item(0x37), &[0, 0, 0x30, 0][..], "BlockSize is 3145728"),
        (item(0x37) + 4, &[2], "differencing"),
        (item(0x24), &[1], "VirtualDiskSize is 3000321"),
        (item(0x24), &[0xff; 8], "VirtualDiskSize is 18446744073709551615"),
        (item(0x1d), &[0, 4], "LogicalSectorSize is 1024"),
        (item(0x24), &[0, 0, 0, 0, 0, 1], "the disk needs"),
    ] {
        let error = error_with(&image, at, bytes, open);
        assert!(error.contains(named), "{error:?} does not say {named:?}");
    }
    for (at, bytes, named) in [
        (48, &[0xff; 8][..], "FlushedFileOffset of the log is 18446744073709551615"),
        (56, &[0xff; 8], "LastFileOffset of the log is 18446744073709551615"),
        (80, &[0; 8], "FileOffset of a log descriptor is 0"),
        (80, &[0, 0, 0x10, 0, 0, 0, 0, 0], "FileOffset of a log descriptor is 1048576"),
        (80, &[1], "FileOffset of a log descriptor is"),
        (88, &[9], "SequenceNumber of a log descriptor is 9"),
        (64, b"what", "neither \"zero\" nor \"desc\""),
        (4096, b"dada", "not of its entry"),
        (24, &[2], "SequenceNumber of a log descriptor is 0"),
    ] {
        let error = error_with(&logged, log + at, bytes, open);
        assert!(error.contains(named), "{error:?} does not say {named:?}");
    }
}

#[test]
fn bochs_headers_catalogs_and_bitmaps() {
    let (image, _) = read_only::bochs_image(0x20000);
    mutate(&image, &[0..100, 64..100, 512..700], 1500, bochs::open);
    for (at, number, named) in [
        (68, 100, "header is 100"),
        (68, 0xffff_ffff, "header is 4294967295"),
        (72, 0xffff_ffff, "catalog is 4294967295"),
        (72, 1, "disk is 244224"),
        (76, 1, "bitmap is 1"),
        (76, 0xffff_ffff, "bitmap is 4294967295"),
        (80, 3, "extent is 3"),
        (80, 1 << 30, "extent is 1073741824"),
        (92, 1, "disk is 4295211520"),
    ] {
        let error = error_with(&image, at, &u32::to_le_bytes(number), bochs::open);
        assert!(error.contains(named), "{error:?} does not say {named:?}");
    }
}

#[test]
fn cloop_headers_and_tables() {
    let (image, _) = read_only::cloop_image();
    mutate(&image, &[120..136, 128..200, 128..136, 300..2000], 500, cloop::open);
    for (at, number, named) in [
        (128, 0, "block_size is 0"),
        (128, 513, "block_size is 513"),
        (128, 1 << 30, "block_size is 1073741824"),
        (132, 0xffff_ffff, "num_blocks is 4294967295"),
        (132, 1 << 25, "the table's offset is 136"),
    ] {
        let error = error_with(&image, at, &u32::to_be_bytes(number), cloop::open);
        assert!(error.contains(named), "{error:?} does not say {named:?}");
    }
}

#[test]
fn dmg_trailers_lists_and_tables() {
    let (image, _) = read_only::dmg_image(true);
    let trailer = image.len() - 512;
    let number = |at: usize| u64::from_be_bytes(image[at..at + 8].try_into().unwrap());
    let list = number(trailer + 0xd8) as usize;
    mutate(&image, &[trailer..trailer + 512, trailer + 0xd8..trailer + 0xf0, list..trailer], 700, dmg::open);
    // Compressed data.
    mutate(&image, &[51_900..52_100, 52_000..80_000], 300, dmg::open);
    for (at, bytes, named) in [
        (trailer, &[0][..], "not in DMG format"),
        (trailer + 0xd8, &[0xff; 8], "XMLOffset is 18446744073709551615"),
        (trailer + 0xe0, &[0xff; 8], "XMLLength is 18446744073709551615"),
        (trailer + 0xe0, &[0; 8], "without a property list"),
        (trailer + 0x1ec, &[0xff; 8], "SectorCount is 18446744073709551615"),
        (trailer + 0x1ec, &[0; 8], "SectorCount of a chunk is"),
        (trailer + 0x18, &[0xff; 8], "CompressedOffset is"),
        (list, &[b' '; 100], "no key blkx"),
    ] {
        let error = error_with(&image, at, bytes, dmg::open);
        assert!(error.contains(named), "{error:?} does not say {named:?}");
    }
}
