//! What the host loses when it crashes: only what was not flushed, whatever reached the disk of that.

use std::future::poll_fn;
use std::sync::Mutex;
use std::task::Poll;

use async_trait::async_trait;
use block::{Driver, Error, MemoryDisk, Preallocation, parallels, qcow, vdi, vhdx, vmdk, vpc};

use super::*;

/// What was done to a file.
#[derive(Clone)]
enum Step {
    Write(u64, Vec<u8>),
    Flush,
}

/// A file in memory that remembers what was done to it.
struct Recorder {
    bytes: Mutex<Vec<u8>>,
    steps: Arc<Mutex<Vec<Step>>>,
    /// Each request takes its time before it is done.
    is_slow: bool,
}

impl Recorder {
    async fn wait(&self) {
        let mut is_first = self.is_slow;
        poll_fn(|context| {
            if std::mem::take(&mut is_first) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }
}

#[async_trait]
impl Driver for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }
    fn length(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }
    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        self.wait().await;
        let bytes = self.bytes.lock().unwrap();
        let from = bytes.get(offset as usize..).unwrap_or_default();
        let there = from.len().min(to.len());
        to.fill(0);
        to.slice(0, there).copy_from(&from[..there]);
        Ok(())
    }
    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        self.wait().await;
        let data = from.to_vec();
        apply(&mut self.bytes.lock().unwrap(), offset, &data);
        self.steps.lock().unwrap().push(Step::Write(offset, data));
        Ok(())
    }
    async fn flush(&self) -> Result<(), Error> {
        self.wait().await;
        self.steps.lock().unwrap().push(Step::Flush);
        Ok(())
    }
    async fn truncate(&self, length: u64, _: Preallocation) -> Result<(), Error> {
        self.bytes.lock().unwrap().resize(length as usize, 0);
        Ok(())
    }
    fn is_read_only(&self) -> bool {
        false
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

fn apply(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let end = offset as usize + data.len();
    bytes.resize(bytes.len().max(end), 0);
    bytes[offset as usize..end].copy_from_slice(data);
}

fn recorder(bytes: Vec<u8>) -> (Arc<Node>, Arc<Mutex<Vec<Step>>>) {
    let steps = Arc::new(Mutex::new(Vec::new()));
    (Node::new("file", Recorder { bytes: Mutex::new(bytes), steps: steps.clone(), is_slow: false }), steps)
}

type Opened = Result<Box<dyn Driver>, Error>;

/// Writes to a disk, of which `before` is what is on it, with a flush now and then; and looks at what is left when the host crashes at
/// any point of that, having written any of what was under way.
fn crash(what: &str, image: Vec<u8>, before: &[u8], open: impl Fn(Arc<Node>) -> Opened) {
    let mut random = Random(0x7777_1234_5678_9abd);
    let (file, steps) = recorder(image.clone());
    let node = Node::of("disk", open(file).unwrap());
    // Each write, with how many steps there were before it and once it was flushed.
    let mut writes: Vec<(usize, usize, u64, Vec<u8>)> = Vec::new();
    for round in 0..24 {
        let at = random.below(before.len() as u64 - 9000);
        let length = 1 + random.below(9000) as usize;
        let data = random.bytes(length);
        let begun = steps.lock().unwrap().len();
        block_on(node.write_bytes(at, &data)).unwrap();
        writes.push((begun, usize::MAX, at, data));
        if round % 3 == 2 {
            block_on(node.flush()).unwrap();
            let done = steps.lock().unwrap().len();
            for write in writes.iter_mut().filter(|write| write.1 == usize::MAX) {
                write.1 = done;
            }
        }
    }
    block_on(node.close()).unwrap();
    let steps = steps.lock().unwrap().clone();
    for _ in 0..150 {
        let end = random.below(steps.len() as u64 + 1) as usize;
        let flushed = steps[..end].iter().rposition(|step| matches!(step, Step::Flush)).unwrap_or(0);
        let mut left = image.clone();
        let mut under_way = Vec::new();
        for (index, step) in steps[..end].iter().enumerate() {
            let Step::Write(offset, data) = step else { continue };
            if index < flushed {
                apply(&mut left, *offset, data);
            } else {
                // Sectors are whole, and reach the disk in any order.
                let mut at = 0;
                while at < data.len() {
                    let part = (512 - (*offset as usize + at) % 512).min(data.len() - at);
                    under_way.push((*offset + at as u64, &data[at..at + part]));
                    at += part;
                }
            }
        }
        let share = random.below(4);
        for (offset, sector) in under_way {
            if random.below(4) < share {
                apply(&mut left, offset, sector);
            }
        }
        let (file, _) = recorder(left);
        let disk = Node::of("disk", open(file).unwrap_or_else(|error| panic!("{what}: {error}")));
        let read = block_on(disk.read_vec(0, before.len())).unwrap_or_else(|error| panic!("{what}: {error}"));
        // What may be there: what was flushed last, or what was written since.
        let mut certain = before.to_vec();
        for (_, _, at, data) in writes.iter().filter(|write| write.1 <= end) {
            certain[*at as usize..*at as usize + data.len()].copy_from_slice(data);
        }
        let parts =
            read.chunks(4096).zip(certain.chunks(4096)).enumerate().filter(|(_, (read, certain))| read != certain);
        let places = parts.flat_map(|(index, (part, _))| index * 4096..index * 4096 + part.len());
        for (at, byte) in places.map(|at| (at, &read[at])).filter(|(at, byte)| **byte != certain[*at]) {
            let may_be = writes.iter().any(|(begun, done, start, data)| {
                let index = at.checked_sub(*start as usize);
                *begun < end && *done > end && index.and_then(|index| data.get(index)) == Some(byte)
            });
            // A sector that never came is what the new room had.
            let is_under_way = writes.iter().any(|(begun, done, start, data)| {
                *begun < end && *done > end && (*start..*start + data.len() as u64).contains(&(at as u64))
            });
            assert!(may_be || (*byte == 0 && is_under_way), "{what}: byte {at} after {end} of {} steps", steps.len());
        }
        // And it can be used.
        block_on(disk.write_bytes(1000, &[1; 3000])).unwrap();
        block_on(disk.close()).unwrap();
    }
}

/// Bytes of the disks.
const DISK: usize = 4 << 20;

/// The bytes of a new image.
fn made(create: impl AsyncFn(&Node) -> Result<(), Error>) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    block_on(create(&new_file(&path))).unwrap();
    std::fs::read(path).unwrap()
}

/// An image of each format, and how it is opened.
fn each_format(mut each: impl FnMut(Format, Vec<u8>, &dyn Fn(Arc<Node>) -> Opened)) {
    let size = DISK as u64;
    let image = made(async |file| vdi::create(file, &vdi::CreateOptions { size, is_static: false }).await);
    each(Format::Vdi, image, &|file| block_on(vdi::open(file)));
    let image = made(async |file| vpc::create(file, &vpc::CreateOptions { size, ..Default::default() }).await);
    each(Format::Vpc, image, &|file| block_on(vpc::open(file)));
    let options = parallels::CreateOptions { size, cluster_size: 64 << 10 };
    let image = made(async |file| parallels::create(file, &options).await);
    each(Format::Parallels, image, &|file| block_on(parallels::open(file)));
    let options = qcow::CreateOptions { size, backing_file: None };
    let image = made(async |file| qcow::create(file, &options).await);
    each(Format::Qcow, image, &|file| block_on(qcow::open(file, None)));
    let options = vhdx::CreateOptions { size, block_size: 1 << 20, ..Default::default() };
    let image = made(async |file| vhdx::create(file, &options).await);
    each(Format::Vhdx, image, &|file| block_on(vhdx::open(file)));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vmdk");
    block_on(vmdk::create(&path, &vmdk::CreateOptions { size, ..Default::default() })).unwrap();
    let image = std::fs::read(&path).unwrap();
    each(Format::Vmdk, image, &|file| block_on(vmdk::open(file, &path, FileOptions::default())));
}

#[test]
fn a_crash_loses_nothing_that_was_flushed() {
    each_format(|format, image, open| crash(format.name(), image, &vec![0; DISK], open));
}

/// Requests that nobody waits for any more leave an image whole, and what is written later counts.
#[test]
fn requests_that_are_given_up() {
    let mut random = Random(41);
    each_format(|format, image, open| {
        let recorder = Recorder { bytes: Mutex::new(image), steps: Arc::default(), is_slow: true };
        let file = Node::new("file", recorder);
        let node = Node::of("disk", open(file.clone()).unwrap());
        let mut disk = vec![0; node.length() as usize];
        let polls = |random: &mut Random| random.below(40);
        for _ in 0..200 {
            let at = random.below(DISK as u64 - 100_000);
            let part = 1 + random.below(90_000) as usize;
            let data = random.bytes(part);
            give_up(node.write_bytes(at, &data), polls(&mut random));
            give_up(node.write_zeroes(at / 2, 5000, ZeroFlags::MAY_UNMAP), polls(&mut random));
            give_up(node.flush(), polls(&mut random));
        }
        for (index, part) in disk.chunks_mut(700_000).enumerate() {
            part.copy_from_slice(&random.bytes(part.len()));
            block_on(node.write_bytes(index as u64 * 700_000, part)).unwrap();
        }
        assert_reads(&node, &disk, format.name());
        block_on(node.close()).unwrap();
        let Some(recorder) = file.driver_as::<Recorder>() else { panic!("the file is what it was") };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("image"), &*recorder.bytes.lock().unwrap()).unwrap();
        assert_qemu_agrees(folder.path(), "image", format.name(), &disk, false);
    });
}

/// Has a request go on so many times, and gives it up.
fn give_up(request: impl Future<Output = Result<(), Error>>, polls: u64) {
    let mut request = std::pin::pin!(request);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for _ in 0..polls {
        if let Poll::Ready(result) = request.as_mut().poll(&mut context) {
            return result.unwrap();
        }
    }
}

/// Where part of a cluster is copied from the image behind, what was there before is not lost either.
#[test]
fn a_crash_loses_nothing_of_the_image_behind() {
    let behind = Random(31).bytes(DISK);
    let options = qcow::CreateOptions { size: behind.len() as u64, backing_file: Some("behind".into()) };
    let open = |file| {
        let backing = Node::new("behind", MemoryDisk::new(behind.clone(), true));
        block_on(qcow::open(file, Some(backing)))
    };
    crash("qcow with one behind", made(async |file| qcow::create(file, &options).await), &behind, open);
}
