//! A machine that is moved between KVM and the JIT while it runs.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::qmp::Client;
use support::running_guest::Guest;
use support::{LIMIT, brolga};

/// Reads the disk's first 64 blocks for ever, each of which is full of its number, and counts the good ones at [`BLOCKS`]; its
/// timer interrupts are counted at [`TICKS`]. Real mode, at F000:0000.
#[rustfmt::skip]
const PROGRAM: &[u8] = &[
    // cli; DS, ES, SS = 0; SP = 0x7000; vector 8 = F000:handler
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x70, 0xb8, 0xb2, 0x00, 0xa3, 0x20, 0x00, 0xc7, 0x06, 0x22, 0x00, 0x00, 0xf0,
    // the first 8259: edge-triggered, vectors from 8, no cascade, all but IRQ 0 masked
    0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x08, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xfe, 0xe6, 0x21,
    // channel 0 of the 8254: mode 2, every 0x800 ticks
    0xb0, 0x34, 0xe6, 0x43, 0x30, 0xc0, 0xe6, 0x40, 0xb0, 0x08, 0xe6, 0x40,
    // mov ebp, 0x12345678; fninit; fld1
    0x66, 0xbd, 0x78, 0x56, 0x34, 0x12, 0xdb, 0xe3, 0xd9, 0xe8,
    // 'r' to the serial port; sti; xor bx, bx
    0xba, 0xf8, 0x03, 0xb0, 0x72, 0xee, 0xfb, 0x31, 0xdb,
    // main: READ SECTORS, one, of the block whose number is BL
    0xba, 0xf6, 0x01, 0xb0, 0xe0, 0xee, 0xba, 0xf2, 0x01, 0xb0, 0x01, 0xee, 0x42, 0x88, 0xd8, 0xee, 0x42, 0x30, 0xc0, 0xee, 0x42, 0xee, 0xba, 0xf7, 0x01, 0xb0, 0x20, 0xee,
    // poll: until not busy, and data is there
    0xec, 0xa8, 0x80, 0x75, 0xfb, 0xa8, 0x08, 0x74, 0xf7,
    // rep insw of 256 words to 0x7e00
    0xba, 0xf0, 0x01, 0xbf, 0x00, 0x7e, 0xb9, 0x00, 0x01, 0xfc, 0xf3, 0x6d,
    // each byte must be BL
    0x88, 0xd8, 0x88, 0xdc, 0xbf, 0x00, 0x7e, 0xb9, 0x00, 0x01, 0xf3, 0xaf, 0x75, 0x20,
    // EBP and ST(0) must be what they were
    0x66, 0x81, 0xfd, 0x78, 0x56, 0x34, 0x12, 0x75, 0x17, 0xdf, 0x16, 0x08, 0x05, 0x83, 0x3e, 0x08, 0x05, 0x01, 0x75, 0x0c,
    // inc dword [0x500]; next block, of 64; jmp main
    0x66, 0xff, 0x06, 0x00, 0x05, 0xfe, 0xc3, 0x80, 0xe3, 0x3f, 0xeb, 0xa1,
    // wrong: 'E' to the serial port; cli; hlt
    0xba, 0xf8, 0x03, 0xb0, 0x45, 0xee, 0xfa, 0xf4,
    // handler: inc dword [0x504]; end of interrupt; iret
    0x50, 0x66, 0xff, 0x06, 0x04, 0x05, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf,
];

const BLOCKS: u64 = 0x500;
const TICKS: u64 = 0x504;

/// How often the machine moves.
const MOVES: u32 = 1000;

fn count(client: &mut Client, folder: &Path, address: u64) -> u32 {
    let file = folder.join("count");
    client.execute("pmemsave", json!({"val": address, "size": 4, "filename": file}));
    u32::from_le_bytes(std::fs::read(&file).unwrap().try_into().unwrap())
}

fn status(client: &mut Client) -> Value {
    client.execute("query-status", json!({}))
}

#[test]
fn a_guest_goes_to_and_fro_between_kvm_and_the_jit() {
    let test = "a_guest_goes_to_and_fro_between_kvm_and_the_jit";
    if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        eprintln!("SKIPPED: {test}: /dev/kvm cannot be opened here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut image = vec![0; 0x1_0000];
    image[..PROGRAM.len()].copy_from_slice(PROGRAM);
    // At the reset vector: jmp 0xf000:0
    image[0xfff0..0xfff5].copy_from_slice(&[0xea, 0, 0, 0, 0xf0]);
    let (firmware, disk, socket) = (folder.path().join("bios"), folder.path().join("disk"), folder.path().join("qmp"));
    std::fs::write(&firmware, image).unwrap();
    std::fs::write(&disk, (0..64_u8).flat_map(|block| [block; 512]).collect::<Vec<u8>>()).unwrap();
    let mut command = brolga();
    command.args(["-arch", "x86_64", "-M", "pc,switchable=on", "-accel", "kvm", "-m", "16", "-serial", "stdio"]);
    command.arg("-bios").arg(&firmware).arg("-hda").arg(&disk);
    command.arg("-qmp").arg(format!("unix:{},server,nowait", socket.display()));
    let mut guest = Guest::start(&mut command).unwrap();
    let mut client = Client::connect(&socket);
    guest.wait_for("r", LIMIT).unwrap();

    assert_eq!(status(&mut client)["x-accelerator"], "kvm");
    let refused = client.send("x-accelerator-set", json!({"name": "warp"}));
    assert!(refused["error"]["desc"].as_str().is_some_and(|text| text.contains("kvm, jit")), "{refused}");
    client.execute("x-accelerator-set", json!({"name": "kvm"}));
    let events = client.events_so_far();
    assert!(!events.iter().any(|name| name == "X_ACCELERATOR_CHANGED"), "it was on kvm already: {events:?}");

    let mut before = (0, 0);
    for number in 0..MOVES {
        let (from, to) = if number % 2 == 0 { ("kvm", "jit") } else { ("jit", "kvm") };
        client.execute("x-accelerator-set", json!({"name": to}));
        let event = client.wait_for("X_ACCELERATOR_CHANGED");
        assert_eq!(event["data"], json!({"from": from, "to": to}));
        // Now and then it must get somewhere: blocks are read and the timer ticks, on either accelerator.
        if number % 50 < 2 {
            let deadline = std::time::Instant::now() + LIMIT;
            loop {
                let now = (count(&mut client, folder.path(), BLOCKS), count(&mut client, folder.path(), TICKS));
                if now.0 > before.0 && now.1 > before.1 {
                    before = now;
                    break;
                }
                let stuck = std::time::Instant::now() > deadline;
                let registers = client.execute("human-monitor-command", json!({"command-line": "info registers"}));
                assert!(
                    !stuck,
                    "after {number} moves, on {to}, it is stuck with {now:?} after {before:?}: {registers}"
                );
            }
        }
    }
    let state = status(&mut client);
    assert_eq!((&state["status"], &state["x-accelerator"]), (&json!("running"), &json!("kvm")));
    // Moving changes nothing about stopping.
    client.execute("stop", json!({}));
    client.execute("x-accelerator-set", json!({"name": "jit"}));
    assert_eq!(status(&mut client)["status"], "paused");
    client.execute("cont", json!({}));
    client.execute("system_reset", json!({}));
    guest.wait_for("r", LIMIT).unwrap();
    client.execute("quit", json!({}));
    guest.wait_for_end(LIMIT).unwrap();
    assert!(guest.wait_for("E", std::time::Duration::ZERO).is_err(), "the guest found something wrong");
}

#[test]
fn a_machine_that_was_not_made_for_it_stays_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("qmp");
    let subject = support::subject::riscv64_on_jit();
    let mut guest = Guest::start(subject.command(folder.path(), &socket).args(["-serial", "stdio"])).unwrap();
    let mut client = Client::connect(&socket);
    let refused = client.send("x-accelerator-set", json!({"name": "kvm"}));
    assert!(refused["error"]["desc"].as_str().is_some_and(|text| text.contains("switchable=on")), "{refused}");
    assert!(status(&mut client).get("x-accelerator").is_none());
    client.execute("quit", json!({}));
    guest.wait_for_end(LIMIT).unwrap();
    let output = brolga().args(["-arch", "riscv64", "-M", "virt,switchable=on", "-bios", "none"]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("needs both accelerators kvm and jit"), "{message}");
}
