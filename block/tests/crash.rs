//! Crashes: whatever a host's crash leaves of the writes since the last flush, the image is clean and has all that was flushed.
//!
//! A workload runs on an image in a file that records each write and each flush. Then images are made as a crash could leave them: all
//! writes up to some point, or any of those since the last flush before it, down to single sectors. `BROLGA_CRASH_SEED` and
//! `BROLGA_CRASH_ROUNDS` choose other workloads, and more of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use block::qcow2::{self, AmendOptions, CompressionType, CreateOptions, Files, ImageUse, Qcow2, create};
use block::{Backend, Driver, Error, IoVector, MemoryDisk, Node, Preallocation, Repair, SnapshotInfo, ZeroFlags};
use futures_executor::block_on;

/// What a host writes at once, whatever happens.
const SECTOR: usize = 512;

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

#[derive(Clone, Debug)]
enum Event {
    Write(usize, Vec<u8>),
    Truncate(usize),
    Flush,
}

/// A file in memory that remembers what was done to it.
struct Recorder {
    disk: MemoryDisk,
    log: Arc<Mutex<Vec<Event>>>,
}

#[async_trait]
impl Driver for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }
    fn length(&self) -> u64 {
        self.disk.length()
    }
    fn is_read_only(&self) -> bool {
        false
    }
    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        self.disk.read(offset, to).await
    }
    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        self.log.lock().unwrap().push(Event::Write(offset as usize, from.to_vec()));
        self.disk.write(offset, from).await
    }
    async fn flush(&self) -> Result<(), Error> {
        self.log.lock().unwrap().push(Event::Flush);
        Ok(())
    }
    async fn truncate(&self, length: u64, preallocation: Preallocation) -> Result<(), Error> {
        self.log.lock().unwrap().push(Event::Truncate(length as usize));
        self.disk.truncate(length, preallocation).await
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// Something that the guest did: between which positions of the log, where, and what is there afterwards.
struct Done {
    begin: usize,
    offset: usize,
    bytes: Vec<u8>,
}

/// What is known of the disk during a workload.
struct History {
    done: Vec<Done>,
    /// Positions of the log at which everything before was flushed: how many things were done by then, and the disk.
    flushed: BTreeMap<usize, (usize, Vec<u8>)>,
    /// Lengths that the disk had or may have, from which position of the log on.
    lengths: Vec<(usize, usize)>,
}

fn apply(file: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Write(offset, bytes) => write(file, *offset, bytes),
        Event::Truncate(length) => file.resize(*length, 0),
        Event::Flush => {}
    }
}

fn write(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if file.len() < offset + bytes.len() {
        file.resize(offset + bytes.len(), 0);
    }
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

async fn workload(
    disk: &Backend,
    log: &Mutex<Vec<Event>>,
    history: &mut History,
    size: usize,
    numbers: &mut Numbers,
    steps: u32,
) {
    let position = || log.lock().unwrap().len();
    let version = disk.node().unwrap().driver_as::<Qcow2>().unwrap().metadata().await.header.version;
    let mut model = vec![0; size];
    history.flushed.insert(position(), (0, model.clone()));
    history.lengths.push((0, size));
    for _ in 0..steps {
        let unit = [512, 4096, 65536][numbers.below(3) as usize];
        let offset = numbers.below(model.len() as u64 / unit as u64) as usize * unit;
        let length = ((1 + numbers.below(8)) as usize * unit).min(model.len() - offset);
        let begin = position();
        let at = offset as u64;
        match numbers.below(18) {
            0..3 => {
                disk.flush().await.unwrap();
                history.flushed.insert(position(), (history.done.len(), model.clone()));
                continue;
            }
            3 => disk.write_zeroes(at, length as u64, ZeroFlags::MAY_UNMAP).await.unwrap(),
            4 => disk.write_zeroes(at, length as u64, ZeroFlags::empty()).await.unwrap(),
            5 => disk.discard(at, length as u64).await.unwrap(),
            6 => {
                let cluster = disk.node().unwrap().driver_as::<Qcow2>().unwrap().cluster_size() as usize;
                let offset = offset / cluster * cluster;
                let data = vec![numbers.next() as u8; cluster.min(model.len() - offset)];
                disk.node().unwrap().write_compressed(offset as u64, IoVector::copy_of(&data)).await.unwrap();
                model[offset..offset + data.len()].copy_from_slice(&data);
                history.done.push(Done { begin, offset, bytes: data });
                continue;
            }
            7 => {
                let length = (model.len() + numbers.below(8) as usize * 4096).min(size * 2);
                disk.node().unwrap().truncate(length as u64, Preallocation::Off).await.unwrap();
                model.resize(length, 0);
                history.lengths.push((begin, length));
                history.flushed.insert(position(), (history.done.len(), model.clone()));
                continue;
            }
            8 if version >= 3 => {
                let node = disk.node().unwrap();
                let snapshots = node.driver().internal_snapshots().unwrap();
                let names: Vec<String> = snapshots.list().await.into_iter().map(|snapshot| snapshot.id).collect();
                let chosen = names.get(numbers.below(names.len().max(1) as u64) as usize);
                match (numbers.below(3), chosen) {
                    // What narrow refcounts cannot count is refused, and nothing changes.
                    (0, _) | (_, None) => drop(snapshots.create(&SnapshotInfo::default()).await),
                    (1, Some(name)) => snapshots.delete(name).await.unwrap(),
                    (_, Some(name)) => {
                        let _ = snapshots.apply(name).await;
                        let bytes = disk.node().unwrap().read_vec(0, disk.length() as usize).await.unwrap();
                        history.lengths.push((begin, bytes.len()));
                        history.done.push(Done { begin, offset: 0, bytes: bytes.clone() });
                        model = bytes;
                    }
                }
                history.flushed.insert(position(), (history.done.len(), model.clone()));
                continue;
            }
            _ => {
                let data: Vec<u8> = (0..length).map(|at| (numbers.0 as usize + at / SECTOR) as u8 | 1).collect();
                numbers.next();
                disk.write(at, IoVector::copy_of(&data)).await.unwrap();
            }
        }
        let bytes = disk.node().unwrap().read_vec(at, length).await.unwrap();
        model[offset..offset + length].copy_from_slice(&bytes);
        history.done.push(Done { begin, offset, bytes });
    }
}

/// Makes an image one of the other version, and back. The disk stays as it is.
async fn amend(file: &Arc<Node>) {
    for version in [2, 3, 2] {
        let metadata = qcow2::Metadata::read(file).await.unwrap();
        let (before, bits) = (metadata.header.version, metadata.header.refcount_bits());
        // What version 2 does not know stands in its way.
        let is_possible = !metadata.header.has_extended_l2() && bits == 16;
        let may_be_possible = metadata.header.compression == CompressionType::Zstd;
        let files = Files { file: file.clone(), backing: None, data_file: None };
        let image = Node::new("image", Qcow2::open(files, metadata, ImageUse::default()).await.unwrap());
        let snapshots = image.driver().internal_snapshots().unwrap();
        for snapshot in snapshots.list().await {
            snapshots.delete(&snapshot.id).await.unwrap();
        }
        let options = AmendOptions { version: Some(version), ..AmendOptions::default() };
        let amended = image.driver_as::<Qcow2>().unwrap().amend(&options).await;
        let is_as_expected = may_be_possible || amended.is_ok() == (version >= before || is_possible);
        assert!(is_as_expected, "{before} to {version}: {amended:?}");
        image.close().await.unwrap();
    }
}

/// The image in these bytes is clean, and each sector has what it had at the last flush or was given since.
async fn check(file: Vec<u8>, position: usize, history: &History) -> Result<(), String> {
    let node = Node::new("file", MemoryDisk::new(file, false));
    let metadata = qcow2::Metadata::read(&node).await.map_err(|error| error.to_string())?;
    let files = Files { file: node, backing: None, data_file: None };
    let opened = Qcow2::open(files, metadata, ImageUse::default()).await;
    let image = Node::new("image", opened.map_err(|error| error.to_string())?);
    let mut problems = Vec::new();
    let checked = image.check(Repair::Nothing, &mut |line| problems.push(line.to_owned())).await;
    let result = checked.map_err(|error| error.to_string())?;
    if !result.is_usable() {
        problems.retain(|line| !line.starts_with("Leaked"));
        return Err(problems.join("; "));
    }
    let content = image.read_vec(0, image.length() as usize).await.map_err(|error| error.to_string())?;
    if !history.lengths.iter().any(|(begin, length)| *begin <= position && *length == content.len()) {
        return Err(format!("the disk is {} bytes long", content.len()));
    }
    let Some((_, (known, flushed))) = history.flushed.range(..=position).next_back() else {
        return Err("nothing was flushed yet".into());
    };
    let later: Vec<&Done> = history.done[*known..].iter().filter(|done| done.begin < position).collect();
    for (number, sector) in content.chunks(SECTOR).enumerate() {
        let at = number * SECTOR;
        let before = flushed.get(at..at + SECTOR).unwrap_or(&[0; SECTOR]);
        let is_there = |done: &Done| {
            let start = at.checked_sub(done.offset)?;
            done.bytes.get(start..start + SECTOR).map(<[u8]>::to_vec)
        };
        if sector != before && !later.iter().filter_map(|done| is_there(done)).any(|given| given == sector) {
            let text = format!("sector {number} begins with {:?} and had {:?}", &sector[..4], &before[..4]);
            return Err(text);
        }
    }
    Ok(())
}

/// What `qemu-img check` says of the image; leaks are no problem. One that says that it was not closed is repaired first, as it is when it
/// is opened to be written.
fn qemu_img_check(file: &[u8]) -> Result<(), String> {
    let image = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(image.path(), file).unwrap();
    let check = |arguments: &[&str]| {
        let output = Command::new("qemu-img").args(arguments).arg(image.path()).output();
        output.expect("qemu-img must be installed")
    };
    let is_version_3 = file.get(7) == Some(&3);
    let was_not_closed = is_version_3 && file.get(79).is_some_and(|features| features & 1 != 0);
    if was_not_closed {
        check(&["check", "-r", "all", "-f", "qcow2"]);
    }
    let output = check(&["check", "-f", "qcow2"]);
    match output.status.code() {
        Some(0 | 3) => Ok(()),
        _ => Err(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)),
    }
}

/// Keeps an image that a crash could leave and that is not as it should be.
fn fail(what: &str, file: &[u8], position: usize, log: &[Event], problem: &str) -> ! {
    let kept: PathBuf = std::env::temp_dir().join(format!("crash-{}.qcow2", std::process::id()));
    std::fs::write(&kept, file).unwrap();
    let last: Vec<String> = log[position.saturating_sub(12)..position]
        .iter()
        .map(|event| match event {
            Event::Write(offset, bytes) => format!("write {} bytes at {offset:#x}", bytes.len()),
            other => format!("{other:?}"),
        })
        .collect();
    panic!("{what}, crash at {position}: {problem}; the image is {}; before: {}", kept.display(), last.join(", "));
}

fn crash(what: &str, options: &CreateOptions, seed: u64, steps: u32) {
    let mut numbers = Numbers(seed);
    let log: Arc<Mutex<Vec<Event>>> = Arc::default();
    let recorder = Recorder { disk: MemoryDisk::default(), log: log.clone() };
    let file = Node::new("file", recorder);
    let mut history = History { done: Vec::new(), flushed: BTreeMap::new(), lengths: Vec::new() };
    let start = block_on(async {
        create(file.clone(), None, options).await.unwrap();
        let metadata = qcow2::Metadata::read(&file).await.unwrap();
        let start = std::mem::take(&mut *log.lock().unwrap());
        let files = Files { file: file.clone(), backing: None, data_file: None };
        let image = Qcow2::open(files, metadata, ImageUse::default()).await.unwrap();
        let disk = Backend::new(Node::new("image", image));
        workload(&disk, &log, &mut history, options.size as usize, &mut numbers, steps).await;
        let begin = log.lock().unwrap().len();
        disk.node().unwrap().close().await.unwrap();
        let model = disk.node().unwrap().read_vec(0, disk.length() as usize).await.unwrap();
        history.flushed.insert(log.lock().unwrap().len(), (history.done.len(), model));
        assert!(begin < log.lock().unwrap().len());
        drop(disk);
        amend(&file).await;
        start
    });
    let log = log.lock().unwrap();
    // The file as it was at the last flush, and what was written since.
    let mut stable = Vec::new();
    start.iter().for_each(|event| apply(&mut stable, event));
    let mut window: Vec<&Event> = Vec::new();
    let mut images = 0;
    for position in 0..=log.len() {
        let mut variants = vec![window.iter().fold(stable.clone(), |mut file, event| {
            apply(&mut file, event);
            file
        })];
        for _ in 0..if window.is_empty() { 0 } else { 2 } {
            let mut file = stable.clone();
            let likely = 1 + numbers.below(7);
            for event in &window {
                match event {
                    Event::Write(offset, bytes) => {
                        for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                            // Whole writes are lost more often than parts of them.
                            let luck =
                                if numbers.below(4) == 0 { numbers.below(8) } else { (numbers.0 ^ *offset as u64) % 8 };
                            if luck < likely {
                                write(&mut file, offset + index * SECTOR, sector);
                            }
                        }
                    }
                    other => apply(&mut file, other),
                }
            }
            variants.push(file);
        }
        for file in variants {
            images += 1;
            if let Err(problem) = block_on(check(file.clone(), position, &history)) {
                fail(what, &file, position, &log, &problem);
            }
            if images % 100 == 0
                && let Err(problem) = qemu_img_check(&file)
            {
                fail(what, &file, position, &log, &problem);
            }
        }
        match log.get(position) {
            Some(Event::Flush) => window.drain(..).for_each(|event| apply(&mut stable, event)),
            Some(event) => window.push(event),
            None => {}
        }
    }
    println!("{what}: {} writes and flushes, {images} images", log.len());
}

#[test]
fn nothing_that_was_flushed_is_lost() {
    let number = |name: &str, usual: u64| std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap());
    let seed = number("BROLGA_CRASH_SEED", 1);
    let usual = CreateOptions { size: 1 << 20, ..CreateOptions::default() };
    let variants = [
        ("usual", usual.clone()),
        ("extended L2", CreateOptions { extended_l2: true, cluster_size: 16384, ..usual.clone() }),
        ("version 2", CreateOptions { version: 2, cluster_size: 4096, ..usual.clone() }),
        ("zstd", CreateOptions { compression: CompressionType::Zstd, cluster_size: 8192, ..usual.clone() }),
        // Tables that fill up and are moved.
        ("smallest clusters", CreateOptions { cluster_size: 512, refcount_bits: 64, size: 256 << 10, ..usual.clone() }),
        ("narrow refcounts", CreateOptions { cluster_size: 1024, refcount_bits: 1, ..usual }),
    ];
    std::thread::scope(|scope| {
        for (index, (what, options)) in variants.iter().enumerate() {
            scope.spawn(move || {
                for round in 0..number("BROLGA_CRASH_ROUNDS", 1) {
                    crash(what, options, seed + round * 100 + index as u64, 120);
                }
            });
        }
    });
}
