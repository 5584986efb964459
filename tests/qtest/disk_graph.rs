//! The block graph of a machine whose guest uses it: nodes that come and go, snapshots, and what is told of them.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::disk::{Disk, FLUSH, qemu_img};
use crate::support::qmp::Client;
use crate::support::qtest::Machine;

const SIZE: usize = 2 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The disk's content, as qemu-img reads it.
fn content(image: &Path) -> Vec<u8> {
    let raw = image.with_extension("content");
    let output = Command::new("qemu-img").args(["convert", "-O", "raw", text(image), text(&raw)]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    std::fs::read(raw).unwrap()
}

fn refused(client: &mut Client, command: &str, arguments: Value) -> String {
    let answer = client.send(command, arguments);
    answer["error"]["desc"].as_str().unwrap_or_else(|| panic!("{command}: {answer}")).to_owned()
}

/// A machine with a disk `format` over `storage`, of which the device has the identifier `vd0`.
fn start(image: &Path, socket: &Path) -> (Machine, Client) {
    let storage = json!({ "driver": "file", "filename": text(image), "node-name": "storage",
        "auto-read-only": true, "discard": "unmap" });
    let machine = Machine::start("riscv64", &["-blockdev", &storage.to_string()], |command| {
        command.args(["-blockdev", "qcow2,node-name=format,file=storage,read-only=off,cache.direct=off"]);
        command.args(["-device", "virtio-blk-device,drive=format,id=vd0,share-rw=off,write-cache=on"]);
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", text(socket)));
    });
    (machine, Client::connect(socket))
}

#[test]
fn snapshots_are_put_above_a_disk_while_the_guest_writes_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (base, first, second) = (path("base"), path("first"), path("second"));
    qemu_img(&["create", "-q", "-f", "qcow2", text(&base), &SIZE.to_string()]);
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", text(&base), text(&first)]);
    let (mut machine, mut client) = start(&base, &path("socket"));
    let mut disk = Disk::start(&mut machine);
    assert_eq!(disk.write(0, &[1; 4096]), 0);

    let overlay = json!({ "driver": "qcow2", "node-name": "first", "backing": null,
        "file": { "driver": "file", "filename": text(&first) } });
    client.execute("blockdev-add", overlay);
    client.execute("blockdev-snapshot", json!({ "node": "format", "overlay": "first" }));
    // A part of a cluster: the rest of it comes from behind.
    assert_eq!(disk.write(1, &[2; 512]), 0);
    assert_eq!(disk.request(FLUSH, 0, &[], 0), 0);
    client.execute(
        "blockdev-snapshot-sync",
        json!({ "node-name": "first", "snapshot-file": text(&second), "snapshot-node-name": "second" }),
    );
    assert_eq!(disk.write(2, &[3; 512]), 0);
    assert_eq!(disk.request(FLUSH, 0, &[], 0), 0);

    let user = client.execute("query-block", json!({}));
    let inserted = &user[0]["inserted"];
    assert_eq!(user[0]["qdev"], "/machine/peripheral/vd0/virtio-backend");
    assert_eq!((&inserted["node-name"], &inserted["backing_file_depth"]), (&json!("second"), &json!(2)));
    assert_eq!(inserted["image"]["backing-image"]["backing-image"]["filename"], text(&base));
    let nodes = client.execute("query-named-block-nodes", json!({ "flat": true }));
    let read_only = |name: &str| {
        nodes.as_array().unwrap().iter().find(|node| node["node-name"] == name).map(|node| node["ro"] == true)
    };
    assert_eq!(["second", "first", "format"].map(read_only), [Some(false), Some(true), Some(true)]);

    assert_eq!(refused(&mut client, "blockdev-del", json!({ "node-name": "first" })), "Node first is in use");
    let again = json!({ "node": "second", "overlay": "format" });
    assert!(refused(&mut client, "blockdev-snapshot", again).contains("already in use"));

    client.execute("quit", json!({}));
    machine.wait_for_end();
    let mut wanted = vec![0; SIZE];
    wanted[..4096].fill(1);
    assert!(content(&base) == wanted);
    wanted[512..1024].fill(2);
    assert!(content(&first) == wanted);
    wanted[1024..1536].fill(3);
    assert!(content(&second) == wanted);
    for image in [&base, &first, &second] {
        qemu_img(&["check", "-q", text(image)]);
    }
}

#[test]
fn nodes_come_and_go_and_what_is_done_with_them_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (image, other) = (path("image"), path("other"));
    qemu_img(&["create", "-q", "-f", "qcow2", text(&image), &SIZE.to_string()]);
    qemu_img(&["create", "-q", "-f", "raw", text(&other), &SIZE.to_string()]);
    let (mut machine, mut client) = start(&image, &path("socket"));
    let mut disk = Disk::start(&mut machine);

    client.execute("block-dirty-bitmap-add", json!({ "node": "format", "name": "changes", "granularity": 4096 }));
    assert_eq!(disk.write(9, &[1; 512]), 0);
    assert_eq!(disk.write(80, &[1; 4096]), 0);
    let inserted = client.execute("query-block", json!({}))[0]["inserted"].take();
    assert_eq!(inserted["dirty-bitmaps"][0]["count"], 2 * 4096, "{inserted}");
    client.execute("block-dirty-bitmap-clear", json!({ "node": "format", "name": "changes" }));
    client.execute("block-dirty-bitmap-disable", json!({ "node": "format", "name": "changes" }));
    assert_eq!(disk.write(9, &[1; 512]), 0);
    let inserted = client.execute("query-block", json!({}))[0]["inserted"].take();
    assert_eq!(inserted["dirty-bitmaps"][0]["count"], 0);
    let statistics = client.execute("query-blockstats", json!({}))[0]["stats"].take();
    assert_eq!((&statistics["wr_operations"], &statistics["wr_bytes"]), (&json!(3), &json!(5120)));
    assert_eq!(statistics["wr_highest_offset"], 80 * 512 + 4096);

    let file = json!({ "driver": "file", "filename": text(&other) });
    client.execute("blockdev-add", json!({ "driver": "raw", "node-name": "more", "file": file }));
    for (node, said) in [
        (json!({ "driver": "raw", "node-name": "more", "file": file }), "Duplicate nodes with node-name='more'"),
        (json!({ "driver": "raw", "file": file }), "'node-name' must be specified for the root node"),
        (json!({ "driver": "raw", "node-name": "2", "file": file }), "Invalid node-name: '2'"),
        (json!({ "driver": "raw", "node-name": "a" }), "Parameter 'file' is missing"),
        (json!({ "node-name": "a" }), "Parameter 'driver' is missing"),
        (json!({ "driver": "no", "node-name": "a" }), "Unknown driver 'no'"),
        (json!({ "driver": "raw", "node-name": "a", "file": "nowhere" }), "node-name='nowhere'"),
        (json!({ "driver": "raw", "node-name": "a", "file": file }), "lock"),
        (
            json!({ "driver": "raw", "node-name": "a", "read-only": "on", "file": "more" }),
            "Invalid parameter type for 'read-only', expected: boolean",
        ),
        (
            json!({ "driver": "raw", "node-name": "a", "file": { "driver": "file" } }),
            "Parameter 'file.filename' is missing",
        ),
        (json!({ "driver": "raw", "node-name": "a", "file": "more", "x": 1 }), "Parameter 'x' is unexpected"),
    ] {
        let answer = refused(&mut client, "blockdev-add", node);
        assert!(answer.contains(said), "{answer}");
    }
    client.execute("blockdev-del", json!({ "node-name": "more" }));
    // Nobody has the file any more.
    client.execute("blockdev-add", json!({ "options": { "driver": "raw", "id": "old", "file": file } }));
    assert_eq!(refused(&mut client, "blockdev-del", json!({ "node-name": "format" })), "Node format is in use");
    assert!(refused(&mut client, "blockdev-del", json!({ "node-name": "more" })).contains("Failed to find node"));
    client.execute("quit", json!({}));
    machine.wait_for_end();
}

#[test]
fn changes_are_made_together_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (base, first, second) = (path("base"), path("first"), path("second"));
    qemu_img(&["create", "-q", "-f", "qcow2", text(&base), &SIZE.to_string()]);
    let (mut machine, mut client) = start(&base, &path("socket"));
    let mut disk = Disk::start(&mut machine);
    let act = |kind: &str, data: Value| json!({ "type": kind, "data": data });
    let bitmap = |name: &str| json!({ "node": "format", "name": name });
    let sync = |file: &Path, name: &str| {
        let data = json!({ "node-name": "format", "snapshot-file": text(file), "snapshot-node-name": name });
        act("blockdev-snapshot-sync", data)
    };
    client.execute("block-dirty-bitmap-add", json!({ "node": "format", "name": "old", "granularity": 4096 }));
    assert_eq!(disk.write(0, &[1; 4096]), 0);
    let info = |client: &mut Client| client.execute("query-block", json!({}))[0]["inserted"].take();

    let undone = json!({ "actions": [
        act("block-dirty-bitmap-add", json!({ "node": "format", "name": "new", "granularity": 4096 })),
        act("block-dirty-bitmap-clear", bitmap("old")),
        act("block-dirty-bitmap-disable", bitmap("old")),
        act("blockdev-snapshot-internal-sync", json!({ "device": "format", "name": "kept" })),
        sync(&first, "first"),
        act("abort", json!({})),
    ]});
    assert_eq!(refused(&mut client, "transaction", undone), "Transaction aborted using Abort action");
    let inserted = info(&mut client);
    assert_eq!(inserted["node-name"], "format");
    assert_eq!(inserted["image"].get("snapshots"), None);
    let bitmaps = inserted["dirty-bitmaps"].as_array().unwrap();
    assert_eq!((bitmaps.len(), &bitmaps[0]["count"], &bitmaps[0]["recording"]), (1, &json!(4096), &json!(true)));
    assert_eq!(disk.write(8, &[2; 4096]), 0);

    client.execute("transaction", json!({ "actions": [] }));
    // A later change may be of what an earlier one made.
    client.execute(
        "transaction",
        json!({ "actions": [
            act("block-dirty-bitmap-add", json!({ "node": "format", "name": "new", "granularity": 65536, "disabled": true })),
            act("block-dirty-bitmap-merge", json!({ "node": "format", "target": "new", "bitmaps": ["old"] })),
            act("block-dirty-bitmap-remove", bitmap("old")),
            sync(&second, "second"),
        ]}),
    );
    assert_eq!(disk.write(16, &[3; 4096]), 0);
    let inserted = info(&mut client);
    assert_eq!((&inserted["node-name"], &inserted["backing_file"]), (&json!("second"), &json!(text(&base))));
    let nodes = client.execute("query-named-block-nodes", json!({ "flat": true }));
    let old = nodes.as_array().unwrap().iter().find(|node| node["node-name"] == "format").unwrap();
    assert_eq!((&old["dirty-bitmaps"][0]["name"], &old["dirty-bitmaps"][0]["count"]), (&json!("new"), &json!(65536)));
    for (action, said) in [
        (act("no-such-change", json!({})), "Parameter 'type' does not accept value 'no-such-change'"),
        (act("abort", json!({ "x": 1 })), "Parameter 'data.x' is unexpected"),
        (act("block-dirty-bitmap-clear", bitmap("old")), "Dirty bitmap 'old' not found"),
    ] {
        assert_eq!(refused(&mut client, "transaction", json!({ "actions": [action] })), said);
    }
    client.execute("quit", json!({}));
    machine.wait_for_end();
    let mut wanted = vec![0; SIZE];
    wanted[..4096].fill(1);
    wanted[4096..8192].fill(2);
    assert!(content(&base) == wanted);
    wanted[8192..12288].fill(3);
    assert!(content(&second) == wanted);
    for image in [&base, &second] {
        qemu_img(&["check", "-q", text(image)]);
    }
}

#[test]
fn clients_elsewhere_use_a_disk_while_the_guest_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (image, other, server) = (path("image"), path("other"), path("server"));
    qemu_img(&["create", "-q", "-f", "qcow2", text(&image), &SIZE.to_string()]);
    std::fs::write(&other, vec![5; SIZE]).unwrap();
    let (mut machine, mut client) = start(&image, &path("socket"));
    let mut disk = Disk::start(&mut machine);
    assert_eq!(disk.write(0, &[1; 4096]), 0);
    let export = |name: &str| format!("nbd+unix:///{name}?socket={}", text(&server));
    let unix = json!({ "type": "unix", "data": { "path": text(&server) } });

    assert_eq!(refused(&mut client, "nbd-server-add", json!({ "device": "format" })), "NBD server not running");
    client.execute("nbd-server-start", json!({ "addr": unix }));
    assert_eq!(refused(&mut client, "nbd-server-start", json!({ "addr": unix })), "NBD server already running");
    client.execute("nbd-server-add", json!({ "device": "format", "name": "guest's" }));
    // The guest writes it, and does not share that.
    let said = refused(&mut client, "nbd-server-add", json!({ "device": "format", "name": "w", "writable": true }));
    assert!(said.contains("Permission conflict on node 'format'"), "{said}");
    let file = json!({ "driver": "file", "filename": text(&other) });
    client.execute("blockdev-add", json!({ "driver": "raw", "node-name": "more", "file": file }));
    client.execute(
        "block-export-add",
        json!({ "type": "nbd", "id": "e", "node-name": "more", "name": "m", "writable": true }),
    );
    assert_eq!(client.execute("query-block-exports", json!({})).as_array().unwrap().len(), 2);
    assert_eq!(client.execute("query-block", json!({})).as_array().unwrap().len(), 1);
    assert_eq!(refused(&mut client, "blockdev-del", json!({ "node-name": "more" })), "Node more is in use");

    let copy = path("copy");
    qemu_img(&["convert", "-O", "raw", &export("guest%27s"), text(&copy)]);
    let mut wanted = vec![0; SIZE];
    wanted[..4096].fill(1);
    assert!(std::fs::read(&copy).unwrap() == wanted);
    qemu_img(&["convert", "-n", "-O", "raw", text(&copy), &export("m")]);
    assert!(std::fs::read(&other).unwrap() == wanted);

    // The client has gone; the server may not know it yet.
    let began = std::time::Instant::now();
    loop {
        let answer = client.send("block-export-del", json!({ "id": "e" }));
        if answer.get("return").is_some() {
            break;
        }
        assert!(answer["error"]["desc"].as_str().unwrap().contains("in use by 1 clients"), "{answer}");
        assert!(began.elapsed() < crate::support::LIMIT, "the client does not go");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    client.execute("blockdev-del", json!({ "node-name": "more" }));
    assert!(refused(&mut client, "block-export-del", json!({ "id": "e" })).contains("not found"));
    client.execute("nbd-server-stop", json!({}));
    assert_eq!(client.execute("query-block-exports", json!({})), json!([]));
    let failed = Command::new("qemu-img").args(["info", &export("guest%27s")]).output().unwrap();
    assert!(!failed.status.success());
    assert_eq!(refused(&mut client, "nbd-server-stop", json!({})), "NBD server not running");
    assert_eq!(disk.write(0, &[2; 512]), 0);
    client.execute("quit", json!({}));
    machine.wait_for_end();
}

#[test]
fn a_read_that_fails_once_stops_the_machine_and_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let (image, socket) = (folder.path().join("image"), folder.path().join("socket"));
    std::fs::write(&image, vec![7; 1 << 20]).unwrap();
    let drive = format!(
        "if=virtio,format=raw,rerror=stop,file.driver=blkdebug,file.image.driver=file,file.image.filename={},\
         file.inject-error.0.event=none,file.inject-error.0.iotype=read,file.inject-error.0.errno=5,\
         file.inject-error.0.sector=8,file.inject-error.0.once=on,file.inject-error.1.event=none,\
         file.inject-error.1.iotype=write,file.inject-error.1.errno=5,file.inject-error.1.sector=9",
        text(&image)
    );
    let mut machine = Machine::start("riscv64", &["-drive", &drive], |command| {
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", text(&socket)));
    });
    let mut client = Client::connect(&socket);
    let mut disk = Disk::start(&mut machine);
    // Nothing is wrong elsewhere; of a write that fails the guest is told.
    assert_eq!(disk.request(0, 0, &[], 4096), 0);
    assert_eq!(disk.write(9, &[1; 512]), 1);
    assert_eq!(client.wait_for("BLOCK_IO_ERROR")["data"]["action"], "report");
    let slot = disk.begin_read(8, 512);
    let event = client.wait_for("BLOCK_IO_ERROR");
    assert_eq!((&event["data"]["action"], &event["data"]["device"]), (&json!("stop"), &json!("virtio0")));
    client.wait_for("STOP");
    assert_eq!(client.execute("query-block", json!({}))[0]["io-status"], "failed");
    client.execute("cont", json!({}));
    assert_eq!(disk.finish(slot), 0);
    assert_eq!(client.execute("query-block", json!({}))[0]["io-status"], "ok");
    let statistics = client.execute("query-blockstats", json!({}))[0]["stats"].take();
    assert_eq!((&statistics["failed_rd_operations"], &statistics["failed_wr_operations"]), (&json!(1), &json!(1)));
    client.execute("quit", json!({}));
    machine.wait_for_end();
}
