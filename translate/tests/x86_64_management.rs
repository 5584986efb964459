//! System-management mode: entry, RSM, SMBASE, what waits for its end.

mod x86_64;

use translate::engine::Tiers;
use translate::x86_64::registers::{RAX, RBX, RCX, RSP};
use translate::x86_64::{event, management, state};

use x86_64::{Ended, Processor};

const INVALID_OPCODE: u8 = 6;
const NMI: u8 = 2;
const BASE: u64 = management::BASE_AT_RESET as u64;
/// Offsets of the save-state area.
const HALT_RESTART: u64 = 0xc9;
const REVISION: u64 = 0xfc;
const SAVED_BASE: u64 = 0x100;
const SAVED_CR0: u64 = 0x158;
const SAVED_RIP: u64 = 0x178;
const PAGE_TABLES: u64 = 0x5_0000;
/// RSM.
const RSM: [u8; 2] = [0x0f, 0xaa];

/// A processor in 64-bit mode with paging on, addresses mapped to themselves, for each way to run; with it how often to run.
fn processors() -> [(Processor, usize); 3] {
    [(Tiers::InterpreterOnly, 1), (Tiers::Baseline(1), 4), (Tiers::Immediate(1), 4)]
        .map(|(tiers, times)| (Processor::new(tiers), times))
}

fn reset(processor: &mut Processor) {
    // Two levels of tables and a table of 2 MiB pages.
    processor.write(PAGE_TABLES, &(PAGE_TABLES + 0x1003).to_le_bytes());
    processor.write(PAGE_TABLES + 0x1000, &(PAGE_TABLES + 0x2003).to_le_bytes());
    for page in 0..2_u64 {
        processor.write(PAGE_TABLES + 0x2000 + 8 * page, &(page << 21 | 0x83).to_le_bytes());
    }
    processor.reset();
    let cpu = processor.cpu();
    cpu.guest.cr0 |= state::CR0_PG;
    cpu.guest.cr3 = PAGE_TABLES;
    cpu.guest.cr4 |= state::CR4_PAE;
    cpu.guest.management_base = BASE as u32;
    cpu.flush_tlb();
}

fn raise_smi(processor: &mut Processor) {
    processor.cpu().signals.set_input(event::INPUT_SMI, true);
}

fn read<const BYTES: usize>(processor: &Processor, address: u64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    processor.read(address, &mut bytes);
    bytes
}

fn saved(base: u64, offset: u64) -> u64 {
    base + management::STATE_AREA + offset
}

#[test]
fn all_registers_survive() {
    for (mut processor, times) in processors() {
        let program = processor.add_program(&[0x90]);
        // xor eax, eax; mov ebx, eax; mov ds, ax; mov esp, eax; rsm
        let handler = [&[0x66, 0x31, 0xc0, 0x66, 0x89, 0xc3, 0x8e, 0xd8, 0x66, 0x89, 0xc4][..], &RSM].concat();
        processor.write(BASE + 0x8000, &handler);
        for _ in 0..times {
            reset(&mut processor);
            for number in 0..16 {
                if number != usize::from(RSP.0) {
                    processor.cpu().context.registers[number] = 0x1111_2222_3333_0000 + number as u64;
                }
            }
            let flags = state::rflags(processor.cpu()) | state::FLAG_DF | 0x8c1;
            state::set_rflags(processor.cpu(), flags);
            let (guest, registers) = (processor.cpu().guest.clone(), processor.cpu().context.registers);
            raise_smi(&mut processor);
            assert_eq!(processor.go_on_at(program), Ended::Normally);
            assert_eq!(u32::from_le_bytes(read(&processor, saved(BASE, REVISION))), 0x2_0064);
            assert_eq!(u64::from_le_bytes(read(&processor, saved(BASE, SAVED_RIP))), program);
            assert_eq!(read(&processor, saved(BASE, HALT_RESTART)), [0]);
            assert_eq!(state::rflags(processor.cpu()), flags | 2);
            let cpu = processor.cpu();
            assert_eq!(cpu.context.registers[..16], registers[..16]);
            assert_eq!(cpu.context.registers[20..26], registers[20..26], "bases of segments");
            assert_eq!(cpu.guest.segments, guest.segments);
            assert_eq!((cpu.guest.ldt, cpu.guest.tr), (guest.ldt, guest.tr));
            assert_eq!((cpu.guest.gdt, cpu.guest.idt), (guest.gdt, guest.idt));
            assert_eq!((cpu.guest.cr0, cpu.guest.cr3, cpu.guest.cr4), (guest.cr0, guest.cr3, guest.cr4));
            assert_eq!((cpu.guest.efer, cpu.guest.dr6, cpu.guest.dr7), (guest.efer, guest.dr6, guest.dr7));
            assert!(!cpu.guest.in_management && !cpu.guest.nmi_masked);
        }
    }
}

#[test]
fn resuming_outside_the_mode_is_no_instruction() {
    for (mut processor, times) in processors() {
        let program = processor.add_program(&RSM);
        for _ in 0..times {
            reset(&mut processor);
            assert_eq!(processor.go_on_at(program), Ended::Exception(INVALID_OPCODE, 0));
        }
    }
}

#[test]
fn the_base_moves_with_the_next_entry() {
    let moved = BASE + 0x2_0000 - 0x8000;
    for (mut processor, _) in processors() {
        let program = processor.add_program(&[0x90]);
        // mov dword cs:[0xff00], moved; rsm
        let mut handler = vec![0x2e, 0x66, 0xc7, 0x06, 0x00, 0xff];
        handler.extend((moved as u32).to_le_bytes());
        handler.extend(RSM);
        processor.write(BASE + 0x8000, &handler);
        reset(&mut processor);
        raise_smi(&mut processor);
        assert_eq!(processor.go_on_at(program), Ended::Normally);
        assert_eq!(u64::from(processor.cpu().guest.management_base), moved);
        state::reset(processor.cpu(), true);
        assert_eq!(u64::from(processor.cpu().guest.management_base), moved, "INIT keeps it");
        state::reset(processor.cpu(), false);
        assert_eq!(u64::from(processor.cpu().guest.management_base), BASE, "a reset does not");
    }
}

#[test]
fn other_interrupts_wait_for_the_end() {
    for (mut processor, times) in processors() {
        let program = processor.add_program(&[0x90]);
        processor.write(BASE + 0x8000, &[&[0x90][..], &RSM].concat());
        for _ in 0..times {
            reset(&mut processor);
            raise_smi(&mut processor);
            event::send_nmi(&processor.cpu().signals);
            // The system-management interrupt is the first, although both wait; the NMI comes at the interrupted instruction.
            assert_eq!(processor.go_on_at(program), Ended::Exception(NMI, 0));
            assert_eq!(u64::from_le_bytes(read(&processor, saved(BASE, SAVED_RIP))), program);
        }
    }
}

#[test]
fn a_second_interrupt_is_kept_and_init_waits() {
    for (mut processor, _) in processors() {
        reset(&mut processor);
        // The handler halts: nothing but its end would let these in.
        processor.write(BASE + 0x8000, &[0xf4]);
        let program = processor.add_program(&[0x90]);
        raise_smi(&mut processor);
        assert_eq!(processor.go_on_at(program), Ended::Normally);
        assert!(processor.cpu().guest.in_management);
        raise_smi(&mut processor);
        processor.cpu().signals.set_input(event::INPUT_INIT, true);
        let pc = processor.cpu().context.pc;
        processor.cpu().context.registers[usize::from(RCX.0)] = 1;
        processor.write(pc, &[0xf4]);
        assert_eq!(processor.go_on_at(pc), Ended::Normally);
        assert!(processor.cpu().guest.in_management);
        let inputs = processor.cpu().signals.inputs.load(std::sync::atomic::Ordering::SeqCst);
        assert_eq!(inputs, 1 << event::INPUT_SMI | 1 << event::INPUT_INIT);
    }
}

#[test]
fn a_halted_processor_halts_again_unless_the_handler_says_otherwise() {
    // mov ebx, 5 behind HLT is only reached if the handler clears the flag.
    let program = [0xf4, 0xbb, 5, 0, 0, 0];
    // mov byte cs:[0xfec9], 0
    let clear = [0x2e, 0xc6, 0x06, 0xc9, 0xfe, 0];
    for (handler, expected) in [(RSM.to_vec(), 0), ([&clear[..], &RSM].concat(), 5)] {
        for (mut processor, _) in processors() {
            let program = processor.add_program(&program);
            processor.write(BASE + 0x8000, &handler);
            reset(&mut processor);
            assert_eq!(processor.go_on_at(program), Ended::Normally);
            raise_smi(&mut processor);
            assert_eq!(processor.go_on_halted(), Ended::Normally);
            assert_eq!(processor.cpu().context.registers[usize::from(RBX.0)], expected);
            assert_eq!(u64::from_le_bytes(read(&processor, saved(BASE, SAVED_RIP))), program + 1);
        }
    }
}

#[test]
fn an_impossible_state_shuts_down() {
    for (mut processor, _) in processors() {
        let program = processor.add_program(&[0x90]);
        // mov dword cs:[0xff58], paging without protection; rsm
        let mut handler = vec![0x2e, 0x66, 0xc7, 0x06];
        handler.extend(((management::STATE_AREA + SAVED_CR0) as u16).to_le_bytes());
        handler.extend((state::CR0_PG as u32).to_le_bytes());
        handler.extend(RSM);
        processor.write(BASE + 0x8000, &handler);
        reset(&mut processor);
        raise_smi(&mut processor);
        processor.cpu().context.registers[usize::from(RAX.0)] = 7;
        assert!(processor.shuts_down_at(program));
        assert_eq!(u64::from(u32::from_le_bytes(read(&processor, saved(BASE, SAVED_BASE)))), BASE);
    }
}
