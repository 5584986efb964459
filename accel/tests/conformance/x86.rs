//! x86-64: encodings of the operations of [`Program`](crate::program::Program) for long mode, and a machine in long
//! mode: addresses below 4 GiB mapped one to one, flat segments, and interrupt gates.

use accel::memory::Region;
use accel::state::x86_64::{Activity, CpuState, DescriptorTable, Segment, cr0, cr4, efer, gpr};
use vm_memory::{Bytes, MemoryRegionAddress};

use crate::bus::VECTOR;
use crate::machine::Layout;
use crate::program::Width;

pub(crate) const LAYOUT: Layout = Layout {
    ram: 0,
    code: 0x1_0000,
    handler: 0x1_8000,
    data: 0x2_0000,
    device: 0xd000_0000,
    extra: 0x4000_0000,
    input: 0,
};

const PAGE_TABLES: u64 = 0x1000;
const GDT: u64 = 0x7000;
const IDT: u64 = 0x8000;
/// The stack of processor 0 ends here, that of each further one 0x100 bytes below the last.
const STACKS: u64 = 0xf000;

const CODE_SELECTOR: u16 = 8;
const DATA_SELECTOR: u16 = 16;
const USER_DATA_SELECTOR: u16 = 24;
const USER_CODE_SELECTOR: u16 = 32;

/// Vector of debug exceptions.
const DEBUG: u64 = 1;
/// Vector of non-maskable interrupts.
const NMI: u64 = 2;

/// Writes page tables and descriptor tables.
pub(crate) fn write_tables(ram: &Region) {
    let write = |address: u64, value: u64| ram.write_obj(value, MemoryRegionAddress(address)).unwrap();
    let (pointers, directories) = (PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000);
    write(PAGE_TABLES, pointers | 7);
    for gigabyte in 0..4 {
        let directory = directories + 0x1000 * gigabyte;
        write(pointers + 8 * gigabyte, directory | 7);
        for entry in 0..512 {
            // Present, writable, user, 2 MiB.
            write(directory + 8 * entry, gigabyte << 30 | entry << 21 | 0x87);
        }
    }
    write(GDT + u64::from(CODE_SELECTOR), 0x00af_9b00_0000_ffff);
    write(GDT + u64::from(DATA_SELECTOR), 0x00cf_9300_0000_ffff);
    write(GDT + u64::from(USER_CODE_SELECTOR), 0x00af_fb00_0000_ffff);
    write(GDT + u64::from(USER_DATA_SELECTOR), 0x00cf_f300_0000_ffff);
    for vector in [DEBUG, NMI, u64::from(VECTOR)] {
        // An interrupt gate: offset 15..0, selector, present 64-bit gate, offset 31..16; then offset 63..32.
        let handler = LAYOUT.handler;
        let gate = handler & 0xffff | u64::from(CODE_SELECTOR) << 16 | 0x8e00 << 32 | (handler >> 16) << 48;
        write(IDT + 16 * vector, gate);
        write(IDT + 16 * vector + 8, 0);
    }
}

/// Puts a processor into long mode at `code`.
pub(crate) fn prepare(state: &mut CpuState, code: u64, index: u32) {
    state.cr0 = cr0::PE | cr0::ET | cr0::WP | cr0::PG;
    state.cr3 = PAGE_TABLES;
    state.cr4 = cr4::PAE | cr4::OSFXSR;
    state.efer = efer::LME | efer::LMA;
    state.cs = Segment::flat_code_64(CODE_SELECTOR);
    let data = Segment::flat_data(DATA_SELECTOR);
    (state.ds, state.es, state.ss, state.fs, state.gs) = (data, data, data, data, data);
    state.tr = Segment::empty_task_state_64();
    state.gdt = DescriptorTable { base: GDT, limit: 39 };
    state.idt = DescriptorTable { base: IDT, limit: 0xfff };
    state.gpr[gpr::RSP] = STACKS - 0x100 * u64::from(index);
    state.rip = code;
    state.rflags = 2;
    state.activity = Activity::Running;
}

/// Puts a processor that is in long mode into user mode.
pub(crate) fn enter_user_mode(state: &mut CpuState) {
    state.cs = Segment { privilege: 3, ..Segment::flat_code_64(USER_CODE_SELECTOR | 3) };
    let data = Segment { privilege: 3, ..Segment::flat_data(USER_DATA_SELECTOR | 3) };
    (state.ds, state.es, state.ss) = (data, data, data);
}

// RAX is the accumulator, RBX the address register, RCX the counter; the handler uses R14 and R15.

pub(crate) fn set_accumulator(code: &mut Vec<u8>, value: u64) {
    code.extend([0x48, 0xb8]);
    code.extend(value.to_le_bytes());
}

pub(crate) fn set_address(code: &mut Vec<u8>, address: u64) {
    code.extend([0x48, 0xbb]);
    code.extend(address.to_le_bytes());
}

pub(crate) fn set_counter(code: &mut Vec<u8>, times: u32) {
    code.push(0xb9);
    code.extend(times.to_le_bytes());
}

pub(crate) fn add(code: &mut Vec<u8>, value: u16) {
    code.extend([0x48, 0x05]);
    code.extend(u32::from(value).to_le_bytes());
}

pub(crate) fn nop(code: &mut Vec<u8>) {
    code.push(0x90);
}

pub(crate) fn load(code: &mut Vec<u8>, width: Width) {
    code.extend::<&[u8]>(match width {
        Width::One => &[0x0f, 0xb6, 0x03],
        Width::Two => &[0x0f, 0xb7, 0x03],
        Width::Four => &[0x8b, 0x03],
        Width::Eight => &[0x48, 0x8b, 0x03],
    });
}

pub(crate) fn store(code: &mut Vec<u8>, width: Width) {
    code.extend::<&[u8]>(match width {
        Width::One => &[0x88, 0x03],
        Width::Two => &[0x66, 0x89, 0x03],
        Width::Four => &[0x89, 0x03],
        Width::Eight => &[0x48, 0x89, 0x03],
    });
}

pub(crate) fn increment_atomically(code: &mut Vec<u8>) {
    // lock inc qword [rbx]
    code.extend([0xf0, 0x48, 0xff, 0x03]);
}

pub(crate) fn synchronise_code(_code: &mut Vec<u8>) {
    // Processors see their own changes without help.
}

pub(crate) fn call(code: &mut Vec<u8>, address: u64) {
    // mov rdx, address; call rdx
    code.extend([0x48, 0xba]);
    code.extend(address.to_le_bytes());
    code.extend([0xff, 0xd2]);
}

pub(crate) fn end_routine(code: &mut Vec<u8>) {
    code.push(0xc3);
}

pub(crate) fn count_down(code: &mut Vec<u8>, back: usize) {
    // dec ecx; jnz back
    code.extend([0xff, 0xc9, 0x0f, 0x85]);
    code.extend((-(back as i32) - 8).to_le_bytes());
}

pub(crate) fn enable_interrupts(code: &mut Vec<u8>) {
    code.push(0xfb);
}

pub(crate) fn halt(code: &mut Vec<u8>) {
    code.push(0xf4);
}

pub(crate) fn spin(code: &mut Vec<u8>) {
    code.extend([0xeb, 0xfe]);
}

pub(crate) fn handler(code: &mut Vec<u8>, counter: u64, acknowledge: u64) {
    // mov r15, counter; inc qword [r15]; mov r15, acknowledge; mov [r15], eax; iretq
    code.extend([0x49, 0xbf]);
    code.extend(counter.to_le_bytes());
    code.extend([0x49, 0xff, 0x07, 0x49, 0xbf]);
    code.extend(acknowledge.to_le_bytes());
    code.extend([0x41, 0x89, 0x07, 0x48, 0xcf]);
}
