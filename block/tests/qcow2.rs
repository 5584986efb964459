//! qcow2 images against `qemu-img`: made by either, changed here, checked and compared by it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use block::qcow2::{CompressionType, CreateOptions, Files, ImageUse, Qcow2, create};
use block::{
    Backend, CheckResult, FileOptions, Format, HostFile, ImageOptions, IoVector, MemoryDisk, Node, Preallocation,
    Repair, SnapshotInfo, ZeroFlags,
};
use futures_executor::block_on;
use futures_util::future::join_all;

/// Bytes of each disk.
const SIZE: u64 = (8 << 20) + 512;

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

fn qemu_img(arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").args(arguments).output().expect("qemu-img must be installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qemu-img {arguments:?}: {text}");
    text
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn open(path: &Path, read_only: bool) -> Arc<Node> {
    let file = FileOptions { read_only, ..FileOptions::default() };
    block_on(block::open(path, ImageOptions { format: Some(Format::Qcow2), file, ..ImageOptions::default() })).unwrap()
}

fn new_file(path: &Path) -> Arc<Node> {
    std::fs::write(path, []).unwrap();
    Node::new("file", HostFile::open(path, FileOptions::default()).unwrap())
}

/// A stretch of the disk, most of them small and some of whole clusters.
fn stretch(numbers: &mut Numbers) -> (u64, u64) {
    let unit = [1, 512, 4096, 65536][numbers.below(4) as usize];
    let offset = numbers.below(SIZE) / unit * unit;
    let length = (1 + numbers.below(if unit == 65536 { 20 } else { 40 })) * unit;
    (offset, length.min(SIZE - offset))
}

/// Does things to the disk and to a model of it; some at once.
async fn change(disk: &Backend, model: &mut [u8], numbers: &mut Numbers, rounds: u32) {
    for _ in 0..rounds {
        let (offset, length) = stretch(numbers);
        let range = offset as usize..(offset + length) as usize;
        match numbers.below(10) {
            0 => {
                let flags = [ZeroFlags::empty(), ZeroFlags::MAY_UNMAP][numbers.below(2) as usize];
                disk.write_zeroes(offset, length, flags).await.unwrap();
                model[range].fill(0);
            }
            1 => {
                disk.discard(offset, length).await.unwrap();
                // Either zeros or what was there.
                let now = disk.node().unwrap().read_vec(offset, length as usize).await.unwrap();
                for (now, before) in now.iter().zip(&mut model[range]) {
                    assert!(*now == 0 || now == before, "discarded bytes became something else");
                    *before = *now;
                }
            }
            2 => disk.flush().await.unwrap(),
            3 => {
                // Many small writes at once into few clusters.
                let writes: Vec<(u64, u8)> = (0..16)
                    .map(|index| ((offset / 512 * 512 + index * 1024) % (SIZE - 512), numbers.next() as u8))
                    .collect();
                let data = writes.iter().map(|(at, byte)| disk.write(*at, IoVector::copy_of(&[*byte; 512])));
                assert!(join_all(data).await.iter().all(Result::is_ok));
                for (at, byte) in writes {
                    model[at as usize..][..512].fill(byte);
                }
            }
            _ => {
                let byte = numbers.next() as u8;
                let data: Vec<u8> = (0..length).map(|at| byte.wrapping_add((at / 64) as u8)).collect();
                disk.write(offset, IoVector::copy_of(&data)).await.unwrap();
                model[range].copy_from_slice(&data);
            }
        }
    }
}

/// The disk is what the model is, for us and for `qemu-img`, which finds nothing to complain of.
fn check(image: &Path, model: &[u8], what: &str) {
    let disk = open(image, true);
    assert_eq!(disk.length(), model.len() as u64, "{what}");
    let content = block_on(disk.read_vec(0, model.len())).unwrap();
    if let Some(at) = content.iter().zip(model).position(|(here, there)| here != there) {
        panic!("{what}: byte {at:#x} is {} and should be {}", content[at], model[at]);
    }
    qemu_img(&["check", "-f", "qcow2", text(image)]);
    let raw = image.with_extension("model");
    std::fs::write(&raw, model).unwrap();
    qemu_img(&["compare", "-f", "qcow2", "-F", "raw", text(image), text(&raw)]);
}

fn variants() -> Vec<(&'static str, CreateOptions)> {
    let usual = CreateOptions { size: SIZE, ..CreateOptions::default() };
    let mut variants = vec![
        ("usual", usual.clone()),
        ("small clusters", CreateOptions { cluster_size: 512, ..usual.clone() }),
        ("large clusters", CreateOptions { cluster_size: 2 << 20, ..usual.clone() }),
        ("version 2", CreateOptions { version: 2, ..usual.clone() }),
        ("extended L2", CreateOptions { extended_l2: true, ..usual.clone() }),
        ("zstd", CreateOptions { compression: CompressionType::Zstd, ..usual.clone() }),
        ("metadata", CreateOptions { preallocation: Preallocation::Metadata, ..usual.clone() }),
        ("falloc", CreateOptions { preallocation: Preallocation::Falloc, ..usual.clone() }),
        ("full", CreateOptions { preallocation: Preallocation::Full, cluster_size: 4096, ..usual.clone() }),
    ];
    for bits in [1, 2, 4, 8, 32, 64] {
        variants.push(("refcounts", CreateOptions { refcount_bits: bits, cluster_size: 1024, ..usual.clone() }));
    }
    variants
}

#[test]
fn images_made_and_changed_here_are_clean_and_equal() {
    let folder = tempfile::tempdir().unwrap();
    let mut numbers = Numbers(1);
    for (what, options) in variants() {
        let what = &format!("{what} {}", options.refcount_bits);
        let path = folder.path().join("image.qcow2");
        block_on(create(new_file(&path), None, &options)).unwrap();
        let mut model = vec![0; SIZE as usize];
        check(&path, &model, what);
        for _ in 0..2 {
            let disk = Backend::new(open(&path, false));
            block_on(async {
                change(&disk, &mut model, &mut numbers, 60).await;
                disk.node().unwrap().close().await.unwrap();
            });
            check(&path, &model, what);
        }
    }
}

#[test]
fn images_made_by_qemu_img_are_read_and_changed() {
    let folder = tempfile::tempdir().unwrap();
    let mut numbers = Numbers(2);
    let raw = folder.path().join("source.raw");
    let mut source = vec![0; SIZE as usize];
    for index in 0..40 {
        let (offset, length) = stretch(&mut numbers);
        source[offset as usize..][..length as usize].fill(index + 1);
    }
    std::fs::write(&raw, &source).unwrap();
    for options in [
        &[][..],
        &["-c"],
        &["-c", "-o", "compression_type=zstd"],
        &["-o", "compat=0.10"],
        &["-o", "extended_l2=on"],
        &["-o", "extended_l2=on,cluster_size=16k", "-c"],
        &["-o", "cluster_size=512,refcount_bits=1"],
        &["-o", "cluster_size=2M", "-c"],
        &["-o", "preallocation=metadata"],
    ] {
        let what = &format!("{options:?}");
        let path: PathBuf = folder.path().join("image.qcow2");
        let convert = [&["convert", "-f", "raw", "-O", "qcow2"], options, &[text(&raw), text(&path)]].concat();
        qemu_img(&convert);
        let mut model = source.clone();
        check(&path, &model, what);
        let disk = Backend::new(open(&path, false));
        block_on(async {
            change(&disk, &mut model, &mut numbers, 60).await;
            disk.node().unwrap().close().await.unwrap();
        });
        check(&path, &model, what);
    }
}

#[test]
fn what_is_not_in_the_image_comes_from_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut numbers = Numbers(3);
    let base = folder.path().join("base.raw");
    // Shorter than the disk in front of it.
    let mut model: Vec<u8> = (0..5_000_000_u64).map(|at| (at / 1000) as u8 | 1).collect();
    std::fs::write(&base, &model).unwrap();
    model.resize(SIZE as usize, 0);
    for (version, extended_l2) in [(3, false), (3, true), (2, false)] {
        let what = &format!("version {version}, extended L2: {extended_l2}");
        let path = folder.path().join(format!("image{version}{extended_l2}.qcow2"));
        let backing = Some(("base.raw".to_owned(), Some("raw".to_owned())));
        let options = CreateOptions { size: SIZE, version, extended_l2, backing, ..CreateOptions::default() };
        block_on(create(new_file(&path), None, &options)).unwrap();
        let mut model = model.clone();
        check(&path, &model, what);
        let disk = Backend::new(open(&path, false));
        block_on(async {
            change(&disk, &mut model, &mut numbers, 100).await;
            disk.node().unwrap().close().await.unwrap();
        });
        check(&path, &model, what);
    }
}

#[test]
fn compressed_clusters_are_written() {
    let folder = tempfile::tempdir().unwrap();
    for (compression, refcount_bits) in
        [(CompressionType::Zlib, 16), (CompressionType::Zstd, 16), (CompressionType::Zlib, 1)]
    {
        let path = folder.path().join("image.qcow2");
        let options = CreateOptions { size: SIZE, compression, refcount_bits, ..CreateOptions::default() };
        block_on(create(new_file(&path), None, &options)).unwrap();
        let disk = Backend::new(open(&path, false));
        let mut numbers = Numbers(4);
        let model: Vec<u8> =
            (0..SIZE).map(|at| if at / 65536 % 3 == 0 { numbers.next() as u8 } else { (at / 300) as u8 }).collect();
        let mut changed = model.clone();
        block_on(async {
            let node = disk.node().unwrap();
            let clusters = model.chunks(65536).enumerate();
            let writes = clusters.map(|(at, data)| node.write_compressed(at as u64 * 65536, IoVector::copy_of(data)));
            assert!(join_all(writes).await.iter().all(Result::is_ok));
            disk.node().unwrap().close().await.unwrap();
        });
        let what = &format!("{compression}, {refcount_bits}");
        check(&path, &model, what);
        let is_smaller = std::fs::metadata(&path).unwrap().len() < SIZE * 2 / 3;
        assert_eq!(is_smaller, refcount_bits > 1, "{what}");
        let disk = Backend::new(open(&path, false));
        block_on(async {
            change(&disk, &mut changed, &mut numbers, 60).await;
            disk.node().unwrap().close().await.unwrap();
        });
        check(&path, &changed, what);
    }
}

#[test]
fn disks_become_longer_and_shorter() {
    let folder = tempfile::tempdir().unwrap();
    for cluster_size in [512, 65536] {
        let path = folder.path().join("image.qcow2");
        let options = CreateOptions { size: SIZE, cluster_size, ..CreateOptions::default() };
        block_on(create(new_file(&path), None, &options)).unwrap();
        let disk = open(&path, false);
        let mut model = vec![0x5a; SIZE as usize];
        block_on(async {
            disk.write_bytes(0, &model).await.unwrap();
            // With these clusters the tables must move several times on the way.
            for length in [3 << 20, (3 << 20) + 512, 100 << 20, 90 << 20] {
                disk.truncate(length, Preallocation::Off).await.unwrap();
                model.resize(length as usize, 0);
                let end = disk.read_vec(length - 512, 512).await.unwrap();
                assert_eq!(end, &model[model.len() - 512..], "{cluster_size} {length}");
            }
            disk.truncate(91 << 20, Preallocation::Metadata).await.unwrap();
            model.resize(91 << 20, 0);
            disk.write_bytes(80 << 20, &[1; 100_000]).await.unwrap();
            model[80 << 20..][..100_000].fill(1);
            disk.close().await.unwrap();
        });
        check(&path, &model, &format!("clusters of {cluster_size}"));
    }
}

#[test]
fn what_a_disk_had_before_it_became_shorter_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.qcow2");
    let options = CreateOptions { size: 1 << 20, extended_l2: true, ..CreateOptions::default() };
    block_on(create(new_file(&path), None, &options)).unwrap();
    let disk = open(&path, false);
    block_on(async {
        // In the last part of the first cluster; the parts before it have nothing.
        disk.write_bytes(62 << 10, &[1; 2048]).await.unwrap();
        disk.truncate(10 << 10, Preallocation::Off).await.unwrap();
        disk.truncate(1 << 20, Preallocation::Off).await.unwrap();
        assert_eq!(disk.read_vec(62 << 10, 2048).await.unwrap(), [0; 2048]);
        disk.close().await.unwrap();
    });
}

#[test]
fn a_disk_grows_by_less_than_a_cluster_in_front_of_a_longer_one() {
    let folder = tempfile::tempdir().unwrap();
    let (base, path) = (folder.path().join("base.raw"), folder.path().join("image.qcow2"));
    std::fs::write(&base, [7; 1 << 20]).unwrap();
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", text(&path), "64k"]);
    let disk = open(&path, false);
    block_on(async {
        disk.truncate((64 << 10) + 512, Preallocation::Off).await.unwrap();
        assert_eq!(disk.read_vec(64 << 10, 512).await.unwrap(), [0; 512]);
        disk.close().await.unwrap();
    });
    qemu_img(&["check", "-q", text(&path)]);
}

#[test]
fn a_snapshot_whose_table_is_nowhere_is_an_error_when_it_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "cluster_size=512", text(&path), "1M"]);
    qemu_img(&["snapshot", "-c", "first", text(&path)]);
    let mut bytes = std::fs::read(&path).unwrap();
    let table = u64::from_be_bytes(bytes[64..72].try_into().unwrap()) as usize;
    // Its L1 table's place and length.
    bytes[table..table + 8].copy_from_slice(&(u64::MAX - 511).to_be_bytes());
    bytes[table + 8..table + 12].copy_from_slice(&u32::MAX.to_be_bytes());
    std::fs::write(&path, bytes).unwrap();
    let disk = open(&path, false);
    block_on(async {
        let snapshots = disk.driver().internal_snapshots().unwrap();
        assert!(snapshots.apply("first").await.is_err());
        assert!(snapshots.delete("first").await.is_err());
    });
}

#[test]
fn a_request_may_have_any_number_of_clusters() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.qcow2");
    let options = CreateOptions { size: SIZE, cluster_size: 512, ..CreateOptions::default() };
    block_on(create(new_file(&path), None, &options)).unwrap();
    let disk = open(&path, false);
    let mut model: Vec<u8> = (0..SIZE).map(|at| (at / 512 % 251) as u8).collect();
    block_on(async {
        // Every other one is there, so that none follows another in the file.
        for at in (0..SIZE / 4).step_by(1024) {
            disk.write_bytes(at, &[0xee; 512]).await.unwrap();
            model[at as usize..at as usize + 512].fill(0xee);
        }
        model[512..1024].fill(0);
        assert_eq!(disk.read_vec(0, 1024).await.unwrap(), model[..1024]);
        disk.write_bytes(SIZE / 4, &model[SIZE as usize / 4..]).await.unwrap();
        for at in (512..SIZE as usize / 4).step_by(1024) {
            model[at..at + 512].fill(0);
        }
        assert!(disk.read_vec(0, SIZE as usize).await.unwrap() == model);
        disk.close().await.unwrap();
    });
    check(&path, &model, "many clusters");
}

#[test]
fn data_may_be_in_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut numbers = Numbers(8);
    for is_raw in [false, true] {
        let (path, data) = (folder.path().join("image.qcow2"), folder.path().join("data.raw"));
        let options = format!("data_file={},data_file_raw={}", text(&data), if is_raw { "on" } else { "off" });
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", &options, text(&path), &SIZE.to_string()]);
        let mut model = vec![0; SIZE as usize];
        for round in 0..3 {
            let disk = Backend::new(open(&path, false));
            block_on(async {
                change(&disk, &mut model, &mut numbers, 60).await;
                disk.node().unwrap().close().await.unwrap();
            });
            check(&path, &model, &format!("{options}, round {round}"));
            if is_raw {
                assert!(
                    std::fs::read(&data).unwrap()[..model.len()] == model,
                    "round {round}: the file is not the disk"
                );
            }
        }
        // One that lies elsewhere is not what the user asked for.
        let elsewhere = tempfile::tempdir().unwrap();
        let moved = elsewhere.path().join("image.qcow2");
        std::fs::rename(&path, &moved).unwrap();
        let options = ImageOptions { format: Some(Format::Qcow2), ..ImageOptions::default() };
        let refused = block_on(block::open(&moved, options)).unwrap_err().to_string();
        assert!(refused.contains("data.raw"), "{refused}");
    }
}

/// What `qemu-img check` counts: corruptions, leaks, and the clusters that are there, in stretches, compressed.
fn counted_by_qemu_img(image: &Path) -> [u64; 5] {
    let output =
        Command::new("qemu-img").args(["check", "--output=json", "-f", "qcow2", text(image)]).output().unwrap();
    let json = String::from_utf8(output.stdout).unwrap();
    let number = |name: &str| {
        let Some((_, rest)) = json.split_once(&format!("\"{name}\": ")) else { return 0 };
        rest.split([',', '\n', '}']).next().unwrap().trim().parse().unwrap()
    };
    ["corruptions", "leaks", "allocated-clusters", "fragmented-clusters", "compressed-clusters"].map(number)
}

fn checked(image: &Path, repair: Repair) -> (CheckResult, Vec<String>) {
    let file = FileOptions { read_only: repair == Repair::Nothing, ..FileOptions::default() };
    let options = ImageOptions { format: Some(Format::Qcow2), file, check: true, ..ImageOptions::default() };
    let mut lines = Vec::new();
    let result = block_on(async {
        let node = block::open(image, options).await.unwrap();
        let result = node.check(repair, &mut |line| lines.push(line.to_owned())).await.unwrap();
        node.close().await.unwrap();
        result
    });
    (result, lines)
}

fn counts(result: &CheckResult) -> [u64; 5] {
    [
        result.corruptions,
        result.leaks,
        result.allocated_clusters,
        result.fragmented_clusters,
        result.compressed_clusters,
    ]
}

#[test]
fn what_is_wrong_is_found_as_qemu_img_finds_it_and_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("source.raw");
    let source: Vec<u8> = (0..SIZE).map(|at| if at / 65536 % 3 == 0 { 0 } else { (at / 500) as u8 }).collect();
    std::fs::write(&raw, &source).unwrap();
    let mut numbers = Numbers(5);
    for options in [&[][..], &["-c"], &["-o", "extended_l2=on"], &["-o", "cluster_size=512,refcount_bits=2"]] {
        let path = folder.path().join("image.qcow2");
        qemu_img(&[&["convert", "-f", "raw", "-O", "qcow2"], options, &[text(&raw), text(&path)]].concat());
        let (result, _) = checked(&path, Repair::Nothing);
        assert_eq!(counts(&result), counted_by_qemu_img(&path), "{options:?}");
        let good = std::fs::read(&path).unwrap();
        let disk = open(&path, true);
        let cluster = disk.driver_as::<Qcow2>().unwrap().cluster_size() as usize;
        drop(disk);
        let table = u64::from_be_bytes(good[48..56].try_into().unwrap()) as usize;
        let block = u64::from_be_bytes(good[table..table + 8].try_into().unwrap()) as usize;
        for round in 0..20 {
            let mut bad = good.clone();
            // Refcounts of clusters that are there and of some that are not; both ways.
            for _ in 0..1 + numbers.below(5) {
                let at = block + numbers.below(cluster as u64 / 4) as usize;
                bad[at] = [0, 1, 2][numbers.below(3) as usize];
            }
            std::fs::write(&path, &bad).unwrap();
            let (found, lines) = checked(&path, Repair::Nothing);
            assert_eq!(counts(&found), counted_by_qemu_img(&path), "{options:?} {round}: {lines:?}");
            assert_eq!(std::fs::read(&path).unwrap(), bad, "a check changed the image");
            if found.corruptions == 0 && found.leaks > 0 {
                let (fixed, _) = checked(&path, Repair::Leaks);
                assert_eq!((fixed.leaks, fixed.leaks_fixed), (0, found.leaks));
                check(&path, &source, "leaks");
                std::fs::write(&path, &bad).unwrap();
            }
            let (fixed, lines) = checked(&path, Repair::All);
            assert_eq!((fixed.corruptions, fixed.leaks), (0, 0), "{options:?} {round}: {lines:?}");
            check(&path, &source, &format!("{options:?} {round}, repaired"));
        }
    }
}

#[test]
fn an_image_that_was_not_closed_is_repaired_when_it_is_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.qcow2");
    // `abort` leaves refcounts as lazily as they were updated.
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", text(&path), "8M"]);
    let mut command = Command::new("qemu-io");
    command.args(["-f", "qcow2", "-c", "write -P 7 1M 2M", "-c", "flush", "-c", "abort"]).arg(&path);
    let output = command.output().expect("qemu-io must be installed");
    assert!(!output.status.success());
    let is_dirty = |path: &Path| std::fs::read(path).unwrap()[79] & 1 == 1;
    assert!(is_dirty(&path));
    let mut model = vec![0; 8 << 20];
    model[1 << 20..3 << 20].fill(7);
    // Who only reads leaves it as it is.
    let disk = open(&path, true);
    assert!(block_on(disk.read_vec(0, model.len())).unwrap() == model);
    assert!(is_dirty(&path));
    drop(disk);
    block_on(open(&path, false).close()).unwrap();
    assert!(!is_dirty(&path));
    check(&path, &model, "repaired");
}

/// `BROLGA_HOSTILE_SECONDS` and `BROLGA_HOSTILE_SEED` have it go on for longer, with other images.
#[test]
fn images_with_metadata_that_says_anything_are_errors_at_worst() {
    let number = |name: &str, usual: u64| std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("source.raw");
    std::fs::write(&raw, (0..1 << 20).map(|at| (at / 700) as u8).collect::<Vec<u8>>()).unwrap();
    let mut numbers = Numbers(number("BROLGA_HOSTILE_SEED", 6));
    let images: Vec<Vec<u8>> = [
        &[][..],
        &["-c"],
        &["-o", "extended_l2=on"],
        &["-o", "cluster_size=512"],
        &["-o", "compat=0.10", "-c"],
        &["-o", "refcount_bits=1,cluster_size=4k"],
    ]
    .into_iter()
    .map(|options| {
        let path = folder.path().join("image.qcow2");
        qemu_img(&[&["convert", "-f", "raw", "-O", "qcow2"], options, &[text(&raw), text(&path)]].concat());
        if options.is_empty() {
            qemu_img(&["snapshot", "-c", "first", text(&path)]);
            qemu_img(&["bitmap", "--add", text(&path), "bitmap"]);
        }
        std::fs::read(&path).unwrap()
    })
    .collect();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(number("BROLGA_HOSTILE_SECONDS", 0));
    let (mut tried, mut opened) = (0, 0);
    while tried < 2500 || std::time::Instant::now() < end {
        let good = &images[tried % images.len()];
        opened += u32::from(use_image(spoil(good, &mut numbers), &mut numbers));
        tried += 1;
    }
    println!("{opened} of {tried} images could be opened");
    assert!(opened as usize > tried / 20, "only {opened} of {tried} images could be opened: they test little");
}

/// An image with some of its metadata changed.
fn spoil(good: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bad = good.to_vec();
    let cluster = 1 << u32::from_be_bytes(good[20..24].try_into().unwrap());
    // Header, tables, and now and then anything.
    for _ in 0..1 + numbers.below(4) {
        let end = [112, cluster * 4, bad.len()][numbers.below(3) as usize].min(bad.len());
        let at = numbers.below(end as u64) as usize;
        match numbers.below(4) {
            0 => bad[at] = numbers.next() as u8,
            1 => bad[at] ^= 1 << numbers.below(8),
            2 => {
                let at = (at & !7).min(bad.len() - 8);
                let value = [0, u64::MAX, 1 << 63, 0x10000, numbers.next()][numbers.below(5) as usize];
                bad[at..at + 8].copy_from_slice(&value.to_be_bytes());
            }
            _ => bad.truncate(at.max(72)),
        }
    }
    bad
}

/// Does a little of everything with an image; true if it could be opened.
fn use_image(bytes: Vec<u8>, numbers: &mut Numbers) -> bool {
    block_on(async {
        let file = Node::new("file", MemoryDisk::new(bytes, false));
        let Ok(metadata) = block::qcow2::Metadata::read(&file).await else { return false };
        let check = numbers.below(2) == 0;
        let size = metadata.header.size.min(2 << 20) as usize;
        let files = Files { file, backing: None, data_file: None };
        let Ok(image) = Qcow2::open(files, metadata, ImageUse { check, ..ImageUse::default() }).await else {
            return false;
        };
        let node = Node::new("image", image);
        // Each may fail; none may do anything else.
        let _ = node.read_vec(0, size).await;
        let _ = node.check([Repair::Nothing, Repair::Leaks, Repair::All][numbers.below(3) as usize], &mut |_| {}).await;
        for _ in 0..8 {
            let at = numbers.below(size as u64 + 1);
            let _ = node.write_bytes(at, &vec![1; numbers.below(200_000) as usize]).await;
            let _ = node.status(at, 1 << 20).await;
            let _ = node.discard(at, numbers.below(200_000)).await;
            let _ = node.write_zeroes(at, numbers.below(200_000), ZeroFlags::empty()).await;
        }
        let _ = node.write_compressed(0, IoVector::zeroed(65536)).await;
        let snapshots = node.driver().internal_snapshots().unwrap();
        let _ = snapshots.create(&SnapshotInfo::default()).await;
        let _ = snapshots.apply("1").await;
        let _ = snapshots.delete("1").await;
        let _ = node.truncate(4 << 20, Preallocation::Off).await;
        let _ = node.close().await;
        true
    })
}

#[test]
fn internal_snapshots_are_made_used_and_forgotten_by_either() {
    let folder = tempfile::tempdir().unwrap();
    let mut numbers = Numbers(7);
    for (version, cluster_size, extended_l2) in [(3, 65536, false), (3, 16384, true), (2, 4096, false), (3, 512, false)]
    {
        let what = &format!("version {version}, clusters of {cluster_size}");
        let path = folder.path().join("image.qcow2");
        let options = CreateOptions { size: SIZE, version, cluster_size, extended_l2, ..CreateOptions::default() };
        block_on(create(new_file(&path), None, &options)).unwrap();
        let mut model = vec![0; SIZE as usize];
        let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
        for round in 0..12 {
            let disk = Backend::new(open(&path, false));
            block_on(change(&disk, &mut model, &mut numbers, 15));
            let is_ours = numbers.below(2) == 0;
            let node = disk.node().unwrap();
            let snapshots = node.driver().internal_snapshots().unwrap();
            let index = numbers.below(kept.len().max(1) as u64) as usize;
            let action = if kept.is_empty() { 0 } else { numbers.below(4) };
            if !is_ours {
                block_on(disk.node().unwrap().close()).unwrap();
            }
            match (action, is_ours) {
                (0 | 1, true) => {
                    let info =
                        SnapshotInfo { name: format!("s{round}"), date: (1_600_000_000, 5), ..SnapshotInfo::default() };
                    block_on(snapshots.create(&info)).unwrap();
                    kept.push((format!("s{round}"), model.clone()));
                }
                (0 | 1, false) => {
                    qemu_img(&["snapshot", "-c", &format!("s{round}"), text(&path)]);
                    kept.push((format!("s{round}"), model.clone()));
                }
                (2, true) => block_on(snapshots.delete(&kept.remove(index).0)).unwrap(),
                (2, false) => drop(qemu_img(&["snapshot", "-d", &kept.remove(index).0, text(&path)])),
                (_, is_ours) => {
                    let (name, content) = &kept[index];
                    match is_ours {
                        true => block_on(snapshots.apply(name)).unwrap(),
                        false => drop(qemu_img(&["snapshot", "-a", name, text(&path)])),
                    }
                    model = content.clone();
                }
            }
            if is_ours {
                block_on(async {
                    change(&disk, &mut model, &mut numbers, 15).await;
                    disk.node().unwrap().close().await.unwrap();
                });
            }
            check(&path, &model, &format!("{what}, round {round}"));
            let listed = qemu_img(&["snapshot", "-l", text(&path)]);
            assert!(kept.iter().all(|(name, _)| listed.contains(name)), "{what}: {listed}");
            for (name, content) in &kept {
                let raw = folder.path().join("kept.raw");
                std::fs::write(&raw, content).unwrap();
                let snapshot = format!("snapshot.name={name}");
                let other = folder.path().join("snapshot.raw");
                qemu_img(&["convert", "-l", &snapshot, "-O", "raw", text(&path), text(&other)]);
                assert!(std::fs::read(&other).unwrap() == *content, "{what}, round {round}: snapshot {name} changed");
            }
        }
    }
}
