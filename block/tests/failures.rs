//! Requests of which a part fails.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use block::qcow2::{self, Files, ImageUse, Metadata, Qcow2};
use block::{Driver, Error, IoVector, MemoryDisk, Node, Preallocation, ZeroFlags, Zeroed, vdi};
use futures_executor::block_on;

/// What a request to a file is to come to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    Failed,
    /// It takes its time.
    Waiting,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
}

/// Says what becomes of a request: kind, offset and length.
type Plan = Box<dyn FnMut(Kind, u64, usize) -> Fate + Send>;

/// A file in memory whose requests go as they are told to.
#[derive(Clone)]
struct Faulty {
    disk: Arc<MemoryDisk>,
    alignment: usize,
    plan: Arc<Mutex<Option<Plan>>>,
}

impl Faulty {
    fn new(bytes: Vec<u8>) -> Faulty {
        Faulty { disk: Arc::new(MemoryDisk::new(bytes, false)), alignment: 1, plan: Arc::default() }
    }

    /// What becomes of requests from now on.
    fn plan(&self, plan: impl FnMut(Kind, u64, usize) -> Fate + Send + 'static) {
        *self.plan.lock().unwrap() = Some(Box::new(plan));
    }

    /// All goes well from now on, also for those that wait.
    fn heal(&self) {
        *self.plan.lock().unwrap() = None;
    }

    async fn meet(&self, kind: Kind, offset: u64, length: usize) -> Result<(), Error> {
        let fate = self.plan.lock().unwrap().as_mut().map_or(Fate::Done, |plan| plan(kind, offset, length));
        if fate == Fate::Failed {
            return Err(Error::host("write", std::io::Error::from_raw_os_error(5)));
        }
        poll_fn(|_| match fate == Fate::Waiting && self.plan.lock().unwrap().is_some() {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        })
        .await
    }
}

#[async_trait]
impl Driver for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }
    fn length(&self) -> u64 {
        self.disk.length()
    }
    fn is_read_only(&self) -> bool {
        false
    }
    fn alignment(&self) -> usize {
        self.alignment
    }
    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        self.meet(Kind::Read, offset, to.len()).await?;
        self.disk.read(offset, to).await
    }
    async fn write(&self, offset: u64, from: IoVector) -> Result<(), Error> {
        self.meet(Kind::Write, offset, from.len()).await?;
        self.disk.write(offset, from).await
    }
    async fn write_zeroes(&self, offset: u64, length: u64, _flags: ZeroFlags) -> Result<Zeroed, Error> {
        self.disk.write(offset, IoVector::zeroed(length as usize)).await?;
        Ok(Zeroed::Done)
    }
    async fn flush(&self) -> Result<(), Error> {
        self.meet(Kind::Flush, 0, 0).await
    }
    async fn truncate(&self, length: u64, preallocation: Preallocation) -> Result<(), Error> {
        self.disk.truncate(length, preallocation).await
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

const CLUSTER: usize = 65536;

async fn open_qcow2(file: &Faulty) -> Arc<Node> {
    let node = Node::new("file", file.clone());
    let metadata = Metadata::read(&node).await.unwrap();
    let files = Files { file: node, backing: None, data_file: None };
    Node::new("disk", Qcow2::open(files, metadata, ImageUse::default()).await.unwrap())
}

async fn new_qcow2(options: qcow2::CreateOptions) -> (Faulty, Arc<Node>) {
    let file = Faulty::new(Vec::new());
    qcow2::create(Node::new("file", file.clone()), None, &options).await.unwrap();
    let disk = open_qcow2(&file).await;
    (file, disk)
}

/// Polls a request once.
fn is_pending(request: std::pin::Pin<&mut (impl Future<Output = Result<(), Error>> + ?Sized)>) -> bool {
    request.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

/// Disks whose first two parts of `part` bytes are in places that do not follow one another.
async fn scattered() -> Vec<(&'static str, Faulty, Arc<Node>, usize)> {
    let (file, qcow2) = new_qcow2(qcow2::CreateOptions { size: 1 << 20, ..Default::default() }).await;
    let mut disks = vec![("qcow2", file, qcow2, CLUSTER)];
    let file = Faulty::new(Vec::new());
    let node = Node::new("file", file.clone());
    vdi::create(&node, &vdi::CreateOptions { size: 8 << 20, is_static: false }).await.unwrap();
    disks.push(("vdi", file, Node::of("disk", vdi::open(node).await.unwrap()), 1 << 20));
    for (_, _, disk, part) in &disks {
        for index in [1, 0] {
            disk.write_bytes((index * part) as u64, &vec![index as u8 + 1; *part]).await.unwrap();
        }
    }
    disks
}

#[test]
fn a_request_does_not_end_while_a_part_of_it_is_under_way() {
    block_on(async {
        for (name, file, disk, part) in scattered().await {
            // The part that comes first fails, the other takes its time.
            let plan = |wanted: Kind| {
                let mut is_first = true;
                move |kind: Kind, _: u64, _: usize| match kind == wanted {
                    true if std::mem::take(&mut is_first) => Fate::Failed,
                    true => Fate::Waiting,
                    false => Fate::Done,
                }
            };
            file.plan(plan(Kind::Read));
            let mut reading = pin!(disk.read(0, IoVector::zeroed(2 * part)));
            assert!(is_pending(reading.as_mut()), "{name}: a read");
            file.heal();
            assert!(reading.await.is_err(), "{name}: a read");
            if name == "qcow2" {
                // VDI writes one run after the other.
                file.plan(plan(Kind::Write));
                let mut writing = pin!(disk.write(0, IoVector::zeroed(2 * part)));
                assert!(is_pending(writing.as_mut()), "{name}: a write");
                file.heal();
                assert!(writing.await.is_err(), "{name}: a write");
            }
        }
    });
}

#[test]
fn zeros_are_not_undone_by_a_write_to_a_part_of_them() {
    block_on(async {
        let file = Faulty { alignment: 512, ..Faulty::new(vec![7; 4096]) };
        let disk = Node::new("disk", file.clone());
        file.plan(|kind, _, _| if kind == Kind::Write { Fate::Waiting } else { Fate::Done });
        // It has read what is around it, and is about to write that.
        let mut writing = pin!(disk.write(100, IoVector::copy_of(&[1; 10])));
        assert!(is_pending(writing.as_mut()));
        let mut zeroing = pin!(disk.write_zeroes(0, 4096, ZeroFlags::empty()));
        let is_waiting = is_pending(zeroing.as_mut());
        file.heal();
        writing.await.unwrap();
        if is_waiting {
            zeroing.await.unwrap();
        }
        let bytes = file.disk.bytes();
        assert!(bytes[..100].iter().chain(&bytes[110..]).all(|byte| *byte == 0));
    });
}

#[test]
fn a_header_that_could_not_be_written_costs_no_data() {
    /// Where the header has the disk's length and the place of the L1 table.
    const SIZE_FIELDS: u64 = 24;
    for fails_at_flush in [false, true] {
        block_on(async {
            let (file, disk) = new_qcow2(qcow2::CreateOptions { size: 1 << 20, ..Default::default() }).await;
            let (mut is_due, mut is_over) = (false, false);
            file.plan(move |kind, offset, _| {
                let is_header = kind == Kind::Write && offset == SIZE_FIELDS;
                let fails = !is_over && if fails_at_flush { is_due && kind == Kind::Flush } else { is_header };
                is_due |= is_header;
                is_over |= fails;
                if fails { Fate::Failed } else { Fate::Done }
            });
            assert!(disk.truncate(64 << 30, Preallocation::Off).await.is_err());
            file.heal();
            disk.write_bytes(0, &[1; 512]).await.unwrap();
            disk.flush().await.unwrap();
            let again = open_qcow2(&file).await;
            assert_eq!(again.length(), 1 << 20);
            assert_eq!(again.read_vec(0, 512).await.unwrap(), [1; 512], "failure at the flush: {fails_at_flush}");
        });
    }
}
