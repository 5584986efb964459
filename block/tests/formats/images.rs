//! Each format.

use block::{Format, parallels, qcow, vdi, vhdx, vmdk, vpc};

use super::*;

#[test]
fn vdi_images() {
    for is_static in [false, true] {
        let options: &[&str] = if is_static { &["static=on"] } else { &[] };
        exchange(Format::Vdi, options, true, |path, size| {
            block_on(vdi::create(&new_file(path), &vdi::CreateOptions { size, is_static })).unwrap();
        });
    }
}

#[test]
fn vhd_images() {
    for (subformat, name) in
        [(vpc::Subformat::Dynamic, "subformat=dynamic"), (vpc::Subformat::Fixed, "subformat=fixed")]
    {
        for force_size in [false, true] {
            let force = if force_size { "force_size=on" } else { "force_size=off" };
            exchange(Format::Vpc, &[name, force], false, |path, size| {
                let options = vpc::CreateOptions { size, subformat, force_size };
                block_on(vpc::create(&new_file(path), &options)).unwrap();
            });
        }
    }
}

/// A VHD image is as long as what QEMU makes of the same request.
#[test]
fn vhd_images_are_as_long_as_those_of_qemu() {
    let folder = tempfile::tempdir().unwrap();
    for size in ["512", "100M", "1G", "1234567168", "8G", "40G", "126G", "127G", "129G", "200G", "2040G"] {
        for force_size in [false, true] {
            let option = if force_size { "force_size=on" } else { "force_size=off" };
            qemu_img(folder.path(), &["create", "-q", "-f", "vpc", "-o", option, "theirs.vhd", size]);
            let theirs = open(&folder.path().join("theirs.vhd"), None, true).length();
            let (number, unit) = size.strip_suffix('G').map_or((size, 0), |number| (number, 30));
            let (number, unit) = number.strip_suffix('M').map_or((number, unit), |number| (number, 20));
            let options =
                vpc::CreateOptions { size: number.parse::<u64>().unwrap() << unit, force_size, ..Default::default() };
            let path = folder.path().join("ours.vhd");
            block_on(vpc::create(&new_file(&path), &options)).unwrap();
            assert_eq!(open(&path, None, true).length(), theirs, "{size} {option}");
        }
    }
}

#[test]
fn parallels_images() {
    // QEMU makes images with clusters of other sizes, and then finds fault with them.
    for cluster_size in [1 << 20, 64 << 10] {
        let option = format!("cluster_size={cluster_size}");
        exchange(Format::Parallels, &[&option], true, |path, size| {
            let options = parallels::CreateOptions { size, cluster_size };
            block_on(parallels::create(&new_file(path), &options)).unwrap();
        });
    }
}

/// The old form, whose table counts in sectors.
#[test]
fn parallels_images_without_the_extension() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.hds");
    let (cluster, clusters) = (63 * 512_u64, 100_u32);
    let mut image = b"WithoutFreeSpace".to_vec();
    for number in [2, 16, 1, 63, clusters, clusters * 63 - 5, 0xdead_beef, 0, 0, 0, 0, 0] {
        image.extend(number.to_le_bytes());
    }
    // Two clusters, in the other order, the second at a sector of its own choice.
    let first = 64_u64 + 400;
    let first = first.next_multiple_of(512);
    let mut table = vec![0_u32; clusters as usize];
    (table[3], table[0]) = ((first / 512) as u32, ((first + cluster) / 512) as u32 + 1);
    image.extend(table.iter().flat_map(|entry| entry.to_le_bytes()));
    image.resize((first + 2 * cluster + 512) as usize, 0);
    let mut random = Random(99);
    let mut disk = vec![0; (clusters as usize * 63 - 5) * 512];
    for (place, index) in [(first as usize, 3), ((first + cluster) as usize + 512, 0)] {
        let bytes = random.bytes(cluster as usize);
        image[place..place + bytes.len()].copy_from_slice(&bytes);
        disk[index * cluster as usize..(index + 1) * cluster as usize].copy_from_slice(&bytes);
    }
    std::fs::write(&path, &image).unwrap();
    assert_reads(&open(&path, None, true), &disk, "old form");
    let node = open(&path, None, false);
    write_at_random(&node, &mut disk, &mut random);
    block_on(node.close()).unwrap();
    assert_reads(&open(&path, None, true), &disk, "old form, written");
    qemu_img(folder.path(), &["compare", "-f", "parallels", "-F", "parallels", "old.hds", "old.hds"]);
    assert_qemu_agrees(folder.path(), "old.hds", "parallels", &disk, false);
}

#[test]
fn qcow_images() {
    exchange(Format::Qcow, &[], false, |path, size| {
        block_on(qcow::create(&new_file(path), &qcow::CreateOptions { size, backing_file: None })).unwrap();
    });
}

/// Compressed clusters, by either, read and written over.
#[test]
fn qcow_images_with_compressed_clusters() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(5);
    let disk = mixed(6_000_128, &mut random);
    // `qemu-img convert -c` does not get to the end of this format; `qemu-io` does.
    qemu_img(folder.path(), &["create", "-q", "-f", "qcow", "theirs", &disk.len().to_string()]);
    let mut theirs = vec![0; disk.len()];
    for (index, bytes) in theirs.chunks_exact_mut(4096).enumerate().filter(|(index, _)| index % 40 < 3) {
        bytes.fill(index as u8 | 1);
        qemu_io(folder.path(), "qcow", "theirs", &format!("write -c -P {} {} 4096", bytes[0], index * 4096));
    }
    assert_reads(&open(&folder.path().join("theirs"), None, true), &theirs, "compressed by QEMU");
    let path = folder.path().join("ours");
    block_on(qcow::create(&new_file(&path), &qcow::CreateOptions { size: disk.len() as u64, backing_file: None }))
        .unwrap();
    let node = open(&path, None, false);
    let cluster = 4096;
    for (index, bytes) in disk.chunks(cluster).enumerate() {
        if bytes.iter().any(|byte| *byte != 0) {
            block_on(node.write_compressed((index * cluster) as u64, IoVector::copy_of(bytes))).unwrap();
        }
    }
    assert!(block_on(node.write_compressed(512, IoVector::zeroed(cluster))).is_err());
    assert_reads(&node, &disk, "compressed here");
    block_on(node.close()).unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() < disk.len() as u64);
    assert_qemu_agrees(folder.path(), "ours", "qcow", &disk, false);
    for (image, mut disk) in [("theirs", theirs), ("ours", disk)] {
        let node = open(&folder.path().join(image), None, false);
        write_at_random(&node, &mut disk, &mut random);
        assert_reads(&node, &disk, image);
        block_on(node.close()).unwrap();
        assert_qemu_agrees(folder.path(), image, "qcow", &disk, false);
    }
}

/// What is not in the image is in the one behind it, also where only part of a cluster is written.
#[test]
fn qcow_images_with_a_backing_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(6);
    let mut disk = mixed(5_000_192, &mut random);
    std::fs::write(folder.path().join("disk.raw"), &disk).unwrap();
    qemu_img(folder.path(), &["convert", "-f", "raw", "-O", "vdi", "disk.raw", "base.vdi"]);
    // The image is longer than what is behind it.
    disk.resize(7 << 20, 0);
    qemu_img(folder.path(), &["create", "-q", "-f", "qcow", "-b", "base.vdi", "-F", "vdi", "theirs", "7M"]);
    let options = qcow::CreateOptions { size: 7 << 20, backing_file: Some("base.vdi".into()) };
    block_on(qcow::create(&new_file(&folder.path().join("ours")), &options)).unwrap();
    for image in ["theirs", "ours"] {
        let node = open(&folder.path().join(image), None, false);
        assert!(!block_on(node.status(0, 4096)).unwrap().is_here);
        let mut disk = disk.clone();
        assert_reads(&node, &disk, image);
        write_at_random(&node, &mut disk, &mut random);
        assert_reads(&node, &disk, image);
        block_on(node.close()).unwrap();
        assert_qemu_agrees(folder.path(), image, "qcow", &disk, false);
    }
}

/// Names in images are of files, and of no others than those that an image may mean.
#[test]
fn backing_files_that_an_image_may_not_have() {
    let folder = tempfile::tempdir().unwrap();
    for (name, why) in [
        ("nbd:localhost:10809", "protocol"),
        ("json:{}", "protocol"),
        ("/dev/zero", "not a regular file"),
        ("image", "behind itself"),
        ("nowhere", "No such file"),
    ] {
        let path = folder.path().join("image");
        let options = qcow::CreateOptions { size: 1 << 20, backing_file: Some(name.into()) };
        block_on(qcow::create(&new_file(&path), &options)).unwrap();
        let error = block_on(block::open(&path, ImageOptions::default())).unwrap_err().to_string();
        assert!(error.contains(why), "{name}: {error}");
    }
}

#[test]
fn vmdk_images() {
    for (name, subformat) in vmdk::Subformat::ALL {
        if subformat == vmdk::Subformat::StreamOptimized {
            continue;
        }
        let subformat_option = format!("subformat={name}");
        let is_flat = matches!(subformat, vmdk::Subformat::MonolithicFlat | vmdk::Subformat::TwoGbMaxExtentFlat);
        for zeroed_grain in [false, true] {
            if zeroed_grain && is_flat {
                continue;
            }
            let zeroed_option = if zeroed_grain { "zeroed_grain=on" } else { "zeroed_grain=off" };
            exchange(Format::Vmdk, &[&subformat_option, zeroed_option], true, |path, size| {
                let options = vmdk::CreateOptions { size, subformat, zeroed_grain, ..Default::default() };
                block_on(vmdk::create(path, &options)).unwrap();
            });
        }
    }
}

/// Compressed grains, by either.
#[test]
fn vmdk_images_for_streams() {
    let folder = tempfile::tempdir().unwrap();
    let disk = mixed(6_000_128, &mut Random(8));
    std::fs::write(folder.path().join("disk.raw"), &disk).unwrap();
    let convert = ["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", "disk.raw", "theirs.vmdk"];
    qemu_img(folder.path(), &convert);
    let theirs = open(&folder.path().join("theirs.vmdk"), None, false);
    assert_reads(&theirs, &disk, "compressed by qemu-img");
    assert!(block_on(theirs.write_bytes(0, &[1; 512])).is_err());
    let path = folder.path().join("ours.vmdk");
    let subformat = vmdk::Subformat::StreamOptimized;
    let options = vmdk::CreateOptions { size: disk.len() as u64, subformat, ..Default::default() };
    block_on(vmdk::create(&path, &options)).unwrap();
    let node = open(&path, None, false);
    let grain = 65536;
    for (index, bytes) in disk.chunks(grain).enumerate() {
        if bytes.iter().any(|byte| *byte != 0) {
            block_on(node.write_compressed((index * grain) as u64, IoVector::copy_of(bytes))).unwrap();
        }
    }
    assert_reads(&node, &disk, "compressed here");
    assert!(block_on(node.status(0, 1 << 20)).unwrap().is_compressed || disk[..grain].iter().all(|byte| *byte == 0));
    block_on(node.close()).unwrap();
    assert_qemu_agrees(folder.path(), "ours.vmdk", "vmdk", &disk, true);
}

/// As VMware's programs write it: the directory comes last, and its place is in a footer.
#[test]
fn vmdk_images_for_streams_with_the_directory_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream.vmdk");
    let sectors = 300_u64;
    let header = |directory: u64| {
        let mut header = b"KDMV".to_vec();
        header.extend(3_u32.to_le_bytes());
        header.extend(0x3_0001_u32.to_le_bytes());
        for number in [sectors, 128, 1, 1] {
            header.extend(number.to_le_bytes());
        }
        header.extend(512_u32.to_le_bytes());
        for number in [0, directory, 128] {
            header.extend(number.to_le_bytes());
        }
        header.extend(b"\0\n \r\n\x01\0");
        header.resize(512, 0);
        header
    };
    let marker = |sectors: u64, kind: u32| {
        let mut marker = sectors.to_le_bytes().to_vec();
        marker.extend([0; 4]);
        marker.extend(kind.to_le_bytes());
        marker.resize(512, 0);
        marker
    };
    let mut disk = vec![0; sectors as usize * 512];
    disk[100..70_000].copy_from_slice(&Random(4).bytes(69_900));
    let mut image = header(u64::MAX);
    image.extend(b"# Disk DescriptorFile\nversion=1\nCID=12\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n");
    image.extend(b"RDONLY 300 SPARSE \"call-me-stream.vmdk\"\n");
    image.resize(1024, 0);
    let mut table = vec![0_u32; 512];
    for (index, grain) in disk.chunks(65536).take(2).enumerate() {
        table[index] = (image.len() / 512) as u32;
        let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut packed, grain).unwrap();
        let packed = packed.finish().unwrap();
        image.extend((index as u64 * 128).to_le_bytes());
        image.extend((packed.len() as u32).to_le_bytes());
        image.extend(packed);
        image.resize(image.len().next_multiple_of(512), 0);
    }
    image.extend(marker(4, 1));
    let table_at = (image.len() / 512) as u32;
    image.extend(table.iter().flat_map(|entry| entry.to_le_bytes()));
    image.extend(marker(1, 2));
    let directory = (image.len() / 512) as u64;
    image.extend(table_at.to_le_bytes());
    image.resize(image.len().next_multiple_of(512), 0);
    image.extend(marker(1, 3));
    image.extend(header(directory));
    image.extend(marker(0, 0));
    std::fs::write(&path, image).unwrap();
    assert_reads(&open(&path, None, true), &disk, "the directory at the end");
    assert_qemu_agrees(folder.path(), "stream.vmdk", "vmdk", &disk, false);
}

#[test]
fn vmdk_images_with_one_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(10);
    let disk = mixed(5_000_192, &mut random);
    std::fs::write(folder.path().join("disk.raw"), &disk).unwrap();
    qemu_img(folder.path(), &["convert", "-f", "raw", "-O", "vmdk", "disk.raw", "base.vmdk"]);
    let create =
        ["create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "-o", "zeroed_grain=on", "theirs.vmdk"];
    qemu_img(folder.path(), &create);
    for (name, subformat) in
        [("ours.vmdk", vmdk::Subformat::MonolithicSparse), ("split.vmdk", vmdk::Subformat::TwoGbMaxExtentSparse)]
    {
        let backing_file = Some("base.vmdk".into());
        let options = vmdk::CreateOptions { size: disk.len() as u64, subformat, backing_file, ..Default::default() };
        block_on(vmdk::create(&folder.path().join(name), &options)).unwrap();
    }
    for image in ["theirs.vmdk", "ours.vmdk", "split.vmdk"] {
        let node = open(&folder.path().join(image), None, false);
        let mut disk = disk.clone();
        assert_reads(&node, &disk, image);
        write_at_random(&node, &mut disk, &mut random);
        assert_reads(&node, &disk, image);
        block_on(node.close()).unwrap();
        assert_qemu_agrees(folder.path(), image, "vmdk", &disk, true);
    }
    // Once the one behind has been written, the others are not what they were.
    let base = open(&folder.path().join("base.vmdk"), None, false);
    block_on(base.write_bytes(0, b"changed")).unwrap();
    block_on(base.close()).unwrap();
    let error = block_on(block::open(&folder.path().join("ours.vmdk"), ImageOptions::default())).unwrap_err();
    assert!(error.to_string().contains("parentCID"), "{error}");
}

/// A disk of more than 2 GiB is in several files, and requests go over their ends.
#[test]
fn vmdk_images_of_many_files() {
    let folder = tempfile::tempdir().unwrap();
    for (_, subformat) in vmdk::Subformat::ALL.into_iter().filter(|(name, _)| name.starts_with("twoGb")) {
        let path = folder.path().join("disk.vmdk");
        let options = vmdk::CreateOptions { size: 5 << 30, subformat, ..Default::default() };
        block_on(vmdk::create(&path, &options)).unwrap();
        let node = open(&path, None, false);
        assert_eq!(node.length(), 5 << 30);
        let bytes = Random(11).bytes(300_000);
        for place in [2_u64 << 30, 4 << 30] {
            block_on(node.write_bytes(place - 150_000, &bytes)).unwrap();
        }
        block_on(node.close()).unwrap();
        drop(node);
        qemu_img(folder.path(), &["check", "-q", "-f", "vmdk", "disk.vmdk"]);
        // Both read the same: what is between is zeros, which are skipped.
        qemu_img(folder.path(), &["convert", "-f", "vmdk", "-O", "raw", "disk.vmdk", "theirs.raw"]);
        let theirs = std::fs::File::open(folder.path().join("theirs.raw")).unwrap();
        let node = open(&path, None, true);
        for place in [2_u64 << 30, 4 << 30] {
            let mut read = vec![0; bytes.len()];
            std::os::unix::fs::FileExt::read_exact_at(&theirs, &mut read, place - 150_000).unwrap();
            assert!(read == bytes && block_on(node.read_vec(place - 150_000, bytes.len())).unwrap() == bytes);
        }
    }
}

/// A descriptor names files in the folder of the image, and no others.
#[test]
fn extents_that_an_image_may_not_have() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("inner")).unwrap();
    std::fs::write(folder.path().join("secret"), [1; 4096]).unwrap();
    std::fs::write(folder.path().join("inner/part"), [1; 4096]).unwrap();
    std::fs::create_dir(folder.path().join("inner/folder")).unwrap();
    let path = folder.path().join("inner/disk.vmdk");
    let absolute = folder.path().join("secret");
    for (name, why) in [
        ("../secret", "parts are in the image's folder"),
        (absolute.to_str().unwrap(), "parts are in the image's folder"),
        ("nbd:localhost:10809", "protocol"),
        ("folder", "not a regular file"),
        ("nowhere", "No such file"),
        ("part", "length of a flat extent is 512000"),
    ] {
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 1000 FLAT \"{name}\" 0\n"
        );
        std::fs::write(&path, text).unwrap();
        let error = block_on(block::open(&path, ImageOptions::default())).unwrap_err().to_string();
        assert!(error.contains(why), "{name}: {error}");
    }
}

#[test]
fn vhdx_images() {
    for (subformat, name, block_size, block_state_zero) in [
        (vhdx::Subformat::Dynamic, "dynamic", 1 << 20, true),
        (vhdx::Subformat::Dynamic, "dynamic", 2 << 20, false),
        (vhdx::Subformat::Fixed, "fixed", 0, true),
    ] {
        // `block_state_zero` is for our images alone: without the state `qemu-img convert` goes wrong, as its help says.
        let options = [format!("subformat={name}"), format!("block_size={block_size}")];
        exchange(Format::Vhdx, &[&options[0], &options[1]], true, |path, size| {
            let options = vhdx::CreateOptions { size, subformat, block_size, block_state_zero, ..Default::default() };
            block_on(vhdx::create(&new_file(path), &options)).unwrap();
        });
    }
}

/// Large disks, where the table of blocks has entries for sector bitmaps between.
#[test]
fn vhdx_images_of_large_disks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.vhdx");
    let options = vhdx::CreateOptions { size: 20 << 40, block_size: 1 << 20, ..Default::default() };
    block_on(vhdx::create(&new_file(&path), &options)).unwrap();
    let node = open(&path, None, false);
    let places = [4095_u64 << 20, 4096 << 20, (3 << 40) + 77, (20 << 40) - 5000];
    for place in places {
        block_on(node.write_bytes(place - 3000, &[(place % 251) as u8 + 1; 5000])).unwrap();
    }
    block_on(node.close()).unwrap();
    for place in places {
        let pattern = (place % 251) as u8 + 1;
        qemu_io(folder.path(), "vhdx", "large.vhdx", &format!("read -P {pattern} {} 5000", place - 3000));
    }
    qemu_io(folder.path(), "vhdx", "large.vhdx", "write -P 9 7t 1M");
    let node = open(&path, None, true);
    assert!(block_on(node.read_vec(7 << 40, 1 << 20)).unwrap().iter().all(|byte| *byte == 9));
}

/// A log of one entry which changes the first sector of the table of blocks, as if the program had ended before it did.
pub(crate) fn vhdx_with_log(image: &[u8], table: &[u8], sequence: u64, at: usize) -> Vec<u8> {
    let number = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
    // The header with the larger number says where the log is, the region table where the table of blocks.
    let header = if number((64 << 10) + 8) > number((128 << 10) + 8) { 64 << 10 } else { 128 << 10 };
    let log = number(header + 72) as usize;
    let bat = (0..2).map(|index| (192 << 10) + 16 + index * 32).find(|at| image[*at] == 0x66).unwrap();
    let bat = number(bat + 16);
    let mut changed = image.to_vec();
    changed[header + 48..header + 64].fill(0x11);
    let seal = |bytes: &mut [u8]| {
        bytes[4..8].fill(0);
        let sum = crc32c::crc32c(bytes);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    };
    seal(&mut changed[header..header + 4096]);
    let file_length = image.len() as u64;
    let mut entry = b"loge\0\0\0\0".to_vec();
    entry.extend(8192_u32.to_le_bytes());
    entry.extend((at as u32).to_le_bytes());
    entry.extend(sequence.to_le_bytes());
    entry.extend(1_u32.to_le_bytes());
    entry.extend([0; 4]);
    entry.extend([0x11; 16]);
    entry.extend(file_length.to_le_bytes());
    entry.extend((file_length + (3 << 20)).to_le_bytes());
    entry.extend(b"desc");
    entry.extend(&table[4092..4096]);
    entry.extend(&table[..8]);
    entry.extend(bat.to_le_bytes());
    entry.extend(sequence.to_le_bytes());
    entry.resize(4096, 0);
    entry.extend(b"data");
    entry.extend(((sequence >> 32) as u32).to_le_bytes());
    entry.extend(&table[8..4092]);
    entry.extend((sequence as u32).to_le_bytes());
    seal(&mut entry);
    // It may go on at the log's beginning.
    for (index, byte) in entry.into_iter().enumerate() {
        changed[log + (at + index) % (1 << 20)] = byte;
    }
    changed
}

/// What is in the log is done again, once somebody may write, and as QEMU does it.
#[test]
fn vhdx_images_with_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = folder.path().join("theirs.vhdx");
    let disk = Random(12).bytes(3 << 20);
    std::fs::write(folder.path().join("disk.raw"), &disk).unwrap();
    let convert = ["convert", "-f", "raw", "-O", "vhdx", "-o", "block_size=1M", "disk.raw", "theirs.vhdx"];
    qemu_img(folder.path(), &convert);
    let whole = std::fs::read(&theirs).unwrap();
    // The table as it is, which the log has; in the file it is missing.
    let number = |at: usize| u64::from_le_bytes(whole[at..at + 8].try_into().unwrap()) as usize;
    let bat = (0..2).map(|index| (192 << 10) + 16 + index * 32).find(|at| whole[*at] == 0x66).unwrap();
    let bat = number(bat + 16);
    let table = whole[bat..bat + 4096].to_vec();
    let mut without = whole.clone();
    without[bat..bat + 4096].fill(0);
    for at in [0, (1 << 20) - 4096] {
        let image = vhdx_with_log(&without, &table, 0x1_0000_0007, at);
        for name in ["theirs.vhdx", "ours.vhdx"] {
            std::fs::write(folder.path().join(name), &image).unwrap();
        }
        let ours = folder.path().join("ours.vhdx");
        let options =
            ImageOptions { file: FileOptions { read_only: true, ..Default::default() }, ..Default::default() };
        let error = block_on(block::open(&ours, options)).unwrap_err().to_string();
        assert!(error.contains("contains a log that needs to be replayed"), "{error}");
        let node = open(&ours, None, false);
        assert_reads(&node, &disk, "a log, done again");
        block_on(node.close()).unwrap();
        drop(node);
        assert_reads(&open(&ours, None, true), &disk, "a log, done again before");
        assert_qemu_agrees(folder.path(), "ours.vhdx", "vhdx", &disk, true);
        qemu_img(folder.path(), &["check", "-q", "-r", "all", "-f", "vhdx", "theirs.vhdx"]);
        assert_reads(&open(&theirs, None, true), &disk, "a log, done again by QEMU");
        // As long as the log says that it was.
        assert_eq!(std::fs::metadata(&ours).unwrap().len(), image.len() as u64 + (3 << 20));
    }
    // The newest sequence counts, wherever it is.
    let older = vhdx_with_log(&without, &[0; 4096], 5, 40960);
    let both = vhdx_with_log(&older, &table, 6 + 1, 4096);
    std::fs::write(&theirs, &both).unwrap();
    let node = open(&theirs, None, false);
    assert_reads(&node, &disk, "two sequences");
    // An entry that was not written to its end is none.
    let mut torn = vhdx_with_log(&without, &table, 9, 0);
    let log = number(if number((64 << 10) + 8) > number((128 << 10) + 8) { 64 << 10 } else { 128 << 10 } + 72);
    torn[log + 5000] ^= 1;
    std::fs::write(&theirs, &torn).unwrap();
    let error = block_on(block::open(&theirs, ImageOptions::default())).unwrap_err().to_string();
    assert!(error.contains("there is none that is whole"), "{error}");
}

/// Formats that are written, with an empty image of each.
fn empty_images(folder: &Path, size: u64) -> Vec<(Format, String)> {
    let formats = [Format::Vdi, Format::Vpc, Format::Parallels, Format::Qcow, Format::Vmdk, Format::Vhdx];
    let image = |format: Format| {
        let name = format!("image.{}", format.name());
        qemu_img(folder, &["create", "-q", "-f", format.name(), &name, &size.to_string()]);
        (format, name)
    };
    formats.into_iter().map(image).collect()
}

/// Threads that write parts of the same blocks do not lose each other's.
#[test]
fn threads_that_write_to_the_same_blocks() {
    const THREADS: u64 = 4;
    let folder = tempfile::tempdir().unwrap();
    let size = 6_291_456;
    for (format, name) in empty_images(folder.path(), size) {
        let backend = block::Backend::new(open(&folder.path().join(&name), None, false));
        let mut disk = Random(51).bytes(size as usize);
        let part = 1536;
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (backend, disk) = (&backend, &disk);
                scope.spawn(move || {
                    for (index, bytes) in disk.chunks(part).enumerate().skip(thread as usize).step_by(THREADS as usize)
                    {
                        backend.write_blocking((index * part) as u64, bytes).unwrap();
                        if index % 1024 == thread as usize {
                            backend.flush_blocking().unwrap();
                        }
                    }
                });
            }
        });
        disk.resize(backend.length() as usize, 0);
        assert_reads(&backend.node().unwrap(), &disk, &name);
        block_on(backend.node().unwrap().close()).unwrap();
        assert_qemu_agrees(folder.path(), &name, format.name(), &disk, format != Format::Vpc && format != Format::Qcow);
    }
}

/// Past the host's cache, where requests to files are of whole sectors.
#[test]
fn images_with_direct_access() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(52);
    for (format, name) in empty_images(folder.path(), 3_000_320) {
        let options =
            ImageOptions { file: FileOptions { direct: true, ..FileOptions::default() }, ..ImageOptions::default() };
        let node = block_on(block::open(&folder.path().join(&name), options)).unwrap();
        let mut disk = vec![0; node.length() as usize];
        write_at_random(&node, &mut disk, &mut random);
        assert_reads(&node, &disk, &name);
        block_on(node.close()).unwrap();
        drop(node);
        assert_reads(&open(&folder.path().join(&name), None, true), &disk, &name);
        assert_qemu_agrees(folder.path(), &name, format.name(), &disk, false);
    }
}
