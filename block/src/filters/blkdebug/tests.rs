use std::process::Command;

use futures_executor::block_on;

use super::*;
use crate::MemoryDisk;

fn memory() -> Arc<Node> {
    Node::new("memory", MemoryDisk::new(vec![1; 1 << 20], false))
}

fn disk(options: BlkdebugOptions) -> Arc<Node> {
    Node::new("disk", Blkdebug::new(options, memory()).unwrap())
}

/// The number of the error that a request ended in, or 0.
fn number<T>(result: Result<T, Error>) -> i32 {
    result.err().map_or(0, |error| error.errno())
}

#[test]
fn a_rule_is_for_kinds_and_sectors_and_for_one_request_if_that_is_wanted() {
    let rule = InjectError::after(BlkdebugEvent::None);
    let inject_error = vec![
        InjectError { iotype: Some(IoType::Flush), errno: libc::ENOSPC, ..rule },
        InjectError { sector: Some(5), once: true, immediately: true, ..rule },
        InjectError { sector: Some(7), errno: 0, ..rule },
        InjectError { sector: Some(7), ..rule },
        InjectError { iotype: Some(IoType::Discard), ..rule },
        InjectError { iotype: Some(IoType::WriteZeroes), errno: libc::EPERM, ..rule },
        InjectError { iotype: Some(IoType::BlockStatus), errno: libc::ENOMEM, ..rule },
    ];
    let disk = disk(BlkdebugOptions { inject_error, ..BlkdebugOptions::default() });
    block_on(async {
        assert_eq!(number(disk.flush().await), libc::ENOSPC);
        assert_eq!(number(disk.read_vec(0, 2560).await), 0);
        assert_eq!(number(disk.read_vec(2559, 2).await), libc::EIO);
        assert_eq!(number(disk.read_vec(2559, 2).await), 0);
        assert_eq!(number(disk.write_bytes(3584, &[0; 512]).await), 0);
        assert_eq!(number(disk.discard(0, 512).await), libc::EIO);
        assert_eq!(number(disk.write_zeroes(0, 512, ZeroFlags::empty()).await), libc::EPERM);
        assert_eq!(number(disk.status(0, 512).await), libc::ENOMEM);
    });
}

#[test]
fn requests_are_split_and_rounded() {
    let rule = |kind, sector| InjectError {
        iotype: Some(kind),
        sector: Some(sector),
        ..InjectError::after(BlkdebugEvent::None)
    };
    let disk = disk(BlkdebugOptions {
        align: Some(512),
        max_transfer: Some(4096),
        opt_write_zero: Some(4096),
        max_write_zero: Some(8192),
        opt_discard: Some(4096),
        inject_error: vec![rule(IoType::Write, 31), rule(IoType::WriteZeroes, 64), rule(IoType::Discard, 0)],
        ..BlkdebugOptions::default()
    });
    block_on(async {
        // What comes before the part that fails is done.
        assert_eq!(number(disk.write_bytes(0, &[2; 16384]).await), libc::EIO);
        assert_eq!(disk.read_vec(12287, 2).await.unwrap(), [2, 1]);
        disk.write_zeroes(512, 15360 - 512, ZeroFlags::empty()).await.unwrap();
        assert_eq!(disk.read_vec(0, 15361).await.unwrap(), [&[2; 512][..], &[0; 14848], &[1]].concat());
        assert_eq!(number(disk.write_zeroes(24576, 16384, ZeroFlags::empty()).await), libc::EIO);
        assert_eq!(disk.read_vec(32767, 2).await.unwrap(), [0, 1]);
        // The last part is written.
        assert_eq!(number(disk.write_zeroes(12288, 4096 - 512, ZeroFlags::NO_FALLBACK).await), libc::ENOTSUP);
        disk.discard(512, 8192).await.unwrap();
        assert_eq!(number(disk.discard(0, 4096).await), libc::EIO);
    });
}

#[test]
fn limits_that_cannot_be_are_refused_as_qemu_does() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("disk"), [0; 4096]).unwrap();
    let none = BlkdebugOptions::default;
    for (options, list) in [
        (BlkdebugOptions { align: Some(3), ..none() }, "align=3"),
        (BlkdebugOptions { align: Some(4096), max_transfer: Some(5000), ..none() }, "align=4096,max-transfer=5000"),
        (BlkdebugOptions { align: Some(512), opt_write_zero: Some(513), ..none() }, "align=512,opt-write-zero=513"),
        (
            BlkdebugOptions { opt_write_zero: Some(1024), max_write_zero: Some(1536), ..none() },
            "opt-write-zero=1024,max-write-zero=1536",
        ),
        (BlkdebugOptions { opt_discard: Some(1 << 31), ..none() }, "opt-discard=2147483648"),
        (
            BlkdebugOptions { opt_discard: Some(512), max_discard: Some(700), ..none() },
            "opt-discard=512,max-discard=700",
        ),
        (BlkdebugOptions { align: Some(0), max_discard: Some(512), ..none() }, "align=0,max-discard=512"),
    ] {
        let image = "image.driver=file,image.filename=disk";
        let output = Command::new("qemu-io")
            .args(["--image-opts", &format!("driver=blkdebug,{list},{image}"), "-c", "length"])
            .current_dir(folder.path())
            .output();
        let ours = Blkdebug::new(options, memory()).err();
        let ours = ours.map(|error| format!("qemu-io: can't open: {error}\n")).unwrap_or_default();
        match output {
            Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stderr), ours, "{list}"),
            Err(_) => eprintln!("SKIPPED: limits_that_cannot_be_are_refused_as_qemu_does: no qemu-io"),
        }
    }
}

/// What qemu-io says of an image behind rules in a file, and whether all went well; `None` without qemu-io.
fn qemu_io(folder: &std::path::Path, commands: &[&str]) -> Option<(String, bool)> {
    let arguments = commands.iter().flat_map(|command| ["-c", command]);
    let output = Command::new("qemu-io")
        .args(["-f", "qcow2", "blkdebug:rules:disk"])
        .args(arguments)
        .current_dir(folder)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    Some((text, output.status.success()))
}

#[test]
fn files_are_understood_and_refused_as_by_qemu() {
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("qemu-img").args("create -f qcow2 disk 1M".split(' ')).current_dir(folder.path()).output();
    if made.is_err() {
        eprintln!("SKIPPED: files_are_understood_and_refused_as_by_qemu: no qemu-img");
        return;
    }
    let rule = |line: &str| format!("[inject-error]\nevent = \"read_aio\"\n{line}\n");
    let all: String = BlkdebugEvent::ALL
        .iter()
        .map(|(name, _)| format!("[set-state \"{name}\"]\nevent = \"{name}\"\nstate = \"3\"\nnew_state = \"2\"\n"))
        .collect();
    for text in [
        all,
        "# nothing\n\n".to_owned(),
        "[inject]\nevent = \"none\"\n".into(),
        "event = \"none\"\n".into(),
        "[inject-error]\nevent = \"nothing\"\n".into(),
        "[inject-error]\nerrno = \"5\"\n".into(),
        rule("foo"),
        rule("foo = \"1\""),
        rule("iotype = \"everything\""),
        rule("errno = \"five\""),
        rule("sector = \"x\""),
        rule("once = \"maybe\""),
        rule("once = \"on\"\niotype = \"write-zeroes\"\nsector = \"3\"\nimmediately = \"off\"\nstate = \"7\""),
    ] {
        std::fs::write(folder.path().join("rules"), &text).unwrap();
        let ours = match config::read(&folder.path().join("rules")) {
            Ok(_) => "1 MiB\n".to_owned(),
            Err(error) => format!("qemu-io: can't open device blkdebug:rules:disk: {error}\n"),
        };
        assert_eq!(qemu_io(folder.path(), &["length"]).unwrap().0, ours, "{text}");
    }
    let missing = BlkdebugOptions { config: Some(folder.path().join("missing")), ..BlkdebugOptions::default() };
    let error = Blkdebug::new(missing, memory()).err().unwrap();
    assert_eq!(error.to_string(), "Could not read blkdebug config file: No such file or directory");
}

/// Writes, flushes and reads a new image behind rules; says which of the three failed, if any did.
fn session(path: &std::path::Path, rules: &std::path::Path) -> Result<(), Error> {
    use crate::qcow2::{Files, ImageUse, Metadata, Qcow2};
    use crate::{FileOptions, HostFile};
    block_on(async {
        let file = Node::new("file", HostFile::open(path, FileOptions::default())?);
        let options = BlkdebugOptions { config: Some(rules.to_owned()), ..BlkdebugOptions::default() };
        let file = Node::new("rules", Blkdebug::new(options, file)?);
        let metadata = Metadata::read(&file).await?;
        let files = Files { file, backing: None, data_file: None };
        let disk = Node::new("disk", Qcow2::open(files, metadata, ImageUse::default()).await?);
        disk.write_bytes(0, &[1; 65536]).await?;
        disk.flush().await?;
        disk.read_vec(0, 65536).await.map(|_| ())
    })
}

#[test]
fn flushes_of_qcow2_fail_in_their_event() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, rules) = (folder.path().join("disk"), folder.path().join("rules"));
    if Command::new("qemu-img").args(["create", "-f", "qcow2"]).arg(&disk).arg("1M").output().is_err() {
        eprintln!("SKIPPED: flushes_of_qcow2_fail_in_their_event: no qemu-img");
        return;
    }
    for event in ["flush_to_os", "flush_to_disk"] {
        std::fs::write(&rules, format!("[inject-error]\nevent = \"{event}\"\niotype = \"flush\"\n")).unwrap();
        assert_eq!(number(session(&disk, &rules)), libc::EIO, "{event}");
    }
}

#[test]
fn events_of_qcow2_make_requests_fail_as_they_do_with_qemu() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, rules) = (folder.path().join("disk"), folder.path().join("rules"));
    for (event, iotype) in [
        ("read_aio", "read"),
        ("write_aio", "write"),
        ("cluster_alloc", "write"),
        ("l2_load", "read"),
        ("refblock_load", "read"),
        ("l2_alloc_write", "write"),
        ("l2_update", "write"),
        ("l1_update", "write"),
        ("refblock_update_part", "write"),
        ("pwritev", "write"),
        ("reftable_load", "read"),
        // Nothing of the kind happens.
        ("cluster_free", "write"),
        ("reftable_grow", "write"),
        ("write_compressed", "write"),
        ("read_backing_aio", "read"),
        ("cow_read", "read"),
    ] {
        let text = format!("[inject-error]\nevent = \"{event}\"\niotype = \"{iotype}\"\n");
        std::fs::write(&rules, text).unwrap();
        let create = || Command::new("qemu-img").args(["create", "-f", "qcow2"]).arg(&disk).arg("1M").output();
        if create().is_err() {
            eprintln!("SKIPPED: events_of_qcow2_make_requests_fail_as_they_do_with_qemu: no qemu-img");
            return;
        }
        let (told, went_well) = qemu_io(folder.path(), &["write 0 64k", "flush", "read 0 64k"]).unwrap();
        create().unwrap();
        assert_eq!(session(&disk, &rules).is_ok(), went_well, "{event}: {told}");
    }
}
