//! Debug registers, single steps and the resume flag; and faults that are noticed late.

mod x86_64;

use translate::engine::Tiers;
use translate::x86_64::registers::{RAX, RCX, RSP};
use translate::x86_64::{debug, state};

use x86_64::{DATA, Ended, Processor};

const DEBUG: u8 = 1;
const GENERAL_PROTECTION: u8 = 13;
const BREAKPOINTS: u64 = 0xf;
const SINGLE_STEP: u64 = 1 << 14;

/// Runs a program on both back ends after `prepare`, which gets its address; `check` looks at what is left.
fn run(code: &[u8], prepare: impl Fn(&mut Processor, u64), check: impl Fn(&mut Processor, Ended)) {
    for (tiers, times) in [(Tiers::InterpreterOnly, 1), (Tiers::Baseline(1), 4), (Tiers::Immediate(1), 4)] {
        let mut processor = Processor::new(tiers);
        let program = processor.add_program(code);
        for _ in 0..times {
            processor.reset();
            prepare(&mut processor, program);
            let ended = processor.go_on_at(program);
            check(&mut processor, ended);
        }
    }
}

/// Arms breakpoint 0: `how` is LEN and R/W.
fn arm(processor: &mut Processor, address: u64, how: u64) {
    let cpu = processor.cpu();
    cpu.guest.dr[0] = address;
    cpu.guest.dr7 = 0x401 | how << 16;
    debug::update(cpu);
}

fn breakpoints_hit(processor: &mut Processor) -> u64 {
    processor.cpu().guest.dr6 & BREAKPOINTS
}

/// RFLAGS as the handler of an exception without error code finds them on its stack.
fn pushed_flags(processor: &mut Processor) -> u64 {
    let top = processor.cpu().context.registers[usize::from(RSP.0)];
    let mut flags = [0; 8];
    processor.read(top + 16, &mut flags);
    u64::from_le_bytes(flags)
}

#[test]
fn a_breakpoint_on_an_instruction_comes_before_it() {
    // nop; inc eax
    let code = [0x90, 0xff, 0xc0];
    run(
        &code,
        |processor, program| arm(processor, program + 1, 0),
        |processor, ended| {
            assert_eq!(ended, Ended::Exception(DEBUG, 1));
            assert_eq!(breakpoints_hit(processor), 1);
            assert_eq!(pushed_flags(processor) & state::FLAG_RF, 0);
            assert_eq!(processor.cpu().context.registers[usize::from(RAX.0)], 0);
        },
    );
}

#[test]
fn the_resume_flag_holds_for_one_instruction() {
    // dec ecx; jnz back to it
    let code = [0xff, 0xc9, 0x75, 0xfc];
    run(
        &code,
        |processor, program| {
            arm(processor, program, 0);
            processor.cpu().context.registers[usize::from(RCX.0)] = 2;
            let flags = state::rflags(processor.cpu()) | state::FLAG_RF;
            state::set_rflags(processor.cpu(), flags);
        },
        |processor, ended| {
            // The first time it passes; the second, it does not.
            assert_eq!(ended, Ended::Exception(DEBUG, 0));
            assert_eq!(processor.cpu().context.registers[usize::from(RCX.0)], 1);
        },
    );
}

#[test]
fn breakpoints_on_data_come_after_the_access() {
    // mov eax, [rdi+2]; mov [rdi+3], al; nop
    let code = [0x8b, 0x47, 0x02, 0x88, 0x47, 0x03, 0x90];
    let (writes, accesses, four_bytes) = (1, 3, 3 << 2);
    for (how, rip) in [(writes | four_bytes, 6), (accesses | four_bytes, 3)] {
        run(
            &code,
            |processor, _| arm(processor, DATA, how),
            |processor, ended| {
                assert_eq!(ended, Ended::Exception(DEBUG, rip));
                assert_eq!(breakpoints_hit(processor), 1);
            },
        );
    }
    // Just behind what is watched, on the same page.
    run(&code, |processor, _| arm(processor, DATA + 8, accesses), |_, ended| assert_eq!(ended, Ended::Normally));
}

#[test]
fn breakpoints_on_ports_need_debug_extensions() {
    // in al, 0x61; nop
    let code = [0xe4, 0x61, 0x90];
    let ports = 2;
    run(
        &code,
        |processor, _| {
            processor.cpu().guest.cr4 |= state::CR4_DE;
            arm(processor, 0x61, ports);
        },
        |_, ended| assert_eq!(ended, Ended::Exception(DEBUG, 2)),
    );
    run(&code, |processor, _| arm(processor, 0x61, ports), |_, ended| assert_eq!(ended, Ended::Normally));
}

#[test]
fn a_load_of_ss_holds_its_trap_back() {
    // mov ss, [rdi]; nop; nop
    let code = [0x8e, 0x17, 0x90, 0x90];
    run(
        &code,
        |processor, _| arm(processor, DATA, 3),
        |processor, ended| {
            assert_eq!(ended, Ended::Exception(DEBUG, 3));
            assert_eq!(breakpoints_hit(processor), 1);
        },
    );
}

#[test]
fn each_element_of_a_repeated_instruction_is_a_step() {
    // rep stosb
    let code = [0xf3, 0xaa];
    run(
        &code,
        |processor, _| {
            processor.cpu().context.registers[usize::from(RCX.0)] = 3;
            let flags = state::rflags(processor.cpu()) | state::FLAG_TF;
            state::set_rflags(processor.cpu(), flags);
        },
        |processor, ended| {
            assert_eq!(ended, Ended::Exception(DEBUG, 0));
            assert_eq!(processor.cpu().context.registers[usize::from(RCX.0)], 2);
            assert_eq!(processor.cpu().guest.dr6 & SINGLE_STEP, SINGLE_STEP);
            assert_ne!(pushed_flags(processor) & state::FLAG_RF, 0);
        },
    );
}

#[test]
fn jumps_to_addresses_that_are_not_canonical_fault_where_they_are() {
    let away = |processor: &mut Processor, _: u64| {
        processor.cpu().context.registers[usize::from(RAX.0)] = 1 << 60;
    };
    // nop, then: jmp rax; call rax; push rax, ret
    for (code, rip) in [(&[0x90, 0xff, 0xe0][..], 1), (&[0x90, 0xff, 0xd0], 1), (&[0x50, 0xc3], 1)] {
        run(code, away, |_, ended| assert_eq!(ended, Ended::Exception(GENERAL_PROTECTION, rip)));
    }
    // The return took nothing from the stack.
    run(&[0x50, 0xc3], away, |processor, _| {
        let frame = processor.cpu().context.registers[usize::from(RSP.0)];
        let mut pointer = [0; 8];
        processor.read(frame + 8 + 24, &mut pointer);
        let mut top = [0; 8];
        processor.read(u64::from_le_bytes(pointer), &mut top);
        assert_eq!(u64::from_le_bytes(top), 1 << 60);
    });
}

#[test]
fn no_instruction_has_more_than_15_bytes() {
    let mut code = vec![0x66; 14];
    code.push(0x90);
    run(&code, |_, _| (), |_, ended| assert_eq!(ended, Ended::Normally));
    code.insert(0, 0x66);
    run(&code, |_, _| (), |_, ended| assert_eq!(ended, Ended::Exception(GENERAL_PROTECTION, 0)));
}

#[test]
fn code_ends_at_the_limit_of_its_segment() {
    // inc eax three times
    let code = [0xff, 0xc0, 0xff, 0xc0, 0xff, 0xc0];
    run(
        &code,
        |processor, program| {
            processor.reset_32(u32::MAX);
            processor.cpu().guest.segments[1].limit = program as u32 + 4;
        },
        |processor, ended| {
            assert_eq!(ended, Ended::Exception(GENERAL_PROTECTION, 4));
            assert_eq!(processor.cpu().context.registers[usize::from(RAX.0)], 2);
        },
    );
}
