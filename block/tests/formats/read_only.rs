//! Formats that are only read. No program here makes images of them: they are made by hand, and QEMU has to read the same.

use std::io::Write;

use base64::Engine;

use super::*;

/// That QEMU and we read the same from an image.
fn assert_both_read(folder: &Path, image: &str, format: Format, disk: &[u8]) {
    let node = open(&folder.join(image), None, true);
    assert_eq!(node.driver().name(), format.name());
    assert_reads(&node, disk, image);
    assert!(open(&folder.join(image), Some(format), false).is_read_only());
    std::fs::write(folder.join("model"), disk).unwrap();
    qemu_img(folder, &["compare", "-f", "raw", "-F", format.name(), "model", image]);
}

/// A growing Bochs image, and its disk.
pub(crate) fn bochs_image(version: u32) -> (Vec<u8>, Vec<u8>) {
    let (extent, extents) = (8192_usize, 30_usize);
    let bitmap = 512;
    let mut random = Random(21);
    let mut disk = vec![0; extent * extents - 1536];
    let mut image = b"Bochs Virtual HD Image".to_vec();
    image.resize(32, 0);
    image.extend(b"Redolog\0\0\0\0\0\0\0\0\0Growing\0\0\0\0\0\0\0\0\0");
    for number in [version, 512, extents as u32, bitmap as u32, extent as u32] {
        image.extend(number.to_le_bytes());
    }
    if version == 0x20000 {
        image.extend([9; 4]);
    }
    image.extend((disk.len() as u64).to_le_bytes());
    image.resize(512, 0);
    let mut catalog = vec![u32::MAX; extents];
    let mut data = Vec::new();
    for (place, index) in [17, 3, 4, extents - 1].into_iter().enumerate() {
        catalog[index] = place as u32;
        let mut bits = vec![0; bitmap];
        let mut bytes = random.bytes(extent);
        for sector in 0..16 {
            let at = index * extent + sector * 512;
            if random.below(3) > 0 && at < disk.len() {
                bits[sector / 8] |= 1 << (sector % 8);
                disk[at..at + 512].copy_from_slice(&bytes[sector * 512..][..512]);
            } else {
                // What is there without a bit does not count.
                bytes[sector * 512..][..512].fill(0xee);
            }
        }
        data.extend(bits);
        data.extend(bytes);
    }
    image.extend(catalog.into_iter().flat_map(u32::to_le_bytes));
    image.extend(data);
    (image, disk)
}

#[test]
fn bochs_images() {
    for version in [0x10000, 0x20000] {
        let folder = tempfile::tempdir().unwrap();
        let (image, disk) = bochs_image(version);
        std::fs::write(folder.path().join("image"), image).unwrap();
        assert_both_read(folder.path(), "image", Format::Bochs, &disk);
    }
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// A compressed loop image, and its disk.
pub(crate) fn cloop_image() -> (Vec<u8>, Vec<u8>) {
    let block = 65536;
    let disk = mixed(block * 20, &mut Random(22));
    let mut image = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n".to_vec();
    image.resize(128, 0);
    image.extend((block as u32).to_be_bytes());
    image.extend(20_u32.to_be_bytes());
    let mut at = image.len() as u64 + 21 * 8;
    let mut packed = Vec::new();
    for bytes in disk.chunks(block) {
        image.extend((at + packed.len() as u64).to_be_bytes());
        packed.extend(zlib(bytes));
    }
    at += packed.len() as u64;
    image.extend(at.to_be_bytes());
    image.extend(packed);
    (image, disk)
}

#[test]
fn cloop_images() {
    let folder = tempfile::tempdir().unwrap();
    let (image, disk) = cloop_image();
    std::fs::write(folder.path().join("image"), image).unwrap();
    assert_both_read(folder.path(), "image", Format::Cloop, &disk);
}

/// An Apple disk image with two tables, and its disk.
pub(crate) fn dmg_image(with_bzip2: bool) -> (Vec<u8>, Vec<u8>) {
    let mut disk = Random(23).bytes(512 * 1000);
    let mut image = vec![0x55; 700];
    let table = |first: u64, chunks: &[(u32, u64, u64, u64, u64)]| {
        let mut table = b"mish".to_vec();
        table.extend(1_u32.to_be_bytes());
        for number in [first, chunks.iter().map(|chunk| chunk.2).sum(), 0] {
            table.extend(number.to_be_bytes());
        }
        table.resize(200, 0);
        table.extend((chunks.len() as u32 + 1).to_be_bytes());
        let end = chunks.last().unwrap().1 + chunks.last().unwrap().2;
        for (kind, start, count, offset, length) in chunks.iter().copied().chain([(0xffff_ffff, end, 0, 0, 0)]) {
            table.extend(kind.to_be_bytes());
            table.extend([0; 4]);
            for number in [start, count, offset, length] {
                table.extend(number.to_be_bytes());
            }
        }
        table
    };
    let mut tables = Vec::new();
    for first in [0_usize, 500] {
        let mut chunks = Vec::new();
        for (kind, start, count) in [
            (1_u32, 0_usize, 100_usize),
            (0x8000_0005, 100, 128),
            (0, 228, 72),
            (if with_bzip2 { 0x8000_0006 } else { 0x8000_0005 }, 300, 60),
            (2, 360, 140),
        ] {
            let bytes = &mut disk[(first + start) * 512..(first + start + count) * 512];
            let packed = match kind {
                1 => bytes.to_vec(),
                0x8000_0005 => {
                    bytes[..20_000].fill(7);
                    zlib(bytes)
                }
                0x8000_0006 => {
                    let mut packed = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
                    packed.write_all(bytes).unwrap();
                    packed.finish().unwrap()
                }
                _ => {
                    bytes.fill(0);
                    Vec::new()
                }
            };
            // Offsets count from the data fork.
            let offset = image.len() as u64 - 700;
            chunks.push((kind, start as u64, count as u64, offset, packed.len() as u64));
            image.extend(packed);
        }
        let text = base64::engine::general_purpose::STANDARD.encode(table(first as u64, &chunks));
        let lines: Vec<&str> = text.as_bytes().chunks(60).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let data = format!("<dict><key>Data</key>\n<data>\n\t{}\n</data></dict>\n", lines.join("\n\t"));
        tables.push(data);
    }
    let list = format!(
        "<?xml version=\"1.0\"?>\n<plist><dict><key>resource-fork</key><dict><key>blkx</key>\n<array>\n{}</array>\n\
         <key>plst</key><array></array></dict></dict></plist>\n",
        tables.concat()
    );
    let list_at = image.len() as u64;
    image.extend(list.as_bytes());
    let mut trailer = b"koly".to_vec();
    trailer.extend(4_u32.to_be_bytes());
    trailer.extend(512_u32.to_be_bytes());
    trailer.resize(0x18, 0);
    trailer.extend(700_u64.to_be_bytes());
    trailer.extend((list_at - 700).to_be_bytes());
    trailer.resize(0xd8, 0);
    trailer.extend(list_at.to_be_bytes());
    trailer.extend((list.len() as u64).to_be_bytes());
    trailer.resize(0x1ec, 0);
    trailer.extend(1000_u64.to_be_bytes());
    trailer.resize(512, 0);
    image.extend(trailer);
    (image, disk)
}

#[test]
fn dmg_images() {
    let folder = tempfile::tempdir().unwrap();
    let (image, disk) = dmg_image(false);
    std::fs::write(folder.path().join("image.dmg"), image).unwrap();
    assert_both_read(folder.path(), "image.dmg", Format::Dmg, &disk);
    // QEMU has bzip2 in a part of its own, which may be missing.
    let (image, disk) = dmg_image(true);
    std::fs::write(folder.path().join("image.dmg"), image).unwrap();
    assert_reads(&open(&folder.path().join("image.dmg"), None, true), &disk, "bzip2");
}
