//! Many requests at once: what is under way, in which order replies come, and what they are made of.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_executor::block_on;
use futures_util::future::join_all;
use tokio::sync::Semaphore;

use super::support::*;
use crate::driver::{Driver, Status, StatusKind, ZeroFlags};
use crate::nbd::server::{RemoveMode, Server};
use crate::nbd::wire::*;
use crate::{Backend, Error, IoVector, MemoryDisk, Node};

const MIB: u64 = 1 << 20;

/// A disk of zeros that serves reads when it is told to, and notes what is asked of it.
struct Gate {
    length: u64,
    open: Arc<Semaphore>,
    reading: Arc<AtomicUsize>,
    flushes: Arc<AtomicUsize>,
}

impl Gate {
    fn new(length: u64) -> Gate {
        Gate { length, open: Arc::new(Semaphore::new(0)), reading: Arc::default(), flushes: Arc::default() }
    }
}

#[async_trait]
impl Driver for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }
    fn length(&self) -> u64 {
        self.length
    }
    fn is_read_only(&self) -> bool {
        false
    }
    async fn read(&self, offset: u64, to: IoVector) -> Result<(), Error> {
        // The first megabyte is always there.
        if offset >= MIB {
            self.reading.fetch_add(to.len(), Ordering::SeqCst);
            self.open.acquire().await.unwrap().forget();
            self.reading.fetch_sub(to.len(), Ordering::SeqCst);
        }
        assert!(offset != 13, "a mistake of the driver");
        to.fill(offset as u8);
        Ok(())
    }
    async fn write(&self, _offset: u64, _from: IoVector) -> Result<(), Error> {
        Ok(())
    }
    async fn flush(&self) -> Result<(), Error> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    async fn status(&self, offset: u64, length: u64) -> Result<Status, Error> {
        // Every other 64 KiB of the first megabyte is a hole.
        let block = offset / 65536;
        let is_hole = block < 16 && block % 2 == 1;
        let length = if block < 16 { ((block + 1) * 65536 - offset).min(length) } else { length };
        let kind = if is_hole { StatusKind::Zero } else { StatusKind::Data };
        Ok(Status { length, kind, is_here: true, file_offset: None, is_compressed: false })
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

struct Fixture {
    place: Place,
    server: Server,
    backend: Arc<Backend>,
    open: Arc<Semaphore>,
    reading: Arc<AtomicUsize>,
    flushes: Arc<AtomicUsize>,
}

impl Fixture {
    fn new() -> Fixture {
        let place = Place::new();
        let gate = Gate::new(256 * MIB);
        let (open, reading, flushes) = (gate.open.clone(), gate.reading.clone(), gate.flushes.clone());
        let backend = Backend::new(Node::new("gate", gate));
        let server = start(&place.address());
        server.add(writable("disk", backend.clone())).unwrap();
        Fixture { place, server, backend, open, reading, flushes }
    }

    /// A connection with structured replies and the context of holes.
    fn transmission(&self) -> UnixStream {
        let mut stream = UnixStream::connect(self.place.path("socket")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut bytes = 3_u32.to_be_bytes().to_vec();
        let mut option = |option: u32, data: &[u8]| {
            OptionHeader { option, length: data.len() as u32 }.encode(&mut bytes);
            bytes.extend_from_slice(data);
        };
        option(NBD_OPT_STRUCTURED_REPLY, &[]);
        option(NBD_OPT_GO, &[&[0, 0, 0, 4][..], b"disk", &[0, 0]].concat());
        stream.write_all(&bytes).unwrap();
        stream.read_exact(&mut [0; 18]).unwrap();
        loop {
            let mut header = [0; OptionReplyHeader::LENGTH];
            stream.read_exact(&mut header).unwrap();
            let header = OptionReplyHeader::decode(&header).unwrap();
            stream.read_exact(&mut vec![0; header.length as usize]).unwrap();
            if header.option == NBD_OPT_GO && header.reply == NBD_REP_ACK {
                return stream;
            }
        }
    }
}

fn send(stream: &mut UnixStream, flags: CommandFlags, command: u16, cookie: u64, offset: u64, length: u64) {
    let header = RequestHeader { flags: flags.bits(), command, cookie, offset, length };
    send_all(stream, [header]);
}

/// Sends them at once: one by one, they would take more room in the socket than it has.
fn send_all(stream: &mut UnixStream, headers: impl IntoIterator<Item = RequestHeader>) {
    let mut bytes = Vec::new();
    headers.into_iter().for_each(|header| header.encode(Headers::Structured, &mut bytes));
    stream.write_all(&bytes).unwrap();
}

/// The next chunk, and what is in it.
fn receive(stream: &mut UnixStream) -> (ChunkHeader, Vec<u8>) {
    let mut header = [0; 20];
    stream.read_exact(&mut header).unwrap();
    let ReplyHeader::Chunk(header) = ReplyHeader::decode(*header.first_chunk().unwrap(), &header[4..]).unwrap() else {
        panic!("a simple reply");
    };
    let mut payload = vec![0; header.length as usize];
    stream.read_exact(&mut payload).unwrap();
    (header, payload)
}

#[test]
fn replies_overtake_one_another() {
    let fixture = Fixture::new();
    let mut stream = fixture.transmission();
    send(&mut stream, CommandFlags::empty(), NBD_CMD_READ, 1, 2 * MIB, 512);
    send(&mut stream, CommandFlags::empty(), NBD_CMD_READ, 2, 7, 512);
    send(&mut stream, CommandFlags::empty(), NBD_CMD_FLUSH, 3, 0, 0);
    let mut first = [receive(&mut stream).0.cookie, receive(&mut stream).0.cookie];
    first.sort_unstable();
    assert_eq!(first, [2, 3]);
    fixture.open.add_permits(1);
    assert_eq!(receive(&mut stream).0.cookie, 1);
    block_on(fixture.server.stop());
}

#[test]
fn a_connection_takes_no_more_memory_than_it_may() {
    let fixture = Fixture::new();
    let mut streams = [fixture.transmission(), fixture.transmission()];
    let read = |flags: CommandFlags, cookie, offset, length| RequestHeader {
        flags: flags.bits(),
        command: NBD_CMD_READ,
        cookie,
        offset,
        length,
    };
    for stream in &mut streams {
        let large = |cookie| read(CommandFlags::NBD_CMD_FLAG_DF, cookie, (1 + cookie) * MIB, MIB);
        send_all(stream, (0..100).map(large));
    }
    let expected = 2 * 64 * MIB as usize;
    wait_until("reads", || fixture.reading.load(Ordering::SeqCst) == expected);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(fixture.reading.load(Ordering::SeqCst), expected);
    // Small ones count, too.
    let mut third = fixture.transmission();
    send_all(&mut third, (0..500).map(|cookie| read(CommandFlags::empty(), cookie, 2 * MIB, 1)));
    wait_until("reads", || fixture.reading.load(Ordering::SeqCst) == expected + 128);
    // All are served in the end.
    fixture.open.add_permits(700);
    for (stream, count) in streams.iter_mut().zip([100, 100]).chain([(&mut third, 500)]) {
        for _ in 0..count {
            assert_eq!(receive(stream).0.kind, NBD_REPLY_TYPE_OFFSET_DATA);
        }
    }
    block_on(fixture.server.stop());
}

#[test]
fn a_stop_waits_for_what_is_under_way() {
    let Fixture { server, backend, open, reading, place, .. } = Fixture::new();
    let client = connect(options(&place.address(), "disk"));
    let request = std::thread::spawn(move || soon("read", client.read(MIB, IoVector::zeroed(512))));
    wait_until("a read", || reading.load(Ordering::SeqCst) == 512);
    let stopping = std::thread::spawn(move || {
        block_on(server.remove("disk", RemoveMode::Hard)).unwrap();
        assert_eq!(Arc::strong_count(&backend), 1);
        block_on(server.stop());
    });
    std::thread::sleep(Duration::from_millis(100));
    assert!(!stopping.is_finished());
    open.add_permits(1);
    stopping.join().unwrap();
    // Its client was told at once that the connection is over.
    assert!(request.join().unwrap().is_err());
}

#[test]
fn reads_have_holes_unless_they_must_not() {
    let fixture = Fixture::new();
    let mut stream = fixture.transmission();
    send(&mut stream, CommandFlags::empty(), NBD_CMD_READ, 1, 32768, 3 * 65536);
    let mut at = 32768;
    for (kind, length, is_last) in [
        (NBD_REPLY_TYPE_OFFSET_DATA, 32768, false),
        (NBD_REPLY_TYPE_OFFSET_HOLE, 65536, false),
        (NBD_REPLY_TYPE_OFFSET_DATA, 65536, false),
        (NBD_REPLY_TYPE_OFFSET_HOLE, 32768, true),
    ] {
        let (header, payload) = receive(&mut stream);
        let flags = if is_last { ReplyFlags::NBD_REPLY_FLAG_DONE } else { ReplyFlags::empty() };
        assert_eq!((header.kind, header.flags), (kind, flags), "{at}");
        assert_eq!(payload[..8], u64::to_be_bytes(at));
        match kind {
            NBD_REPLY_TYPE_OFFSET_HOLE => assert_eq!(payload[8..], u32::to_be_bytes(length)),
            _ => assert_eq!(payload.len(), 8 + length as usize),
        }
        at += u64::from(length);
    }
    send(&mut stream, CommandFlags::NBD_CMD_FLAG_DF, NBD_CMD_READ, 2, 32768, 3 * 65536);
    let (header, payload) = receive(&mut stream);
    assert_eq!((header.kind, header.flags), (NBD_REPLY_TYPE_OFFSET_DATA, ReplyFlags::NBD_REPLY_FLAG_DONE));
    assert_eq!(payload.len(), 8 + 3 * 65536);
    block_on(fixture.server.stop());
}

#[test]
fn what_is_forced_is_flushed() {
    let fixture = Fixture::new();
    let mut stream = fixture.transmission();
    let fua = CommandFlags::NBD_CMD_FLAG_FUA;
    let commands = [NBD_CMD_WRITE, NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES, NBD_CMD_READ, NBD_CMD_CACHE, NBD_CMD_FLUSH];
    for (command, flushes) in commands.into_iter().zip([1, 2, 3, 3, 3, 4]) {
        let length = if command == NBD_CMD_FLUSH { 0 } else { 512 };
        send(&mut stream, fua, command, 1, 0, length);
        if command == NBD_CMD_WRITE {
            stream.write_all(&[0; 512]).unwrap();
        }
        let (header, _) = receive(&mut stream);
        assert!(header.kind & NBD_REPLY_TYPE_FLAG_ERROR == 0, "{command}");
        assert_eq!(fixture.flushes.load(Ordering::SeqCst), flushes, "{command}");
    }
    block_on(fixture.server.stop());
}

#[test]
fn a_driver_that_panics_ends_the_connection_alone() {
    let fixture = Fixture::new();
    let mut stream = fixture.transmission();
    send(&mut stream, CommandFlags::empty(), NBD_CMD_READ, 1, 13, 512);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let client = connect(options(&fixture.place.address(), "disk"));
    soon("read", client.read(0, IoVector::zeroed(512))).unwrap();
    block_on(fixture.server.stop());
}

#[test]
fn a_client_sends_many_requests_and_takes_replies_in_any_order() {
    let fixture = Fixture::new();
    let client = connect(options(&fixture.place.address(), "disk"));
    let slow = (0..60).map(|index| client.read((1 + index) * MIB, IoVector::zeroed(4096)));
    let fast = async {
        for _ in 0..100 {
            client.read(7, IoVector::zeroed(4096)).await.unwrap();
        }
        fixture.open.add_permits(60);
    };
    let (slow, ()) = soon("reads", async { tokio::join!(join_all(slow), fast) });
    assert!(slow.iter().all(Result::is_ok));
    // A request that is given up hurts nobody.
    let given_up = async {
        tokio::select! {
            _ = client.read(MIB, IoVector::zeroed(4096)) => panic!("it was not to be served"),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    };
    soon("time", given_up);
    fixture.open.add_permits(1);
    soon("read", client.read(7, IoVector::zeroed(4096))).unwrap();
    block_on(fixture.server.stop());
}

#[test]
fn a_disk_that_must_write_its_zeros_is_copied_to() {
    let place = Place::new();
    let mut content = pattern(4 << 20, 70);
    content[1 << 20..3 << 20].fill(0);
    let image = place.file("disk", &content);
    for copy in
        [&["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw"][..], &["nbdcopy", "--allocated", "--"], &["nbdcopy"]]
    {
        let backend = Backend::new(Node::new("memory", MemoryDisk::new(vec![0xff; content.len()], false)));
        let server = start(&place.address());
        server.add(writable("disk", backend.clone())).unwrap();
        run(copy[0], &[&copy[1..], &[&image, &place.uri("disk")]].concat());
        block_on(server.stop());
        assert!(backend.node().unwrap().driver_as::<MemoryDisk>().unwrap().bytes() == content, "{copy:?}");
    }
}

#[test]
fn stretches_of_more_than_four_gigabytes() {
    let place = Place::new();
    let length = 6_u64 << 30;
    let image = place.file("disk", &[]);
    std::fs::File::options().write(true).open(&image).unwrap().set_len(length).unwrap();
    let mut nbdkit = std::process::Command::new("nbdkit");
    nbdkit.args(["-f", "-U", &place.path("socket"), "memory", "6G"]).stdin(std::process::Stdio::null());
    let _nbdkit = Background::start(&mut nbdkit);
    let server = start(&any_port());
    server.add(writable("", disk(&image, false))).unwrap();
    for address in [place.address(), server.address().clone()] {
        let client = connect(options(&address, ""));
        soon("write", client.write(5 << 30, IoVector::copy_of(&[7; 512]))).unwrap();
        soon("write zeroes", client.write_zeroes(0, length, ZeroFlags::MAY_UNMAP)).unwrap();
        soon("discard", client.discard(0, length)).unwrap();
        let memory = IoVector::copy_of(&[9; 512]);
        soon("read", client.read(5 << 30, memory.clone())).unwrap();
        assert!(memory.is_zero());
        let mut at = 0;
        while at < length {
            let status = soon("status", client.node().unwrap().status(at, length - at)).unwrap();
            assert!(status.kind.is_zero() && status.length > 0, "{address} {at} {status:?}");
            at += status.length;
        }
    }
    block_on(server.stop());
}
