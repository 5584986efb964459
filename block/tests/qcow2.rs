//! qcow2 images against `qemu-img`: made by either, changed here, checked and compared by it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use block::qcow2::{CompressionType, CreateOptions, create};
use block::{Backend, FileOptions, Format, HostFile, ImageOptions, IoVector, Node, Preallocation, ZeroFlags};
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
                let now = disk.node().read_vec(offset, length as usize).await.unwrap();
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
                disk.node().close().await.unwrap();
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
            disk.node().close().await.unwrap();
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
            disk.node().close().await.unwrap();
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
            let clusters = model.chunks(65536).enumerate();
            let writes =
                clusters.map(|(at, data)| disk.node().write_compressed(at as u64 * 65536, IoVector::copy_of(data)));
            assert!(join_all(writes).await.iter().all(Result::is_ok));
            disk.node().close().await.unwrap();
        });
        let what = &format!("{compression}, {refcount_bits}");
        check(&path, &model, what);
        let is_smaller = std::fs::metadata(&path).unwrap().len() < SIZE * 2 / 3;
        assert_eq!(is_smaller, refcount_bits > 1, "{what}");
        let disk = Backend::new(open(&path, false));
        block_on(async {
            change(&disk, &mut changed, &mut numbers, 60).await;
            disk.node().close().await.unwrap();
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
