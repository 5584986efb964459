//! Code that is rewritten again and again is always executed as it was last written.

mod support;

use std::path::Path;

use support::assembler::{FENCE_I, Program, WFI, branch, i_type, r_type, s_type};
use support::machine::{Machine, RAM_START};
use translate::engine::Tiers;

/// Where the function is that the program rewrites, in a page of its own.
const FUNCTION: u64 = RAM_START + 0x1000;

/// Writes an instruction that adds a number to a0 and calls it, `calls` times for each of a1 = 0, 1, ... up to a2, and sums the results in a4.
fn program(times: u64, calls: u64) -> Program {
    let (ra, t0, t1, a0, a1, a2, a3, a4, a5) = (1, 5, 6, 10, 11, 12, 13, 14, 15);
    let mut p = Program::new(RAM_START);
    p.load_constant(a3, FUNCTION);
    p.load_constant(a2, times);
    p.load_constant(a1, 0);
    p.load_constant(a4, 0);
    let start = p.address();
    // addi a0, x0, a1 & 0x3ff
    p.word(i_type(0x13, t0, 7, a1, 0x3ff));
    p.word(i_type(0x13, t0, 1, t0, 20));
    p.load_constant(t1, i_type(0x13, a0, 0, 0, 0).into());
    p.word(r_type(0x33, t0, 6, t0, t1, 0));
    p.word(s_type(0x23, 2, a3, t0, 0));
    p.word(FENCE_I);
    p.load_constant(a5, calls);
    let call = p.address();
    p.word(i_type(0x67, ra, 0, a3, 0));
    p.word(r_type(0x33, a4, 0, a4, a0, 0));
    p.word(i_type(0x13, a5, 0, a5, 0xfff));
    p.word(branch(1, a5, 0, call.wrapping_sub(p.address()) as i32));
    p.word(i_type(0x13, a1, 0, a1, 1));
    p.word(branch(1, a1, a2, start.wrapping_sub(p.address()) as i32));
    p.word(WFI);
    p
}

/// A machine in which the program has run.
fn run(tiers: Tiers, keep: Option<&Path>, times: u64, calls: u64) -> Machine {
    let mut function = Program::new(FUNCTION);
    function.word(0);
    function.word(i_type(0x67, 0, 0, 1, 0));
    let mut machine = Machine::new(tiers, keep);
    machine.write(RAM_START, program(times, calls).bytes());
    machine.write(FUNCTION, function.bytes());
    machine.engine.cpu.context.pc = RAM_START;
    machine.run_until_halted();
    let expected: u64 = (0..times).map(|number| (number & 0x3ff) * calls).sum();
    assert_eq!(machine.engine.cpu.context.registers[14], expected, "{tiers:?}, {calls} calls each");
    machine
}

#[test]
fn rewritten_code_is_executed_as_it_was_last_written() {
    for tiers in [Tiers::InterpreterOnly, Tiers::Baseline(2), Tiers::Immediate(2), Tiers::Background(100)] {
        for (times, calls) in [(5000, 1), (2000, 5), (200, 100)] {
            let machine = run(tiers, None, times, calls);
            let volatile = machine.engine.cpu.counters.volatile;
            // Where the code is called often enough, or makes a region, it is worth keeping.
            let keeps = calls >= 32 || calls >= 2 && tiers == Tiers::Immediate(2);
            assert_eq!(volatile <= times / 2, keeps, "{tiers:?}, {calls} calls each: {volatile}");
        }
    }
}

#[test]
fn code_of_an_earlier_run_is_not_executed_once_it_is_rewritten() {
    for tiers in [Tiers::Baseline(2), Tiers::Immediate(2)] {
        let folder = tempfile::tempdir().unwrap();
        drop(run(tiers, Some(folder.path()), 3, 200));
        // The function becomes what it was in the end, and then something else.
        let machine = run(tiers, Some(folder.path()), 6, 200);
        assert!(machine.engine.cpu.counters.restored > 0, "{tiers:?}");
    }
}
