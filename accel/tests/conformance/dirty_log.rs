//! The log of pages that processors wrote.

use accel::memory::{MemorySlot, PAGE_SIZE, allocate};

use crate::machine::Machine;
use crate::program::{Program, Width};
use crate::subject::{Outcome, Subject};

const PAGES: u64 = 130;
const NONE: [u64; 0] = [];

fn pages(log: &[u64]) -> Vec<u64> {
    (0..PAGES).filter(|page| log[(page / 64) as usize] >> (page % 64) & 1 != 0).collect()
}

/// The log has the pages that were written since the last call, and no others.
pub(crate) fn written_pages_are_logged_once(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    if !machine.accelerator.capabilities().dirty_log {
        return Err("the backend has no dirty log".into());
    }
    let extra = machine.layout.extra;
    let region = allocate(extra, PAGES * PAGE_SIZE).unwrap();
    machine.accelerator.map_memory(MemorySlot { region, read_only: false }).unwrap();
    let touch = |program: &mut Program, pages: &[u64]| {
        for page in pages {
            program.store(Width::Four, extra + page * PAGE_SIZE + 8);
        }
        program.load(Width::Eight, extra + 2 * PAGE_SIZE).done();
    };
    let mut first = machine.program();
    touch(&mut first, &[0, 3, 63, 64, 129, 3]);
    let mut second = Program::new(machine.architecture, machine.layout.code + 0x1000);
    touch(&mut second, &[5]);
    machine.load(&first);
    machine.load(&second);

    // Before logging starts nothing is kept.
    machine.run_to_end();
    machine.accelerator.set_dirty_logging(extra, true).unwrap();
    assert_eq!(pages(&machine.accelerator.dirty_log(extra).unwrap()), NONE);
    machine.restart_at(first.origin());
    machine.run_to_end();
    assert_eq!(pages(&machine.accelerator.dirty_log(extra).unwrap()), [0, 3, 63, 64, 129]);
    assert_eq!(pages(&machine.accelerator.dirty_log(extra).unwrap()), NONE);
    machine.restart_at(second.origin());
    machine.run_to_end();
    assert_eq!(pages(&machine.accelerator.dirty_log(extra).unwrap()), [5]);
    // Pages that were clean again are logged again.
    machine.restart_at(first.origin());
    machine.run_to_end();
    assert_eq!(pages(&machine.accelerator.dirty_log(extra).unwrap()), [0, 3, 63, 64, 129]);
    machine.accelerator.set_dirty_logging(extra, false).unwrap();
    machine.restart_at(second.origin());
    machine.run_to_end();
    Ok(())
}
