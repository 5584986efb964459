//! Each format.

use block::{Format, parallels, qcow, vdi, vpc};

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
