//! The controller with a disk in memory; register by register it is tested on the whole machine.

use super::*;
use crate::test_support::{Lines, memory, raw_disk};
use accel::memory::GuestMemory;
use std::time::{Duration, Instant};

const SIZE: u64 = 1440 << 10;

fn controller() -> (Arc<FloppyController>, Arc<GuestMemory>, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SIZE).unwrap();
    let medium = raw_disk(file.path(), false);
    let memory = memory(0x1_0000);
    let dma = I8237::new(memory.clone());
    let controller = FloppyController::new([Some(Drive { medium }), None], Lines::new().line(6), dma).unwrap();
    (controller, memory, file)
}

fn command(controller: &FloppyController, bytes: &[u8]) {
    for byte in bytes {
        let _ = controller.write_port(FIFO, Width::Byte, u64::from(*byte));
    }
}

fn results(controller: &FloppyController) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while controller.read_port(MAIN_STATUS, Width::Byte) & 0xf0 != 0xd0 {
        assert!(Instant::now() < deadline, "no results");
        std::thread::yield_now();
    }
    let mut results = Vec::new();
    while controller.read_port(MAIN_STATUS, Width::Byte) & 0x40 != 0 {
        results.push(controller.read_port(FIFO, Width::Byte) as u8);
    }
    results
}

#[test]
fn a_transfer_is_saved_and_goes_on_elsewhere() {
    let (first, _, file) = controller();
    std::io::Write::write_all(&mut file.as_file(), &[7; 512]).unwrap();
    let start = [(DIGITAL_OUTPUT, 0x0c), (DIGITAL_INPUT, 0)];
    for (port, value) in start {
        let _ = first.write_port(port, Width::Byte, value);
    }
    // Without DMA; sector 1 alone.
    command(&first, &[0x03, 0xaf, 0x03]);
    command(&first, &[0x46, 0, 0, 0, 1, 2, 1, 0x1b, 0xff]);
    while first.read_port(MAIN_STATUS, Width::Byte) != 0xf0 {
        std::thread::yield_now();
    }
    for _ in 0..500 {
        assert_eq!(first.read_port(FIFO, Width::Byte), 7);
    }
    first.pause();
    let (second, ..) = controller();
    second.pause();
    second.restore(&first.save()).unwrap();
    assert_eq!(second.save(), first.save());
    second.resume();
    for _ in 0..12 {
        assert_eq!(second.read_port(FIFO, Width::Byte), 7);
    }
    assert_eq!(results(&second), [0x40, 0x80, 0, 1, 0, 1, 2]);
}

#[test]
fn impossible_states_are_refused() {
    let (controller, ..) = controller();
    let saved = controller.save();
    for (field, value) in [("command", vec![0u8; 18]), ("results", vec![0; 100])] {
        let mut state = saved.clone();
        state[field] = serde_json::json!(value);
        assert!(controller.restore(&state).is_err(), "{field}");
    }
    assert_eq!(controller.save(), saved);
}
