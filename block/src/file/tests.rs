use futures_executor::block_on;
use futures_util::FutureExt;
use futures_util::future::{join_all, maybe_done};

use super::*;
use crate::{Backend, Node};

const ENGINES: [Engine; 2] = [Engine::Threads, Engine::Automatic];

fn image(length: usize) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![7; length]).unwrap();
    file
}

fn node(path: &Path, options: FileOptions) -> Arc<Node> {
    Node::new("file", HostFile::open(path, options).unwrap())
}

#[test]
fn what_is_written_is_read_back_and_reaches_the_file() {
    for (engine, direct) in ENGINES.into_iter().flat_map(|engine| [(engine, false), (engine, true)]) {
        let file = image(16384);
        let node = node(file.path(), FileOptions { engine, direct, ..FileOptions::default() });
        block_on(async {
            node.write_bytes(4094, b"abcd").await.unwrap();
            node.flush().await.unwrap();
            assert_eq!(node.read_vec(4093, 6).await.unwrap(), b"\x07abcd\x07", "{engine:?} {direct}");
            // Behind the end there are zeros, until something is written there.
            assert_eq!(node.read_vec(16380, 8).await.unwrap(), [7, 7, 7, 7, 0, 0, 0, 0], "{engine:?} {direct}");
            node.write_bytes(20480, &[9; 4096]).await.unwrap();
            assert_eq!(node.length(), 24576);
        });
        let bytes = std::fs::read(file.path()).unwrap();
        assert_eq!((&bytes[4094..4098], bytes.len()), (&b"abcd"[..], 24576));
    }
}

#[test]
fn many_requests_at_once_each_do_their_own_thing() {
    for engine in ENGINES {
        let file = image(0);
        let node = node(file.path(), FileOptions { engine, ..FileOptions::default() });
        let content = |index: u64| [index as u8 + 1; 3000];
        let mut order: Vec<u64> = (0..200).collect();
        order.reverse();
        block_on(async {
            let writes = order.iter().map(|index| {
                let content = content(*index);
                let mut data = IoVector::copy_of(&content[..1000]);
                data.append(IoVector::copy_of(&content[1000..]));
                node.write(index * 3000, data)
            });
            assert!(join_all(writes).await.iter().all(Result::is_ok));
            let reads = join_all((0..200).map(|index| node.read_vec(index * 3000, 3000))).await;
            for (index, read) in reads.into_iter().enumerate() {
                assert_eq!(read.unwrap(), content(index as u64), "{engine:?} {index}");
            }
        });
    }
}

#[test]
fn requests_of_threads_that_end_are_done_all_the_same() {
    let file = image(1 << 20);
    let node = node(file.path(), FileOptions { direct: true, ..FileOptions::default() });
    let begin = |index: u8| {
        let (node, data) = (node.clone(), IoVector::copy_of(&[index; 4096]));
        move || {
            let future = async move { node.write(u64::from(index) * 4096, data).await };
            let mut future = Box::pin(maybe_done(Box::pin(future)));
            // Begun here, and ended elsewhere.
            let _ = (&mut future).now_or_never();
            future
        }
    };
    for mut future in (0..16).map(|index| std::thread::spawn(begin(index)).join().unwrap()) {
        block_on(&mut future);
        future.as_mut().take_output().unwrap().unwrap();
    }
    let bytes = std::fs::read(file.path()).unwrap();
    assert!((0..16).all(|index| bytes[index * 4096..][..4096] == [index as u8; 4096]));
}

#[test]
fn what_a_write_that_was_given_up_made_longer_counts() {
    for engine in ENGINES {
        let file = image(512);
        let node = node(file.path(), FileOptions { engine, ..FileOptions::default() });
        // Begun, and dropped; the host goes on with it.
        let _ = node.write(0, IoVector::zeroed(4096)).now_or_never();
        assert_eq!(node.length(), 4096, "{engine:?}");
    }
}

#[test]
fn parts_of_what_is_written_at_once_do_not_undo_one_another() {
    let file = image(8192);
    let node = node(file.path(), FileOptions { direct: true, ..FileOptions::default() });
    let writes = (0..64_u8).map(|index| node.write(u64::from(index) * 128, IoVector::copy_of(&[index; 128])));
    assert!(block_on(join_all(writes)).iter().all(Result::is_ok));
    let expected: Vec<u8> = (0..8192).map(|at| (at / 128) as u8).collect();
    assert_eq!(std::fs::read(file.path()).unwrap(), expected);
}

#[test]
fn users_get_nothing_beyond_the_end() {
    let file = image(512);
    let disk = Backend::new(node(file.path(), FileOptions::default()));
    for offset in [509, 512, u64::MAX] {
        assert!(matches!(disk.write_blocking(offset, b"abcd"), Err(Error::OutOfBounds { .. })), "{offset}");
        assert!(matches!(disk.read_blocking(offset, &mut [0; 4]), Err(Error::OutOfBounds { .. })), "{offset}");
    }
    assert_eq!(std::fs::metadata(file.path()).unwrap().len(), 512);
}

#[test]
fn a_read_only_disk_refuses_writes() {
    let file = image(512);
    let node = node(file.path(), FileOptions { read_only: true, ..FileOptions::default() });
    assert!(node.is_read_only());
    block_on(async {
        assert!(matches!(node.write_bytes(0, b"x").await, Err(Error::ReadOnly)));
        assert!(matches!(node.write_zeroes(0, 512, ZeroFlags::empty()).await, Err(Error::ReadOnly)));
        assert!(matches!(node.discard(0, 512).await, Err(Error::ReadOnly)));
        assert!(matches!(node.truncate(0, Preallocation::Off).await, Err(Error::ReadOnly)));
        node.flush().await.unwrap();
    });
    assert_eq!(std::fs::read(file.path()).unwrap(), [7; 512]);
}

#[test]
fn holes_are_made_and_found() {
    let file = image(1 << 20);
    let node = node(file.path(), FileOptions::default());
    block_on(async {
        node.write_zeroes(65536, 65536, ZeroFlags::MAY_UNMAP).await.unwrap();
        node.write_zeroes(2 << 20, 65536, ZeroFlags::MAY_UNMAP).await.unwrap();
        assert_eq!(node.length(), (2 << 20) + 65536);
        assert!(node.read_vec(65536, 65536).await.unwrap().iter().all(|byte| *byte == 0));
        assert_eq!(node.read_vec(65535, 1).await.unwrap(), [7]);
        let first = node.status(0, 1 << 20).await.unwrap();
        assert_eq!((first.kind, first.file_offset), (StatusKind::Data, Some(0)));
        // A file system without holes says that all of it is data.
        if first.length == 65536 {
            let hole = node.status(65536, 1 << 20).await.unwrap();
            assert_eq!((hole.length, hole.kind), (65536, StatusKind::Zero));
        }
        assert_eq!(node.status(3 << 20, 512).await.unwrap().kind, StatusKind::Zero);
    });
}

#[test]
fn lengths_change_with_room_made_or_not() {
    let file = image(512);
    let node = node(file.path(), FileOptions::default());
    block_on(async {
        for (length, mode) in [
            (4096, Preallocation::Off),
            (1 << 20, Preallocation::Falloc),
            ((1 << 20) + 5, Preallocation::Full),
            (100, Preallocation::Off),
        ] {
            node.truncate(length, mode).await.unwrap();
            assert_eq!((node.length(), std::fs::metadata(file.path()).unwrap().len()), (length, length), "{mode:?}");
        }
        let shrunk = node.truncate(10, Preallocation::Full).await.unwrap_err().to_string();
        assert!(shrunk.contains("shrinking"), "{shrunk}");
        // More than any host has leaves the file as it was.
        assert!(node.truncate(1 << 62, Preallocation::Falloc).await.is_err());
    });
    assert_eq!(std::fs::read(file.path()).unwrap(), [7; 100]);
}

#[test]
fn a_fifo_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let error = HostFile::open(&path, FileOptions::default()).err().unwrap();
    assert!(error.to_string().contains("FIFO"), "{error}");
}

#[test]
fn a_folder_or_nothing_is_no_image() {
    assert!(HostFile::open(Path::new("/"), FileOptions { read_only: true, ..FileOptions::default() }).is_err());
    let error = HostFile::open(Path::new("/nonexistent.img"), FileOptions::default()).err().unwrap();
    assert_eq!(error.to_string(), "Could not open '/nonexistent.img': No such file or directory");
}

#[test]
fn users_of_one_image_know_of_one_another_and_of_qemu() {
    let file = image(1 << 20);
    let path = file.path().to_str().unwrap();
    let open =
        |read_only, sharing| HostFile::open(file.path(), FileOptions { read_only, sharing, ..FileOptions::default() });
    let refused =
        |read_only| open(read_only, Sharing::Readers).err().map(|error| error.to_string()).unwrap_or_default();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy");
    let qemu = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output();
        output.expect("QEMU's tools must be installed").status.success()
    };
    let convert = |options: &[&str]| {
        qemu("qemu-img", &[&["convert", "-f", "raw", "-O", "raw"], options, &[path, copy.to_str().unwrap()]].concat())
    };
    let reads = || convert(&[]);
    let writes = || qemu("qemu-io", &["-f", "raw", "-c", "write 0 512", path]);
    {
        let _readers = [open(true, Sharing::Readers).unwrap(), open(true, Sharing::Readers).unwrap()];
        assert!(refused(false).contains("Failed to get \"write\" lock"), "{}", refused(false));
        assert_eq!((reads(), writes()), (true, false));
        open(false, Sharing::Unlocked).unwrap();
    }
    {
        let writer = Node::new("writer", open(false, Sharing::Readers).unwrap());
        assert!(refused(true).contains("Failed to get shared \"write\" lock"), "{}", refused(true));
        assert!(refused(false).contains("Is another process using the image ["), "{}", refused(false));
        assert_eq!((reads(), writes()), (false, false));
        assert!(convert(&["-U"]));
        open(true, Sharing::Everyone).unwrap();
        block_on(writer.close()).unwrap();
        assert!(writes());
    }
    let (socket, pid) = (folder.path().join("socket"), folder.path().join("pid"));
    let (socket, pid_file) = (socket.to_str().unwrap(), pid.to_str().unwrap());
    // It returns when it has the image.
    assert!(qemu("qemu-nbd", &["--fork", "-f", "raw", "-k", socket, "--pid-file", pid_file, path]));
    assert!(refused(true).contains("Failed to get shared \"write\" lock"), "{}", refused(true));
    let number: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    let process = rustix::process::Pid::from_raw(number).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !refused(false).is_empty() {
        assert!(std::time::Instant::now() < deadline, "{}", refused(false));
    }
}
