//! Code that changes while it runs.

use crate::machine::Machine;
use crate::program::{Program, Width};
use crate::subject::{Outcome, Subject};

/// A routine that answers `value`, filled up to 16 bytes.
fn routine(machine: &Machine, address: u64, value: u64) -> Vec<u8> {
    let mut routine = Program::new(machine.architecture, address);
    routine.set(value).end_routine();
    let mut bytes = routine.bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

/// A program that writes over a routine which ran often executes the new one, also when both share a page.
pub(crate) fn a_program_changes_its_code(subject: &Subject) -> Outcome {
    let mut machine = Machine::new(subject, 1);
    let (code, data) = (machine.layout.code, machine.layout.data);
    for place in [code + 0x800, data + 0x3000] {
        machine.write(place, &routine(&machine, place, 111));
        let changed = routine(&machine, place, 222);
        let mut program = machine.program();
        program.repeat(subject.iterations, |program| {
            program.call(place);
        });
        program.store(Width::Eight, data);
        for (offset, bytes) in (0..).step_by(8).zip(changed.chunks_exact(8)) {
            program.set(u64::from_le_bytes(bytes.try_into().unwrap())).store(Width::Eight, place + offset);
        }
        program.synchronise_code();
        program.repeat(subject.iterations, |program| {
            program.call(place);
        });
        program.store(Width::Eight, data + 8).done();
        machine.load(&program);
        machine.restart_at(program.origin());
        machine.run_to_end();
        assert_eq!((machine.read_u64(data), machine.read_u64(data + 8)), (111, 222), "routine at {place:#x}");
    }
    Ok(())
}
