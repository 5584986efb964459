//! Several processors.

use crate::machine::{Machine, run_guarded};
use crate::program::Program;
use crate::subject::{Outcome, Subject};

/// Atomic increments from several processors lose none.
pub(crate) fn atomic_increments_add_up(subject: &Subject) -> Outcome {
    const PROCESSORS: u32 = 4;
    let mut machine = Machine::new(subject, PROCESSORS);
    let data = machine.layout.data;
    for index in 0..PROCESSORS {
        let code = machine.layout.code + 0x1000 * u64::from(index);
        let mut program = Program::new(machine.architecture, code);
        program.repeat(subject.iterations, |program| {
            program.increment_atomically(data);
        });
        program.done_as(index as u8);
        machine.load(&program);
    }
    let bus = machine.bus.clone();
    std::thread::scope(|scope| {
        for vcpu in &mut machine.vcpus {
            let bus = &bus;
            scope.spawn(move || assert_eq!(run_guarded(vcpu.as_mut(), bus), accel::Exit::Kicked));
        }
    });
    assert_eq!(machine.read_u64(data), u64::from(PROCESSORS) * u64::from(subject.iterations));
    Ok(())
}
