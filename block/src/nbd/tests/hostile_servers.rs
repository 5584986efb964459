//! Servers that mean no good: the client's requests fail, and that is all.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::support::*;
use crate::nbd::wire::*;
use crate::nbd::{Client, ClientOptions, Target};
use crate::{Driver, Error, IoVector};

const LENGTH: u64 = 1 << 20;

/// A server that does what a test says with each connection.
struct Scripted {
    place: Place,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Scripted {
    fn new(mut script: impl FnMut(&mut UnixStream) -> std::io::Result<()> + Send + 'static) -> Scripted {
        let place = Place::new();
        let listener = UnixListener::bind(place.path("socket")).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let over = over.clone();
            move || {
                while let Ok((mut stream, _)) = listener.accept() {
                    if over.load(Ordering::Acquire) {
                        return;
                    }
                    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                    // The client may be gone before the script is over.
                    let _ = script(&mut stream);
                }
            }
        });
        Scripted { place, over, thread: Some(thread) }
    }

    fn connect(&self) -> Result<Client, Error> {
        soon("connect", Client::connect(ClientOptions::new(Target::new(self.place.address(), "disk"))))
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        let _ = UnixStream::connect(self.place.path("socket"));
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok());
        }
    }
}

fn reply(to: u32, reply: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    OptionReplyHeader { option: to, reply, length: data.len() as u32 }.encode(&mut bytes);
    bytes.extend_from_slice(data);
    bytes
}

fn greeting() -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.u64(NBDMAGIC).u64(IHAVEOPT).u16(3);
    bytes
}

/// The replies of a server that does all we ask for.
fn good_replies(headers: Headers) -> Vec<u8> {
    let mut bytes = Vec::new();
    match headers {
        Headers::Extended => bytes.extend(reply(NBD_OPT_EXTENDED_HEADERS, NBD_REP_ACK, &[])),
        _ => {
            bytes.extend(reply(NBD_OPT_EXTENDED_HEADERS, NBD_REP_ERR_UNSUP, &[]));
            let answer = if headers == Headers::Simple { NBD_REP_ERR_UNSUP } else { NBD_REP_ACK };
            bytes.extend(reply(NBD_OPT_STRUCTURED_REPLY, answer, &[]));
        }
    }
    if headers != Headers::Simple {
        let mut context = Vec::new();
        context.u32(5).bytes(b"base:allocation");
        bytes.extend(reply(NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT, &context));
        bytes.extend(reply(NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, &[]));
    }
    let (mut info, mut blocks) = (Vec::new(), Vec::new());
    blocks.u16(NBD_INFO_BLOCK_SIZE).u32(1).u32(4096).u32(32 << 20);
    bytes.extend(reply(NBD_OPT_GO, NBD_REP_INFO, &blocks));
    info.u16(NBD_INFO_EXPORT).u64(LENGTH).u16(0xfed);
    bytes.extend(reply(NBD_OPT_GO, NBD_REP_INFO, &info));
    bytes.extend(reply(NBD_OPT_GO, NBD_REP_ACK, &[]));
    bytes
}

/// Answers the handshake, and gives the header of the first request.
fn until_request(stream: &mut UnixStream, headers: Headers) -> std::io::Result<RequestHeader> {
    stream.write_all(&greeting())?;
    stream.write_all(&good_replies(headers))?;
    stream.read_exact(&mut [0; 4])?;
    loop {
        let mut header = [0; OptionHeader::LENGTH];
        stream.read_exact(&mut header)?;
        let header = OptionHeader::decode(&header).unwrap();
        stream.read_exact(&mut vec![0; header.length as usize])?;
        if header.option == NBD_OPT_GO {
            break;
        }
    }
    let mut header = vec![0; RequestHeader::length_of(headers)];
    stream.read_exact(&mut header)?;
    Ok(RequestHeader::decode(&header, headers).unwrap())
}

fn read(client: &Client) -> Result<Vec<u8>, Error> {
    let memory = IoVector::zeroed(4096);
    soon("read", client.read(8192, memory.clone())).map(|()| memory.to_vec())
}

fn chunk(headers: Headers, kind: u16, cookie: u64, length: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let flags = ReplyFlags::NBD_REPLY_FLAG_DONE;
    ChunkHeader { flags, kind, cookie, offset: 8192, length }.encode(headers, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn what_a_good_server_says_is_understood() {
    for headers in [Headers::Simple, Headers::Structured, Headers::Extended] {
        let server = Scripted::new(move |stream| {
            let request = until_request(stream, headers)?;
            let mut bytes = Vec::new();
            if headers == Headers::Simple {
                ReplyHeader::encode_simple(0, request.cookie, &mut bytes);
            } else {
                bytes = chunk(headers, NBD_REPLY_TYPE_OFFSET_DATA, request.cookie, 8 + 4096, &8192_u64.to_be_bytes());
            }
            bytes.extend([7; 4096]);
            stream.write_all(&bytes)?;
            stream.read_exact(&mut [0])
        });
        let client = server.connect().unwrap();
        assert_eq!(read(&client).unwrap(), [7; 4096], "{headers:?}");
    }
}

#[test]
fn replies_that_were_not_asked_for() {
    let bytes = |numbers: &[u64]| numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>();
    let far = |kind: u16, length: u64, payload: Vec<u8>| (kind, 0_u64, length, payload);
    let cases: Vec<(u16, u64, u64, Vec<u8>)> = vec![
        // Another request.
        (NBD_REPLY_TYPE_NONE, 1, 0, Vec::new()),
        // More than was asked for, elsewhere, or nothing.
        far(NBD_REPLY_TYPE_OFFSET_DATA, u64::from(u32::MAX), bytes(&[8192])),
        far(NBD_REPLY_TYPE_OFFSET_DATA, 8 + 4097, bytes(&[8192])),
        far(NBD_REPLY_TYPE_OFFSET_DATA, 8 + 4096, bytes(&[8191])),
        far(NBD_REPLY_TYPE_OFFSET_DATA, 8 + 16, bytes(&[u64::MAX])),
        far(NBD_REPLY_TYPE_OFFSET_DATA, 8, bytes(&[8192])),
        far(NBD_REPLY_TYPE_OFFSET_DATA, 0, Vec::new()),
        far(NBD_REPLY_TYPE_OFFSET_HOLE, 12, [bytes(&[8192]), vec![0xff; 4]].concat()),
        far(NBD_REPLY_TYPE_OFFSET_HOLE, 12, [bytes(&[8192]), vec![0; 4]].concat()),
        // Not all of it.
        far(NBD_REPLY_TYPE_NONE, 0, Vec::new()),
        far(NBD_REPLY_TYPE_OFFSET_DATA, 8 + 8, bytes(&[8192, 0])),
        far(NBD_REPLY_TYPE_OFFSET_HOLE, 12, [bytes(&[8192]), vec![0, 0, 1, 0]].concat()),
        // Not to this command, or unknown, or endless.
        far(NBD_REPLY_TYPE_BLOCK_STATUS, 12, vec![0; 12]),
        far(77, 4, vec![0; 4]),
        far(NBD_REPLY_TYPE_ERROR, 2, vec![0; 2]),
        far(NBD_REPLY_TYPE_ERROR, 6, vec![0, 0, 0, 5, 0xff, 0xff]),
        far(NBD_REPLY_TYPE_ERROR, 1 << 31, vec![0; 64]),
    ];
    for (kind, wrong, length, payload) in cases {
        for headers in [Headers::Structured, Headers::Extended] {
            let sent = payload.clone();
            let server = Scripted::new(move |stream| {
                let request = until_request(stream, headers)?;
                stream.write_all(&chunk(headers, kind, request.cookie + wrong, length, &sent))?;
                // The client ends it; not because we did.
                stream.read_exact(&mut [0; 1])
            });
            let client = server.connect().unwrap();
            let error = read(&client).unwrap_err();
            assert!(error.to_string().contains("the connection was lost"), "{kind} {length} {headers:?}: {error}");
        }
    }
}

#[test]
fn an_error_with_a_text_is_told() {
    let server = Scripted::new(|stream| {
        let request = until_request(stream, Headers::Extended)?;
        let mut payload = Vec::new();
        payload.u32(NBD_EPERM).u16(10).bytes(b"not today\x1b");
        let length = payload.len() as u64;
        stream.write_all(&chunk(Headers::Extended, NBD_REPLY_TYPE_ERROR, request.cookie, length, &payload))?;
        stream.read_exact(&mut [0])
    });
    let client = server.connect().unwrap();
    let error = read(&client).unwrap_err();
    let text = "the NBD server could not read: Operation not permitted (not today\u{fffd})";
    assert_eq!((error.to_string().as_str(), error.errno()), (text, libc::EPERM));
}

#[test]
fn handshakes_that_stop_anywhere() {
    let whole = [greeting(), good_replies(Headers::Extended)].concat();
    let length = whole.len();
    let mut sent = 0;
    let server = Scripted::new(move |stream| {
        stream.write_all(&whole[..sent])?;
        sent += 1;
        stream.shutdown(std::net::Shutdown::Write)?;
        while stream.read(&mut [0; 512])? > 0 {}
        Ok(())
    });
    for cut in 0..length {
        assert!(server.connect().is_err(), "{cut}");
    }
    server.connect().unwrap();
}

#[test]
fn exports_that_cannot_be() {
    let export = |length: u64, blocks: [u32; 3]| {
        let (mut info, mut constraints) = (Vec::new(), Vec::new());
        info.u16(NBD_INFO_EXPORT).u64(length).u16(0xfed);
        constraints.u16(NBD_INFO_BLOCK_SIZE).u32(blocks[0]).u32(blocks[1]).u32(blocks[2]);
        let no = |option| reply(option, NBD_REP_ERR_UNSUP, &[]);
        let told = [info, constraints].map(|data| reply(NBD_OPT_GO, NBD_REP_INFO, &data)).concat();
        let done = reply(NBD_OPT_GO, NBD_REP_ACK, &[]);
        [greeting(), no(NBD_OPT_EXTENDED_HEADERS), no(NBD_OPT_STRUCTURED_REPLY), told, done].concat()
    };
    let no = |option| reply(option, NBD_REP_ERR_UNSUP, &[]);
    let start = [greeting(), no(NBD_OPT_EXTENDED_HEADERS)].concat();
    let many = reply(NBD_OPT_STRUCTURED_REPLY, NBD_REP_INFO, &[]).repeat(2000);
    let mut long = start.clone();
    OptionReplyHeader { option: NBD_OPT_STRUCTURED_REPLY, reply: NBD_REP_INFO, length: u32::MAX }.encode(&mut long);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (export(u64::MAX, [1, 4096, 4096]), "less than 2^63"),
        (export(1000, [512, 4096, 4096]), "not a multiple"),
        (export(4096, [0, 4096, 4096]), "powers of two"),
        (export(4096, [3, 4096, 4096]), "powers of two"),
        (export(4096, [1 << 20, 1 << 20, 1 << 20]), "powers of two"),
        (export(4096, [4096, 4096, 512]), "powers of two"),
        ([start.clone(), many].concat(), "more than 1024 replies"),
        (long, "valid are at most"),
        ([start, no(NBD_OPT_LIST)].concat(), "a reply to option 3"),
        (b"SSH-2.0-OpenSSH_9.2 or so, and more".to_vec(), "no NBD server"),
    ];
    for (sent, expected) in cases {
        let server = Scripted::new(move |stream| {
            stream.write_all(&sent)?;
            while stream.read(&mut [0; 512])? > 0 {}
            Ok(())
        });
        let error = server.connect().err().unwrap().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn garbage_of_all_kinds() {
    let mut random = Random(50);
    let server = Scripted::new(move |stream| {
        let headers = [Headers::Simple, Headers::Structured, Headers::Extended][random.below(3) as usize];
        let garbage = pattern(random.below(400) as usize, random.next());
        match random.below(3) {
            // From the beginning.
            0 => stream.write_all(&garbage),
            // One byte is another.
            1 => {
                let mut bytes = [greeting(), good_replies(headers)].concat();
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.next() as u8;
                stream.write_all(&bytes)
            }
            // Replies that look like some.
            _ => {
                let request = until_request(stream, headers)?;
                for _ in 0..4 {
                    let kind = [0, 1, 2, 5, 6, 0x8001, 0x8002, random.next() as u16][random.below(8) as usize];
                    let length = if random.below(4) == 0 { random.next() } else { random.below(100) };
                    let mut bytes = Vec::new();
                    let flags = ReplyFlags::from_bits_truncate(random.below(2) as u16);
                    let (cookie, offset) = (request.cookie, request.offset);
                    ChunkHeader { flags, kind, cookie, offset, length }.encode(headers, &mut bytes);
                    bytes.extend((8192 + random.below(5000)).to_be_bytes());
                    bytes.extend(pattern(random.below(100) as usize, random.next()));
                    stream.write_all(&bytes)?;
                }
                Ok(())
            }
        }
    });
    let start = Instant::now();
    for _ in 0..4000 {
        if start.elapsed() > Duration::from_secs(4) {
            break;
        }
        if let Ok(client) = server.connect() {
            // Whatever comes of it.
            let _ = read(&client);
        }
    }
}

#[test]
fn a_server_that_breaks_each_connection_is_given_up() {
    let server = Scripted::new(|stream| until_request(stream, Headers::Extended).map(|_| ()));
    let target = Target::new(server.place.address(), "disk");
    let delay = Duration::from_millis(500);
    let options = ClientOptions { reconnect_delay: delay, ..ClientOptions::new(target) };
    let client = soon("connect", Client::connect(options)).unwrap();
    let before = Instant::now();
    assert!(read(&client).is_err());
    assert!(before.elapsed() >= delay / 2);
}

#[test]
fn a_server_that_says_nothing_is_not_waited_for() {
    let server = Scripted::new(|stream| stream.read_exact(&mut [0]));
    let timeout = Duration::from_millis(200);
    let target = Target::new(server.place.address(), "disk");
    let connecting = Client::connect(ClientOptions { open_timeout: timeout, ..ClientOptions::new(target) });
    let error = soon("connect", connecting).err().unwrap().to_string();
    assert!(error.contains("has not answered within 200ms"), "{error}");
}
