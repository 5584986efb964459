//! Code that is interrupted at any time goes on as if it had not been, however it is executed.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::assembler::{Program, WFI, branch, i_type, jal, r_type, s_type};
use support::machine::{Machine, Outcome, RAM_START};
use translate::cpu::ATTENTION_INTERRUPT;
use translate::engine::Tiers;

const NOP: u32 = 0x13;
/// Where the program stores.
const DATA: u64 = RAM_START + 0x1000;

/// Counts a1 up to a2 and sums in a0, by loops of several shapes: one block that begins with instructions without any operation, two
/// blocks in either order, one through a call, which returns to a computed address.
fn program(times: u64) -> Program {
    let (ra, a0, a1, a2, a3, t0) = (1, 10, 11, 12, 13, 5);
    let mut p = Program::new(RAM_START);
    let sum = |p: &mut Program| {
        p.word(r_type(0x33, a0, 0, a0, a1, 0));
        p.word(i_type(0x13, a1, 0, a1, 1));
    };
    p.load_constant(a3, DATA);
    p.load_constant(a2, times);
    // One block.
    p.load_constant(a1, 0);
    let start = p.address();
    p.word(NOP);
    p.word(NOP);
    sum(&mut p);
    let distance = start.wrapping_sub(p.address()) as i32;
    p.word(branch(1, a1, a2, distance));
    // Two blocks, the second of which jumps back, behind a store.
    p.load_constant(a1, 0);
    let start = p.address();
    p.word(NOP);
    sum(&mut p);
    p.word(i_type(0x13, t0, 7, a1, 1));
    p.word(branch(0, t0, 0, 8));
    p.word(s_type(0x23, 3, a3, a0, 0));
    p.word(NOP);
    let distance = start.wrapping_sub(p.address()) as i32;
    p.word(branch(1, a1, a2, distance));
    // A jump forward to a call of what lies before.
    p.load_constant(a1, 0);
    p.word(jal(0, 16));
    let function = p.address();
    sum(&mut p);
    p.word(i_type(0x67, 0, 0, ra, 0));
    let start = p.address();
    p.word(NOP);
    let distance = function.wrapping_sub(p.address()) as i32;
    p.word(jal(ra, distance));
    let distance = start.wrapping_sub(p.address()) as i32;
    p.word(branch(1, a1, a2, distance));
    p.word(WFI);
    p
}

fn run(tiers: Tiers, times: u64, interrupt: bool) -> Outcome {
    let mut machine = Machine::new(tiers, None);
    machine.write(RAM_START, program(times).bytes());
    machine.engine.cpu.context.pc = RAM_START;
    let signals = machine.engine.cpu.signals.clone();
    let done = AtomicBool::new(!interrupt);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // No interrupt is pending, so the processor only looks.
                signals.request(ATTENTION_INTERRUPT);
                std::thread::sleep(Duration::from_micros(5));
            }
        });
        machine.run_until_halted();
        done.store(true, Ordering::Relaxed);
    });
    machine.outcome()
}

#[test]
fn interruptions_change_nothing() {
    for (tiers, times) in [
        (Tiers::InterpreterOnly, 200_000),
        (Tiers::Baseline(1), 5_000_000),
        (Tiers::Immediate(1), 5_000_000),
        (Tiers::Background(100), 5_000_000),
    ] {
        let undisturbed = run(tiers, times, false);
        assert_eq!(undisturbed.registers[10], 3 * (times * (times - 1) / 2), "{tiers:?}");
        run(tiers, times, true).assert_same(&undisturbed, &format!("{tiers:?}"));
    }
}
