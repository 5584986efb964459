//! The client, with the servers that people use and with ours.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_executor::block_on;
use futures_util::future::join_all;

use super::support::*;
use crate::driver::{StatusKind, ZeroFlags};
use crate::nbd::{Address, Client, ClientOptions, Target};
use crate::{Backend, Driver, Error, IoVector};

const MIB: u64 = 1 << 20;

/// Does random things to a disk, many at once, and to a copy of it in memory; returns the copy.
fn work(disk: &Backend, mut model: Vec<u8>, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    for round in 0..20 {
        // Requests at once are each in a part of the disk of their own.
        let part = model.len() as u64 / 32;
        let mut requests = Vec::new();
        for index in 0..32 {
            let start = index * part + random.below(part);
            let length = 1 + random.below((index + 1) * part - start);
            let range = start as usize..(start + length) as usize;
            let kind = random.below(4);
            let data = pattern(length as usize, random.next());
            match kind {
                0 | 1 => model[range.clone()].copy_from_slice(&data),
                2 => model[range.clone()].fill(0),
                _ => {}
            }
            let expected = (kind == 3).then(|| model[range].to_vec());
            requests.push(async move {
                match kind {
                    0 | 1 => disk.write(start, IoVector::copy_of(&data)).await.unwrap(),
                    2 => {
                        let flags = if length.is_multiple_of(2) { ZeroFlags::MAY_UNMAP } else { ZeroFlags::empty() };
                        disk.write_zeroes(start, length, flags).await.unwrap();
                    }
                    _ => {
                        let to = IoVector::zeroed(length as usize);
                        disk.read(start, to.clone()).await.unwrap();
                        assert!(Some(to.to_vec()) == expected, "round {round}, {length} bytes at {start}");
                    }
                }
            });
        }
        soon("work", join_all(requests));
    }
    soon("flush", disk.flush()).unwrap();
    let all = IoVector::zeroed(model.len());
    soon("read", disk.read(0, all.clone())).unwrap();
    assert!(all.to_vec() == model);
    model
}

#[test]
fn qemu_nbd_has_what_was_written() {
    let place = Place::new();
    let content = pattern(8 << 20, 20);
    let image = place.file("disk", &content);
    let by_unix = Background::qemu_nbd(&place, &image, &["-x", "a disk"]);
    let disk = connect(options(&place.address(), "a disk"));
    assert_eq!((disk.length(), disk.is_read_only()), (8 * MIB, false));
    let content = work(&disk, content, 21);
    soon("close", disk.node().unwrap().close()).unwrap();
    assert!(std::fs::read(&image).unwrap() == content);
    by_unix.kill();
    let (_by_tcp, address) = Background::qemu_nbd_by_tcp(&image, &[]);
    let disk = connect(options(&address, ""));
    let content = work(&disk, content, 22);
    soon("close", disk.node().unwrap().close()).unwrap();
    assert!(std::fs::read(&image).unwrap() == content);
}

#[test]
fn our_server_has_what_was_written() {
    let place = Place::new();
    let content = pattern(8 << 20, 23);
    let image = place.file("disk", &content);
    for address in [place.address(), any_port()] {
        std::fs::write(&image, &content).unwrap();
        let server = start(&address);
        let backend = super::support::disk(&image, false);
        server.add(writable("one", backend.clone())).unwrap();
        server.add(writable("other", backend)).unwrap();
        let disks = ["one", "other"].map(|name| connect(options(server.address(), name)));
        let now = work(&disks[0], content.clone(), 24);
        let now = work(&disks[1], now, 25);
        assert!(std::fs::read(&image).unwrap() == now);
        // A request of more than the server takes at once.
        let much = pattern(8 << 20, 26);
        soon("write", disks[0].write(0, IoVector::copy_of(&much))).unwrap();
        assert!(std::fs::read(&image).unwrap() == much);
        drop(disks);
        wait_until("the end of clients", || server.exports().iter().all(|export| export.clients == 0));
        block_on(server.stop());
    }
}

#[test]
fn a_server_without_structured_replies_serves_as_well() {
    for more in [&["--no-sr"][..], &[]] {
        let place = Place::new();
        let mut nbdkit = Command::new("nbdkit");
        nbdkit.args(["-f", "-U", &place.path("socket")]).args(more).args(["memory", "8M"]);
        let _nbdkit = Background::start(nbdkit.stdin(Stdio::null()));
        let disk = connect(options(&place.address(), ""));
        work(&disk, vec![0; 8 << 20], 27);
        let status = soon("status", disk.node().unwrap().status(0, 4096)).unwrap();
        assert!(status.length >= 1, "{more:?}");
    }
}

#[test]
fn an_error_of_the_server_is_told() {
    let place = Place::new();
    let mut nbdkit = Command::new("nbdkit");
    let arguments = ["--filter=error", "memory", "1M", "error=ENOSPC", "error-pwrite-rate=100%"];
    nbdkit.args(["-f", "-U", &place.path("socket")]).args(arguments);
    let _nbdkit = Background::start(nbdkit.stdin(Stdio::null()));
    let disk = connect(options(&place.address(), ""));
    let error = soon("write", disk.write(0, IoVector::zeroed(512))).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert!(error.to_string().starts_with("the NBD server could not write: "), "{error}");
    soon("read", disk.read(0, IoVector::zeroed(512))).unwrap();
}

#[test]
fn holes_are_seen() {
    let place = Place::new();
    let image = place.file("disk", &[]);
    std::fs::File::options().write(true).open(&image).unwrap().set_len(4 * MIB).unwrap();
    let content = pattern(65536, 28);
    {
        use std::os::unix::fs::FileExt;
        std::fs::File::options().write(true).open(&image).unwrap().write_all_at(&content, MIB).unwrap();
    }
    let server = start(&any_port());
    server.add(writable("", disk(&image, false))).unwrap();
    let theirs = Background::qemu_nbd(&place, &image, &[]);
    for address in [place.address(), server.address().clone()] {
        let disk = connect(options(&address, ""));
        let mut found = Vec::new();
        let mut at = 0;
        while at < disk.length() {
            let status = soon("status", disk.node().unwrap().status(at, disk.length() - at)).unwrap();
            found.push((at, status.length, status.kind));
            at += status.length;
        }
        let expected = [
            (0, MIB, StatusKind::Zero),
            (MIB, 65536, StatusKind::Data),
            (MIB + 65536, 3 * MIB - 65536, StatusKind::Zero),
        ];
        assert_eq!(found, expected, "{address}");
        let status = soon("status", disk.node().unwrap().status(MIB + 7, 1000)).unwrap();
        assert_eq!((status.length, status.kind), (1000, StatusKind::Data));
        // What is discarded by either becomes a hole for both.
        if address == place.address() {
            soon("discard", disk.discard(MIB, 4096)).unwrap();
            soon("write", disk.write(MIB, IoVector::copy_of(&content[..4096]))).unwrap();
        }
    }
    drop(theirs);
    block_on(server.stop());
}

#[test]
fn what_cannot_be_opened_is_said_to() {
    let place = Place::new();
    let image = place.file("disk", &[0; 4096]);
    let attempt = |options: ClientOptions| match soon("connect", Client::connect(options)) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    };
    let plain = |name: &str| ClientOptions::new(Target::new(place.address(), name));
    let error = attempt(plain("x"));
    assert!(error.contains("Could not open 'nbd+unix:///x?socket=") && error.contains("No such file"), "{error}");
    let _server = Background::qemu_nbd(&place, &image, &["-r", "-x", "name"]);
    let read_only = |name: &str| ClientOptions { read_only: true, ..options(&place.address(), name) };
    let disk = connect(read_only("name"));
    assert!(matches!(soon("write", disk.write(0, IoVector::zeroed(512))), Err(Error::ReadOnly)));
    soon("read", disk.read(0, IoVector::zeroed(512))).unwrap();
    let error = attempt(plain("name"));
    assert!(error.contains("read-only"), "{error}");
    let error = attempt(plain("other"));
    assert!(error.contains("export 'other'"), "{error}");
    let error = attempt(plain(&"x".repeat(5000)));
    assert!(error.contains("at most 4096"), "{error}");
    let tls = ClientOptions::new(Target { tls: true, ..Target::new(place.address(), "name") });
    let error = attempt(tls);
    assert!(error.contains("credentials"), "{error}");
}

#[test]
fn bytes_beyond_the_end_are_zero_and_cannot_be_written() {
    let server = start(&any_port());
    let place = Place::new();
    let image = place.file("disk", &[7; 1000]);
    server.add(writable("", disk(&image, false))).unwrap();
    let client = soon("connect", Client::connect(options(server.address(), ""))).unwrap();
    let memory = IoVector::copy_of(&[9; 8]);
    soon("read", client.read(996, memory.clone())).unwrap();
    assert_eq!(memory.to_vec(), [7, 7, 7, 7, 0, 0, 0, 0]);
    let error = soon("write", client.write(996, memory)).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    block_on(server.stop());
}

#[test]
fn servers_of_older_styles_are_refused() {
    for (style, expected) in [(&["-o"][..], "old style"), (&["--mask-handshake=0"], "fixed newstyle")] {
        let place = Place::new();
        let mut nbdkit = Command::new("nbdkit");
        nbdkit.args(["-f", "-U", &place.path("socket")]).args(style).args(["memory", "1M"]).stdin(Stdio::null());
        let _nbdkit = Background::start(&mut nbdkit);
        wait_until("a socket", || std::os::unix::net::UnixStream::connect(place.path("socket")).is_ok());
        let once = ClientOptions::new(Target::new(place.address(), ""));
        let error = soon("connect", Client::connect(once)).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Reads until the server answers again.
fn wait_for_server(disk: &Backend) {
    wait_until("a connection", || soon("read", disk.read(0, IoVector::zeroed(512))).is_ok());
}

#[test]
fn requests_fail_at_once_when_the_server_is_killed() {
    let place = Place::new();
    let image = place.file("disk", &pattern(8 << 20, 29));
    let server = Background::qemu_nbd(&place, &image, &[]);
    let disk = connect(options(&place.address(), ""));
    let kill = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        server.kill();
    });
    let many = (0..8).map(|index| {
        let disk = &disk;
        async move {
            // Until the first that fails.
            while disk.write(index * MIB, IoVector::zeroed(1 << 20)).await.is_ok() {}
        }
    });
    soon("work", join_all(many));
    kill.join().unwrap();
    let before = Instant::now();
    let error = soon("read", disk.read(0, IoVector::zeroed(512))).unwrap_err();
    assert_eq!(error.errno(), libc::EIO, "{error}");
    assert!(before.elapsed() < Duration::from_secs(5));
    // A new one is found, after a while.
    let _server = Background::qemu_nbd(&place, &image, &[]);
    wait_for_server(&disk);
}

#[test]
fn requests_wait_for_a_new_server_as_long_as_they_may() {
    let place = Place::new();
    let content = pattern(8 << 20, 30);
    let image = place.file("disk", &content);
    let server = Background::qemu_nbd(&place, &image, &[]);
    let patient = ClientOptions { reconnect_delay: Duration::from_secs(60), ..options(&place.address(), "") };
    let disk = connect(patient);
    let restart = std::thread::spawn({
        let (image, socket) = (image.clone(), place.path("socket"));
        move || {
            std::thread::sleep(Duration::from_millis(200));
            server.kill();
            std::thread::sleep(Duration::from_millis(200));
            let mut command = Command::new("qemu-nbd");
            command.args(["-t", "-e", "8", "-f", "raw", "--discard=unmap", "-k", &socket, &image]);
            Background::start(command.stdin(Stdio::null()))
        }
    });
    let mut model = content;
    let start = Instant::now();
    let mut seed = 31;
    while start.elapsed() < Duration::from_millis(800) {
        model = work(&disk, model, seed);
        seed += 1;
    }
    let server = restart.join().unwrap();
    wait_for_server(&disk);
    soon("close", disk.node().unwrap().close()).unwrap();
    assert!(std::fs::read(&image).unwrap() == model);
    // With less patience they fail, but not at once.
    let delay = Duration::from_millis(300);
    let disk = connect(ClientOptions { reconnect_delay: delay, ..options(&place.address(), "") });
    server.kill();
    let before = Instant::now();
    let failed = soon("read", disk.read(0, IoVector::zeroed(512)));
    assert!(failed.is_err() && before.elapsed() >= delay / 2, "{failed:?} {:?}", before.elapsed());
}

#[test]
fn a_stopped_server_ends_its_clients() {
    let place = Place::new();
    let image = place.file("disk", &[0; 65536]);
    let server = start(&place.address());
    server.add(writable("", disk(&image, false))).unwrap();
    let disk = connect(ClientOptions::new(Target::new(place.address(), "")));
    soon("write", disk.write(0, IoVector::zeroed(512))).unwrap();
    block_on(server.stop());
    assert!(soon("write", disk.write(0, IoVector::zeroed(512))).is_err());
    assert!(!matches!(server.address(), Address::Tcp { .. }));
}
