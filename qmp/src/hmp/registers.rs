//! Processor registers as `info registers` shows them, and by name.

use accel::state::{CpuState, riscv64, x86_64};

/// All registers.
pub(super) fn dump(state: &CpuState) -> String {
    match state {
        CpuState::Riscv64(state) => dump_riscv64(state),
        CpuState::X86_64(state) => dump_x86_64(state),
    }
}

/// The register called `name`, without `$`; `pc` is one of every architecture.
pub(super) fn find(state: &CpuState, name: &str) -> Option<u64> {
    match state {
        CpuState::Riscv64(state) => find_riscv64(state, name),
        CpuState::X86_64(state) => find_x86_64(state, name),
    }
}

/// Lays `cells` out in lines of `columns`.
fn table(cells: impl IntoIterator<Item = String>, columns: usize, separator: &str) -> String {
    let cells: Vec<String> = cells.into_iter().collect();
    cells.chunks(columns).map(|line| line.join(separator) + "\n").collect()
}

const RISCV_INTEGER_NAMES: [&str; 32] = [
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "s2",
    "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
];

const RISCV_FLOAT_NAMES: [&str; 32] = [
    "ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "fs0", "fs1", "fa0", "fa1", "fa2", "fa3", "fa4", "fa5",
    "fa6", "fa7", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7", "fs8", "fs9", "fs10", "fs11", "ft8", "ft9", "ft10", "ft11",
];

fn riscv_control_registers(state: &riscv64::CpuState) -> [(&'static str, u64); 19] {
    [
        ("mhartid", state.hart_id),
        ("mstatus", state.mstatus),
        ("mip", state.mip | state.interrupt_inputs),
        ("mie", state.mie),
        ("mideleg", state.mideleg),
        ("medeleg", state.medeleg),
        ("mtvec", state.mtvec),
        ("stvec", state.stvec),
        ("mepc", state.mepc),
        ("sepc", state.sepc),
        ("mcause", state.mcause),
        ("scause", state.scause),
        ("mtval", state.mtval),
        ("stval", state.stval),
        ("mscratch", state.mscratch),
        ("sscratch", state.sscratch),
        ("satp", state.satp),
        ("priv", state.privilege.into()),
        ("fcsr", state.fcsr.into()),
    ]
}

fn dump_riscv64(state: &riscv64::CpuState) -> String {
    let control = [("pc", state.pc)].into_iter().chain(riscv_control_registers(state));
    let mut text: String = control.map(|(name, value)| format!(" {name:<8} {value:016x}\n")).collect();
    for (letter, names, values) in [('x', RISCV_INTEGER_NAMES, state.x), ('f', RISCV_FLOAT_NAMES, state.f)] {
        let cells = names.iter().zip(values).enumerate();
        let cell = |(number, (name, value)): (usize, (&&str, u64))| {
            format!(" {:<8} {value:016x}", format!("{letter}{number}/{name}"))
        };
        text.push_str(&table(cells.map(cell), 4, ""));
    }
    text
}

fn find_riscv64(state: &riscv64::CpuState, name: &str) -> Option<u64> {
    if name == "pc" {
        return Some(state.pc);
    }
    for (letter, names, values) in [('x', RISCV_INTEGER_NAMES, state.x), ('f', RISCV_FLOAT_NAMES, state.f)] {
        let by_number = name.strip_prefix(letter).and_then(|number| number.parse().ok());
        let position = by_number.or_else(|| names.iter().position(|&own| own == name));
        if let Some(value) = position.and_then(|position: usize| values.get(position)) {
            return Some(*value);
        }
    }
    if name == "fp" {
        return state.x.get(8).copied();
    }
    riscv_control_registers(state).into_iter().find(|(own, _)| *own == name).map(|(_, value)| value)
}

/// In encoding order.
const X86_NAMES: [&str; 16] =
    ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"];

/// In the order in which people expect them.
const X86_ORDER: [usize; 16] = [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];

fn dump_x86_64(state: &x86_64::CpuState) -> String {
    let long = state.efer & x86_64::efer::LMA != 0;
    let code64 = state.in_64_bit_code();
    let mut text = String::new();
    let registers = X86_ORDER.iter().filter_map(|&number| Some((*X86_NAMES.get(number)?, *state.gpr.get(number)?)));
    if code64 {
        text.push_str(&table(registers.map(|(name, value)| format!("{name:<3}={value:016x}")), 4, " "));
    } else {
        let low = registers.take(8).map(|(name, value)| {
            let name = name.replacen('R', "E", 1);
            format!("{name}={:08x}", value as u32)
        });
        text.push_str(&table(low, 4, " "));
    }
    let flags: String = [(11, 'O'), (10, 'D'), (7, 'S'), (6, 'Z'), (4, 'A'), (2, 'P'), (0, 'C')]
        .map(|(bit, letter)| if state.rflags >> bit & 1 == 1 { letter } else { '-' })
        .iter()
        .collect();
    let privilege = state.privilege();
    let halted = u8::from(state.activity == x86_64::Activity::Halted);
    let inhibited = u8::from(state.events.shadow != x86_64::InterruptShadow::None);
    let smm = u8::from(state.events.in_smm);
    let (pointer, flag_register) = if code64 {
        (format!("RIP={:016x}", state.rip), "RFL")
    } else {
        (format!("EIP={:08x}", state.rip as u32), "EFL")
    };
    text.push_str(&format!(
        "{pointer} {flag_register}={:08x} [{flags}] CPL={privilege} II={inhibited} A20=1 SMM={smm} HLT={halted}\n",
        state.rflags as u32
    ));
    for (name, segment) in [
        ("ES", &state.es),
        ("CS", &state.cs),
        ("SS", &state.ss),
        ("DS", &state.ds),
        ("FS", &state.fs),
        ("GS", &state.gs),
        ("LDT", &state.ldt),
        ("TR", &state.tr),
    ] {
        text.push_str(&segment_line(name, segment, state));
    }
    for (name, table) in [("GDT", &state.gdt), ("IDT", &state.idt)] {
        let base = if long { format!("{:016x}", table.base) } else { format!("{:08x}", table.base as u32) };
        text.push_str(&format!("{name}=     {base} {:08x}\n", table.limit));
    }
    let (cr2, cr3) = if long {
        (format!("{:016x}", state.cr2), format!("{:016x}", state.cr3))
    } else {
        (format!("{:08x}", state.cr2 as u32), format!("{:08x}", state.cr3 as u32))
    };
    text.push_str(&format!("CR0={:08x} CR2={cr2} CR3={cr3} CR4={:08x}\n", state.cr0 as u32, state.cr4 as u32));
    let debug = state.dr.iter().enumerate().map(|(number, value)| format!("DR{number}={value:016x}"));
    text.push_str(&table(debug, 4, " "));
    text.push_str(&format!("DR6={:016x} DR7={:016x}\n", state.dr6, state.dr7));
    text.push_str(&format!("EFER={:016x}\n", state.efer));
    let fpu = &state.fpu;
    text.push_str(&format!(
        "FCW={:04x} FSW={:04x} [ST={}] FTW={:02x} MXCSR={:08x}\n",
        fpu.fcw,
        fpu.fsw,
        fpu.fsw >> 11 & 7,
        fpu.ftw,
        fpu.mxcsr
    ));
    let x87 = fpu.st.iter().enumerate();
    let x87 = x87.map(|(number, value)| format!("FPR{number}={:016x} {:04x}", value.significand, value.sign_exponent));
    text.push_str(&table(x87, 2, " "));
    let vectors = fpu.xmm.iter().take(if code64 { 16 } else { 8 }).enumerate();
    let vectors = vectors.map(|(number, [low, high])| format!("XMM{number:02}={high:016x} {low:016x}"));
    text.push_str(&table(vectors, 2, " "));
    text
}

fn segment_line(name: &str, segment: &x86_64::Segment, state: &x86_64::CpuState) -> String {
    let long = state.efer & x86_64::efer::LMA != 0;
    let flags = u32::from(segment.kind & 15) << 8
        | u32::from(segment.code_or_data) << 12
        | u32::from(segment.privilege & 3) << 13
        | u32::from(segment.present) << 15
        | u32::from(segment.available) << 20
        | u32::from(segment.long) << 21
        | u32::from(segment.default_big) << 22
        | u32::from(segment.granularity) << 23;
    let base = if long { format!("{:016x}", segment.base) } else { format!("{:08x}", segment.base as u32) };
    let mut line = format!("{name:<3}={:04x} {base} {:08x} {flags:08x}", segment.selector, segment.limit);
    if state.cr0 & x86_64::cr0::PE != 0 && segment.present && !segment.unusable {
        let bit = |bit: u8, letter: char| if segment.kind & bit != 0 { letter } else { '-' };
        let kind = match (segment.code_or_data, segment.kind & 8 != 0) {
            (true, true) => {
                let size = match (segment.long, segment.default_big) {
                    (true, _) => "64",
                    (false, true) => "32",
                    (false, false) => "16",
                };
                format!("CS{size} [{}{}{}]", bit(4, 'C'), bit(2, 'R'), bit(1, 'A'))
            }
            (true, false) => {
                let size = if segment.default_big || long { "  " } else { "16" };
                format!("DS{size} [{}{}{}]", bit(4, 'E'), bit(2, 'W'), bit(1, 'A'))
            }
            (false, _) => system_segment(segment.kind & 15, long).to_owned(),
        };
        line.push_str(&format!(" DPL={} {kind}", segment.privilege & 3));
    }
    line.push('\n');
    line
}

/// Names of system descriptors (SDM volume 3, table 3-2).
fn system_segment(kind: u8, long: bool) -> &'static str {
    match (kind, long) {
        (1, false) => "TSS16-avl",
        (2, _) => "LDT",
        (3, false) => "TSS16-busy",
        (4, false) => "CallGate16",
        (5, false) => "TaskGate",
        (6, false) => "IntGate16",
        (7, false) => "TrapGate16",
        (9, false) => "TSS32-avl",
        (9, true) => "TSS64-avl",
        (11, false) => "TSS32-busy",
        (11, true) => "TSS64-busy",
        (12, false) => "CallGate32",
        (12, true) => "CallGate64",
        (14, false) => "IntGate32",
        (14, true) => "IntGate64",
        (15, false) => "TrapGate32",
        (15, true) => "TrapGate64",
        _ => "Reserved",
    }
}

fn find_x86_64(state: &x86_64::CpuState, name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let general = |wanted: &str| {
        let position = X86_NAMES.iter().position(|&own| own == wanted)?;
        state.gpr.get(position).copied()
    };
    Some(match name {
        // Where the processor will read the next instruction.
        "pc" => state.program_counter(),
        "rip" | "eip" => state.rip,
        "rflags" | "eflags" => state.rflags,
        "cr0" => state.cr0,
        "cr2" => state.cr2,
        "cr3" => state.cr3,
        "cr4" => state.cr4,
        "efer" => state.efer,
        "cs" => state.cs.selector.into(),
        "ds" => state.ds.selector.into(),
        "es" => state.es.selector.into(),
        "fs" => state.fs.selector.into(),
        "gs" => state.gs.selector.into(),
        "ss" => state.ss.selector.into(),
        "fs.base" => state.fs.base,
        "gs.base" => state.gs.base,
        _ => match upper.strip_prefix('E').filter(|rest| rest.len() == 2) {
            Some(rest) => general(&format!("R{rest}"))? & 0xffff_ffff,
            None => general(&upper)?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x86_in_real_mode_shows_the_old_registers() {
        let mut state = x86_64::CpuState::reset(0);
        state.gpr[x86_64::gpr::RSP] = 0x7c00;
        let text = dump(&CpuState::X86_64(Box::new(state)));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "EAX=00000000 EBX=00000000 ECX=00000000 EDX=00000600");
        assert_eq!(lines[1], "ESI=00000000 EDI=00000000 EBP=00000000 ESP=00007c00");
        assert_eq!(lines[2], "EIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0");
        assert_eq!(lines[3], "ES =0000 00000000 0000ffff 00009300");
        assert_eq!(lines[4], "CS =f000 ffff0000 0000ffff 00009b00");
        assert_eq!(lines[13], "CR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000");
        assert_eq!(
            *lines.last().unwrap(),
            "XMM06=0000000000000000 0000000000000000 XMM07=0000000000000000 0000000000000000"
        );
    }

    #[test]
    fn x86_in_long_mode_shows_sixty_four_bits() {
        let mut state = x86_64::CpuState::reset(0);
        state.cr0 |= x86_64::cr0::PE | x86_64::cr0::PG;
        state.efer = x86_64::efer::LMA | x86_64::efer::LME;
        state.cs.long = true;
        state.rflags |= 0x41;
        state.gpr[9] = 0xffff_8000_0000_1234;
        let state = CpuState::X86_64(Box::new(state));
        let text = dump(&state);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].starts_with("R8 =0000000000000000 R9 =ffff800000001234 R10="), "{}", lines[2]);
        assert!(lines[4].starts_with("RIP=000000000000fff0 RFL=00000043 [---Z--C] CPL=0"), "{}", lines[4]);
        assert!(lines[6].ends_with("0000ffff 00209b00 DPL=0 CS64 [-RA]"), "{}", lines[6]);
        assert_eq!((find(&state, "r9"), find(&state, "edx")), (Some(0xffff_8000_0000_1234), Some(0x600)));
        assert_eq!((find(&state, "rdx"), find(&state, "x1"), find(&state, "e")), (Some(0x600), None, None));
    }
}
