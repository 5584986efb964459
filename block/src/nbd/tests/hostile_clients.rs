//! Clients that mean no good: the server lives, and serves others.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use futures_executor::block_on;

use super::support::*;
use crate::nbd::server::{Server, ServerOptions};
use crate::nbd::wire::*;
use crate::{Backend, MemoryDisk, Node};

const LENGTH: usize = 1 << 20;

struct Fixture {
    place: Place,
    server: Server,
}

impl Fixture {
    fn new(options: ServerOptions) -> Fixture {
        let place = Place::new();
        let server = block_on(Server::start(&place.address(), options)).unwrap();
        let backend = Backend::new(Node::new("memory", MemoryDisk::new(pattern(LENGTH, 40), false)));
        server.add(writable("disk", backend)).unwrap();
        Fixture { place, server }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.place.path("socket")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// A connection that has got as far as requests.
    fn transmission(&self, headers: Headers) -> UnixStream {
        let mut stream = self.connect();
        stream.write_all(&good_handshake(headers)).unwrap();
        stream.read_exact(&mut [0; 18]).unwrap();
        loop {
            let mut header = [0; OptionReplyHeader::LENGTH];
            stream.read_exact(&mut header).unwrap();
            let header = OptionReplyHeader::decode(&header).unwrap();
            stream.read_exact(&mut vec![0; header.length as usize]).unwrap();
            if header.option == NBD_OPT_GO && header.reply == NBD_REP_ACK {
                return stream;
            }
            assert!(header.reply & NBD_REP_FLAG_ERROR == 0);
        }
    }

    /// Somebody else is served.
    fn serves(&self) {
        let uri = self.place.uri("disk");
        let printed = run("qemu-io", &["-f", "raw", "-c", "write -P 3 0 512", "-c", "read -P 3 0 512", &uri]);
        assert!(printed.contains("read 512/512"), "{printed}");
    }

    fn ends(self) {
        soon("stop", self.server.stop());
    }
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    OptionHeader { option, length: data.len() as u32 }.encode(&mut bytes);
    bytes.extend_from_slice(data);
    bytes
}

fn context_query(name: &str, query: &str) -> Vec<u8> {
    let mut data = Vec::new();
    data.u32(name.len() as u32).bytes(name.as_bytes()).u32(1).u32(query.len() as u32).bytes(query.as_bytes());
    data
}

/// All that a client sends until it has the export.
fn good_handshake(headers: Headers) -> Vec<u8> {
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    match headers {
        Headers::Simple => {}
        Headers::Structured => bytes.extend(option(NBD_OPT_STRUCTURED_REPLY, &[])),
        Headers::Extended => bytes.extend(option(NBD_OPT_EXTENDED_HEADERS, &[])),
    }
    if headers != Headers::Simple {
        bytes.extend(option(NBD_OPT_SET_META_CONTEXT, &context_query("disk", "base:allocation")));
    }
    let mut go = Vec::new();
    go.u32(4).bytes(b"disk").u16(0);
    bytes.extend(option(NBD_OPT_GO, &go));
    bytes
}

fn request(headers: Headers, flags: u16, command: u16, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    RequestHeader { flags, command, cookie: 1, offset, length }.encode(headers, &mut bytes);
    bytes
}

/// What comes until the server ends the connection.
fn rest(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // That it is reset with bytes of ours unread is an end, too.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

#[test]
fn handshakes_that_stop_anywhere() {
    let fixture = Fixture::new(ServerOptions::default());
    for headers in [Headers::Simple, Headers::Extended] {
        let whole = good_handshake(headers);
        for length in 0..whole.len() {
            let mut stream = fixture.connect();
            stream.write_all(&whole[..length]).unwrap();
            if length % 2 == 0 {
                // The other half stays open, and the server is to end it.
                stream.shutdown(Shutdown::Write).unwrap();
                rest(&mut stream);
            }
        }
    }
    fixture.serves();
    fixture.ends();
}

#[test]
fn options_that_are_too_long_or_too_many() {
    let fixture = Fixture::new(ServerOptions::default());
    // Passed over, and answered.
    let mut stream = fixture.connect();
    stream.write_all(&3_u32.to_be_bytes()).unwrap();
    stream.write_all(&option(NBD_OPT_LIST_META_CONTEXT, &vec![0; 100_000])).unwrap();
    stream.write_all(&option(NBD_OPT_ABORT, &[])).unwrap();
    let answer = rest(&mut stream);
    let reply = OptionReplyHeader::decode(&answer[18..38]).unwrap();
    assert_eq!((reply.option, reply.reply), (NBD_OPT_LIST_META_CONTEXT, NBD_REP_ERR_TOO_BIG));
    // Not waited for.
    for (kind, length) in
        [(NBD_OPT_INFO, u32::MAX), (NBD_OPT_INFO, 2 << 20), (NBD_OPT_EXPORT_NAME, 4097), (77, 1 << 30)]
    {
        let mut stream = fixture.connect();
        stream.write_all(&3_u32.to_be_bytes()).unwrap();
        let mut header = Vec::new();
        OptionHeader { option: kind, length }.encode(&mut header);
        stream.write_all(&header).unwrap();
        assert_eq!(rest(&mut stream).len(), 18, "{kind} {length}");
    }
    // Fields that say more than there is, or less.
    let mut stream = fixture.connect();
    stream.write_all(&3_u32.to_be_bytes()).unwrap();
    let bad: [(u32, &[u8]); 8] = [
        (NBD_OPT_LIST, &[1]),
        (NBD_OPT_STRUCTURED_REPLY, &[0, 0]),
        (NBD_OPT_INFO, &[]),
        (NBD_OPT_INFO, &[0xff; 4]),
        (NBD_OPT_INFO, &[0, 0, 0, 0, 0xff, 0xff]),
        (NBD_OPT_GO, &[0, 0, 0, 0, 0, 0, 7]),
        (NBD_OPT_GO, &[0, 0, 0, 1, 0xff, 0, 0]),
        (NBD_OPT_SET_META_CONTEXT, &[0; 8]),
    ];
    for (kind, data) in bad {
        stream.write_all(&option(kind, data)).unwrap();
    }
    stream.write_all(&option(NBD_OPT_STARTTLS, &[])).unwrap();
    stream.write_all(&option(NBD_OPT_ABORT, &[])).unwrap();
    let answers = rest(&mut stream);
    let mut answers = &answers[18..];
    let mut replies = Vec::new();
    while !answers.is_empty() {
        let header = OptionReplyHeader::decode(&answers[..20]).unwrap();
        answers = &answers[20 + header.length as usize..];
        replies.push(header.reply);
    }
    let mut expected = vec![NBD_REP_ERR_INVALID; bad.len()];
    expected.extend([NBD_REP_ERR_POLICY, NBD_REP_ACK]);
    assert_eq!(replies, expected);
    // Without end.
    let mut stream = fixture.connect();
    stream.write_all(&3_u32.to_be_bytes()).unwrap();
    let list = option(NBD_OPT_LIST, &[]);
    let mut reader = stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || rest(&mut reader).len());
    let sent = (0..100_000).take_while(|_| stream.write_all(&list).is_ok()).count();
    assert!(sent < 100_000);
    drop(stream);
    assert!(reading.join().unwrap() > 1000);
    fixture.serves();
    fixture.ends();
}

#[test]
fn garbage_of_all_kinds() {
    let fixture = Fixture::new(ServerOptions::default());
    let mut random = Random(41);
    let start = Instant::now();
    for round in 0..4000 {
        if start.elapsed() > Duration::from_secs(4) {
            break;
        }
        let headers = [Headers::Simple, Headers::Structured, Headers::Extended][random.below(3) as usize];
        let mut stream;
        let length = random.below(300) as usize;
        let mut garbage = pattern(length, random.next());
        match round % 4 {
            0 => stream = fixture.connect(),
            // Where an option may come: good headers, bad contents.
            1 => {
                stream = fixture.connect();
                stream.write_all(&3_u32.to_be_bytes()).unwrap();
                let mut options = Vec::new();
                for _ in 0..4 {
                    let kind = random.below(13) as u32;
                    options.extend(option(kind, &pattern(random.below(40) as usize, random.next())));
                }
                garbage = options;
            }
            // A handshake of which one byte is another.
            2 => {
                stream = fixture.connect();
                garbage = good_handshake(headers);
                let at = random.below(garbage.len() as u64) as usize;
                garbage[at] = random.next() as u8;
            }
            // Requests of all kinds.
            _ => {
                stream = fixture.transmission(headers);
                let mut requests = Vec::new();
                for _ in 0..4 {
                    let offset = if random.below(2) == 0 { random.next() } else { random.below(LENGTH as u64) };
                    let length = if random.below(4) == 0 { random.next() } else { random.below(5000) };
                    let flags = random.next() as u16 >> random.below(16);
                    requests.extend(request(headers, flags, random.below(10) as u16, offset, length));
                    requests.extend(pattern(random.below(100) as usize, random.next()));
                }
                garbage = requests;
            }
        }
        // The server may end the connection in the midst of it.
        let _ = stream.write_all(&garbage);
        if random.below(4) == 0 {
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(&mut [0; 100]);
        }
    }
    fixture.serves();
    fixture.ends();
}

#[test]
fn clients_that_never_read() {
    let fixture = Fixture::new(ServerOptions::default());
    let mut stuck = Vec::new();
    for headers in [Headers::Simple, Headers::Structured, Headers::Extended] {
        let mut stream = fixture.transmission(headers);
        stream.set_nonblocking(true).unwrap();
        let read = request(headers, 0, NBD_CMD_READ, 0, LENGTH as u64);
        // Until the server takes no more.
        let sent = (0..1_000_000).take_while(|_| stream.write_all(&read).is_ok()).count();
        assert!(sent < 1_000_000, "{headers:?}");
        stuck.push(stream);
    }
    fixture.serves();
    // Nor does that hold up the end.
    let before = Instant::now();
    fixture.ends();
    assert!(before.elapsed() < Duration::from_secs(20));
    drop(stuck);
}

#[test]
fn requests_that_cannot_be() {
    let fixture = Fixture::new(ServerOptions::default());
    let mut stream = fixture.transmission(Headers::Structured);
    let (length, fua) = (LENGTH as u64, 1);
    let bad = [
        (0, NBD_CMD_READ, length, 1, NBD_EINVAL),
        (0, NBD_CMD_READ, u64::MAX, 2, NBD_EINVAL),
        (0, NBD_CMD_WRITE_ZEROES, length - 1, 2, NBD_ENOSPC),
        (0, NBD_CMD_TRIM, 0, 1 << 21, NBD_EINVAL),
        (0, NBD_CMD_BLOCK_STATUS, 0, 0, NBD_EINVAL),
        (fua | 1 << 9, NBD_CMD_FLUSH, 0, 0, NBD_EINVAL),
        (1 << 4, NBD_CMD_READ, 0, 1, NBD_EINVAL),
        // A disk in memory has nothing faster than to write.
        (1 << 4, NBD_CMD_WRITE_ZEROES, 0, 512, NBD_ENOTSUP),
        (0, 99, 0, 0, NBD_EINVAL),
    ];
    for (flags, command, offset, length, error) in bad {
        stream.write_all(&request(Headers::Structured, flags, command, offset, length)).unwrap();
        let mut header = [0; 20];
        stream.read_exact(&mut header).unwrap();
        let ReplyHeader::Chunk(chunk) = ReplyHeader::decode(*header.first_chunk().unwrap(), &header[4..]).unwrap()
        else {
            panic!("a simple reply");
        };
        let mut payload = vec![0; chunk.length as usize];
        stream.read_exact(&mut payload).unwrap();
        assert_eq!((chunk.kind, &payload[..4]), (NBD_REPLY_TYPE_ERROR, &error.to_be_bytes()[..]), "{command}");
    }
    // More data than a request may have.
    stream.write_all(&request(Headers::Structured, 0, NBD_CMD_WRITE, 0, (32 << 20) + 1)).unwrap();
    assert!(rest(&mut stream).is_empty());
    fixture.serves();
    fixture.ends();
}

#[test]
fn a_client_without_an_export_must_go() {
    let limit = Duration::from_millis(300);
    let fixture =
        Fixture::new(ServerOptions { handshake_limit: limit, max_connections: 2, ..ServerOptions::default() });
    // All places are taken by clients that say nothing, or little by little.
    let mut silent = fixture.connect();
    let mut slow = fixture.connect();
    let before = Instant::now();
    for byte in good_handshake(Headers::Simple) {
        if slow.write_all(&[byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(before.elapsed() >= limit);
    assert_eq!((rest(&mut silent).len(), rest(&mut slow).len()), (18, 18));
    fixture.serves();
    // Clients with an export may take their time; others wait for a place.
    let held = [fixture.transmission(Headers::Simple), fixture.transmission(Headers::Simple)];
    let mut third = fixture.connect();
    third.set_read_timeout(Some(limit)).unwrap();
    assert!(third.read(&mut [0]).is_err());
    drop(held);
    third.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    third.read_exact(&mut [0; 18]).unwrap();
    drop(third);
    fixture.ends();
}

#[test]
fn an_old_client_gets_its_zeros() {
    let fixture = Fixture::new(ServerOptions::default());
    for (flags, zeros) in [(0_u32, 124), (1, 124), (3, 0)] {
        let mut stream = fixture.connect();
        stream.write_all(&flags.to_be_bytes()).unwrap();
        stream.write_all(&option(NBD_OPT_EXPORT_NAME, b"disk")).unwrap();
        stream.write_all(&request(Headers::Simple, 0, NBD_CMD_DISC, 0, 0)).unwrap();
        let answer = rest(&mut stream);
        assert_eq!(answer.len(), 18 + 10 + zeros, "{flags}");
        assert_eq!(answer[18..26], (LENGTH as u64).to_be_bytes());
    }
    fixture.ends();
}
