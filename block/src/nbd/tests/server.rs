//! The server, with the clients that people use.

use std::sync::Arc;

use futures_executor::block_on;

use super::support::*;
use crate::nbd::{Address, DirtyBitmap, Export, RemoveMode, ServerError};
use crate::{Backend, MemoryDisk, Node};

const MIB: usize = 1 << 20;

/// The length of the export as clients know it.
fn both(place: &Place) -> [Address; 2] {
    [place.address(), any_port()]
}

fn uri(address: &Address, export: &str) -> String {
    match address {
        Address::Unix(path) => format!("nbd+unix:///{export}?socket={}", path.display()),
        Address::Tcp { host, port } => format!("nbd://{host}:{port}/{export}"),
    }
}

#[test]
fn qemu_img_reads_what_is_there() {
    let place = Place::new();
    let mut content = pattern(4 * MIB, 1);
    content[MIB..2 * MIB].fill(0);
    let path = place.file("disk", &content);
    for address in both(&place) {
        let server = start(&address);
        server.add(Export::new("disk", disk(&path, true))).unwrap();
        let uri = uri(server.address(), "disk");
        let info = run("qemu-img", &["info", "--output=json", &uri]);
        assert!(info.contains(&format!("\"virtual-size\": {}", 4 * MIB)), "{info}");
        let copy = place.path("copy");
        run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, &copy]);
        assert!(std::fs::read(&copy).unwrap() == content, "{address}");
        let compared = run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, &path]);
        assert!(compared.contains("identical"), "{compared}");
        block_on(server.stop());
        assert!(output("qemu-img", &["info", &uri]).status.code() != Some(0));
    }
}

#[test]
fn qemu_img_sees_holes() {
    let place = Place::new();
    let path = place.file("disk", &[]);
    std::fs::File::options().write(true).open(&path).unwrap().set_len(4 << 20).unwrap();
    let backend = disk(&path, false);
    block_on(async {
        let data = crate::IoVector::copy_of(&pattern(65536, 2));
        backend.write(1 << 20, data).await.unwrap();
    });
    let server = start(&place.address());
    server.add(writable("disk", backend)).unwrap();
    let uri = place.uri("disk");
    let map = run("qemu-img", &["map", "--output=json", "-f", "raw", &uri]);
    let expected = run("qemu-img", &["map", "--output=json", "-f", "raw", &path]);
    let kinds = |text: &str| -> Vec<String> {
        let line = |line: &str| {
            let end = line.find("\"depth\"").unwrap_or(0);
            let kind = ["\"zero\": true", "\"zero\": false"].into_iter().find(|kind| line.contains(kind));
            format!("{} {kind:?}", &line[..end])
        };
        text.lines().map(line).collect()
    };
    assert_eq!(kinds(&map), kinds(&expected), "{map}{expected}");
    let map = run("nbdinfo", &["--map", &uri]);
    assert!(map.lines().count() == 3 && map.contains("hole,zero") && map.contains("data"), "{map}");
    // A copy of it has the holes, too: what is sent are holes.
    let copy = place.path("copy");
    run("nbdcopy", &[&uri, &copy]);
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(&path).unwrap());
    block_on(server.stop());
}

#[test]
fn qemu_io_changes_it() {
    let place = Place::new();
    for address in both(&place) {
        let mut model = pattern(4 * MIB, 3);
        let path = place.file("disk", &model);
        let server = start(&address);
        server.add(writable("disk", disk(&path, false))).unwrap();
        let uri = uri(server.address(), "disk");
        let commands = [
            "write -P 0x5a 1000 3000",
            "write -f -P 0x77 65536 131072",
            "write -z 1M 300000",
            "write -z -u 2M 65536",
            "write -z -n 3M 4096",
            "discard 3500000 4096",
            "flush",
            "aio_write -P 1 512 512",
            "aio_write -P 2 4096 512",
            "aio_flush",
            "read -P 0x5a 1024 2000",
        ];
        let mut arguments = vec!["-f", "raw"];
        for command in commands {
            arguments.extend(["-c", command]);
        }
        arguments.push(&uri);
        let printed = run("qemu-io", &arguments);
        assert!(!printed.contains("failed") && !printed.contains("error"), "{printed}");
        model[1000..4000].fill(0x5a);
        model[65536..65536 + 131_072].fill(0x77);
        model[MIB..MIB + 300_000].fill(0);
        model[2 * MIB..2 * MIB + 65536].fill(0);
        model[512..1024].fill(1);
        model[4096..4608].fill(2);
        let now = std::fs::read(&path).unwrap();
        // What was discarded may read as anything, and 4 KiB were made zero if the host can do it fast.
        assert!(now[..3 * MIB] == model[..3 * MIB], "{address}");
        assert!(now[3 * MIB + 4096..3_500_000] == model[3 * MIB + 4096..3_500_000], "{address}");
        assert!(now[3_504_096..] == model[3_504_096..], "{address}");
        block_on(server.stop());
    }
}

#[test]
fn a_read_only_export_is_not_changed() {
    let place = Place::new();
    let path = place.file("disk", &pattern(MIB, 4));
    let server = start(&place.address());
    server.add(Export::new("disk", disk(&path, false))).unwrap();
    let failed = output("qemu-io", &["-f", "raw", "-c", "write 0 512", &place.uri("disk")]);
    assert!(!failed.status.success());
    assert!(std::fs::read(&path).unwrap() == pattern(MIB, 4));
    let refused = server.add(Export { writable: true, ..Export::new("other", disk(&path, true)) });
    assert!(matches!(refused, Err(ServerError::ReadOnly { .. })));
    block_on(server.stop());
}

#[test]
fn nbdinfo_tells_of_each_export() {
    let place = Place::new();
    let path = place.file("disk", &pattern(MIB, 5));
    for address in both(&place) {
        let server = start(&address);
        let described =
            Export { description: Some("a disk for tests".into()), ..Export::new("a b/c", disk(&path, true)) };
        server.add(described).unwrap();
        server.add(writable("", disk(&path, false))).unwrap();
        let uri = uri(server.address(), "");
        let list = run("nbdinfo", &["--json", "--list", &uri]);
        for expected in
            ["\"a b/c\"", "a disk for tests", "\"export-size\": 1048576", "base:allocation", "\"can_fast_zero\": true"]
        {
            assert!(list.contains(expected), "{expected}: {list}");
        }
        if let Address::Unix(path) = server.address() {
            let list = run("qemu-nbd", &["--list", "-k", &path.display().to_string()]);
            assert!(list.contains("exports available: 2") && list.contains("export: 'a b/c'"), "{list}");
        }
        let info = run("nbdinfo", &["--json", &uri]);
        for expected in [
            "\"protocol\": \"newstyle-fixed\"",
            "\"structured\": true",
            "\"is_read_only\": false",
            "\"can_multi_conn\": true",
            "\"can_cache\": true",
            "\"can_df\": true",
            "\"can_fua\": true",
            "\"can_trim\": true",
            "\"can_zero\": true",
            "\"block_size_maximum\": 33554432",
        ] {
            assert!(info.contains(expected), "{expected}: {info}");
        }
        block_on(server.stop());
    }
}

#[test]
fn nbdcopy_copies_with_many_connections() {
    let place = Place::new();
    let mut content = pattern(16 * MIB + 512, 6);
    content[3 * MIB..9 * MIB].fill(0);
    let (from, to) = (place.file("from", &content), place.file("to", &vec![0xff; content.len()]));
    for address in both(&place) {
        let server = start(&address);
        server.add(Export::new("from", disk(&from, true))).unwrap();
        server.add(writable("to", disk(&to, false))).unwrap();
        let (source, target) = (uri(server.address(), "from"), uri(server.address(), "to"));
        run("nbdcopy", &["--connections=4", "--requests=64", "--flush", &source, &target]);
        assert!(std::fs::read(&to).unwrap() == content);
        std::fs::write(&to, vec![0xff; content.len()]).unwrap();
        block_on(server.stop());
    }
}

#[test]
fn exports_come_and_go() {
    let place = Place::new();
    let path = place.file("disk", &pattern(MIB, 7));
    let server = start(&place.address());
    server.add(Export::new("one", disk(&path, true))).unwrap();
    assert!(matches!(server.add(Export::new("one", disk(&path, true))), Err(ServerError::NameTaken { .. })));
    let long = Export::new("x".repeat(5000), disk(&path, true));
    assert!(matches!(server.add(long), Err(ServerError::TextLength { .. })));
    // A client that uses it.
    let mut client = std::process::Command::new("qemu-io")
        .args(["-r", "-f", "raw", &place.uri("one")])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_until("a client", || server.exports()[0].clients == 1);
    match block_on(server.remove("one", RemoveMode::Safe)) {
        Err(ServerError::InUse { clients: 1, .. }) => {}
        other => panic!("{other:?}"),
    }
    block_on(server.remove("one", RemoveMode::Hard)).unwrap();
    assert!(server.exports().is_empty());
    assert!(matches!(block_on(server.remove("one", RemoveMode::Hard)), Err(ServerError::NoExport { .. })));
    drop(client.stdin.take());
    client.wait().unwrap();
    server.add(Export::new("one", disk(&path, true))).unwrap();
    run("qemu-img", &["info", &place.uri("one")]);
    wait_until("the end of the client", || server.exports()[0].clients == 0);
    block_on(server.remove("one", RemoveMode::Safe)).unwrap();
    assert!(!output("qemu-img", &["info", &place.uri("one")]).status.success());
    block_on(server.stop());
}

#[test]
fn nothing_uses_the_disk_after_a_stop() {
    let place = Place::new();
    let backend = Backend::new(Node::new("memory", MemoryDisk::new(vec![0; MIB], false)));
    let server = start(&place.address());
    server.add(writable("disk", backend.clone())).unwrap();
    let mut client = std::process::Command::new("qemu-io")
        .args(["-f", "raw", &place.uri("disk")])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_until("a client", || server.exports()[0].clients == 1);
    block_on(server.stop());
    assert!(matches!(server.add(writable("disk", backend.clone())), Err(ServerError::Stopped)));
    assert_eq!(Arc::strong_count(&backend), 1);
    assert!(!std::path::Path::new(&place.path("socket")).exists());
    drop(client.stdin.take());
    client.wait().unwrap();
}

struct EvenBlocks;

impl DirtyBitmap for EvenBlocks {
    fn name(&self) -> &str {
        "even"
    }
    fn status(&self, offset: u64, length: u64) -> (bool, u64) {
        let block = offset / 65536;
        (block.is_multiple_of(2), ((block + 1) * 65536 - offset).min(length))
    }
}

#[test]
fn clients_see_depth_and_dirty_blocks() {
    let place = Place::new();
    let path = place.file("disk", &pattern(262_144, 8));
    let server = start(&place.address());
    let export = Export::new("disk", disk(&path, true));
    server.add(Export { allocation_depth: true, bitmaps: vec![Arc::new(EvenBlocks)], ..export }).unwrap();
    let uri = place.uri("disk");
    let info = run("nbdinfo", &["--json", &uri]);
    for context in ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:even"] {
        assert!(info.contains(context), "{info}");
    }
    let depth = run("nbdinfo", &["--map=qemu:allocation-depth", &uri]);
    assert_eq!(depth.split_whitespace().collect::<Vec<_>>()[..3], ["0", "262144", "1"], "{depth}");
    let dirty = run("nbdinfo", &["--map=qemu:dirty-bitmap:even", &uri]);
    let dirty: Vec<_> = dirty.lines().map(|line| line.split_whitespace().nth(2).unwrap().to_owned()).collect();
    assert_eq!(dirty, ["1", "0", "1", "0"]);
    // QEMU's own reading of a bitmap: what is dirty is shown as no data.
    let options = format!(
        "driver=nbd,export=disk,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:even",
        place.path("socket")
    );
    let map = run("qemu-img", &["map", "--output=json", "--image-opts", &options]);
    assert_eq!(map.matches("\"data\": false").count(), 2, "{map}");
    block_on(server.stop());
}
