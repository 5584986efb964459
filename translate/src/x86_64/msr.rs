//! Model-specific registers (SDM volume 4), control and debug registers.

use crate::cpu::Cpu;
use crate::guest::Exception;
use crate::platform::LocalApicRegister;

use super::event::{Fault, general_protection, invalid_opcode, number, vector};
use super::segment::SegmentName;
use super::segment::attribute::LONG;
use super::state::*;
use super::{debug, mmu, xsave};

/// Ticks of the time stamp counter in a millisecond, where nothing else is asked for: it counts nanoseconds.
pub const TIME_STAMP_KHZ: u32 = 1_000_000;

const TIME_STAMP: u32 = 0x10;
const APIC_BASE: u32 = 0x1b;
const APIC_BASE_X2APIC: u64 = 1 << 10;
const TIME_STAMP_ADJUST: u32 = 0x3b;
const MICROCODE: u32 = 0x8b;
const MTRR_CAPABILITIES: u32 = 0xfe;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const MACHINE_CHECK_CAPABILITIES: u32 = 0x179;
const MACHINE_CHECK_STATUS: u32 = 0x17a;
const MISC_ENABLE: u32 = 0x1a0;
/// Control, status, address and more of each of ten banks.
const MACHINE_CHECK_BANKS: std::ops::RangeInclusive<u32> = 0x400..=0x427;
const HARDWARE_CONFIGURATION: u32 = 0xc001_0015;
const PAT: u32 = 0x277;

/// Registers that only hold what was written and begin with a value other than zero.
pub(super) const AT_RESET: [(u32, u64); 2] = [(PAT, 0x0007_0406_0007_0406), (MISC_ENABLE, 1)];

const DEADLINE: u32 = 0x6e0;
const X2APIC: std::ops::RangeInclusive<u32> = 0x800..=0x8ff;
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const SFMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;

/// Registers that hold what was written, and 0 before: MTRRs, machine checks, debugging, AMD's system configuration.
fn is_plain(number: u32) -> bool {
    matches!(
        number,
        MACHINE_CHECK_STATUS
            | 0x17b
            | MISC_ENABLE
            | 0x1d9
            | 0x200..=0x20f
            | 0x250
            | 0x258..=0x259
            | 0x268..=0x26f
            | 0x2ff
            | 0x400..=0x427
            | 0xc000_0408..=0xc000_040f
            | 0xc001_0000..=0xc001_0007
            | 0xc001_0010
            | 0xc001_0015..=0xc001_001f
            | 0xc001_0055
            | 0xc001_0058
            | 0xc001_0111..=0xc001_0117
            | 0xc001_1020..=0xc001_102a
    )
}

/// The local APIC is enabled, as `IA32_APIC_BASE` says; a processor without one on its bus counts as one that has.
pub(super) fn has_enabled_apic(cpu: &Cpu<X86_64>) -> bool {
    cpu.platform().read_local_apic(LocalApicRegister::Base).is_none_or(|base| base & 1 << 11 != 0)
}

/// The time stamp counter.
pub fn time_stamp(cpu: &Cpu<X86_64>) -> u64 {
    cpu.guest.model.ticks(cpu.platform().now()).wrapping_add(cpu.guest.tsc_offset)
}

/// Makes the time stamp counter count on from `value`.
pub fn set_time_stamp(cpu: &mut Cpu<X86_64>, value: u64) {
    cpu.guest.tsc_offset = value.wrapping_sub(cpu.guest.model.ticks(cpu.platform().now()));
}

/// Moves the time stamp counter and what `IA32_TSC_ADJUST` says of that (SDM volume 3, 18.17.3).
fn adjust_time_stamp(cpu: &mut Cpu<X86_64>, by: u64) {
    cpu.guest.tsc_offset = cpu.guest.tsc_offset.wrapping_add(by);
    cpu.guest.tsc_adjust = cpu.guest.tsc_adjust.wrapping_add(by);
}

fn base_register(cpu: &mut Cpu<X86_64>, name: SegmentName) -> &mut u64 {
    &mut cpu.context.registers[usize::from(super::registers::segment_base(name).0)]
}

/// RDMSR.
pub fn read(cpu: &mut Cpu<X86_64>, number: u32) -> Result<u64, Fault> {
    let unknown = || general_protection(0);
    Ok(match number {
        TIME_STAMP => time_stamp(cpu),
        TIME_STAMP_ADJUST => cpu.guest.tsc_adjust,
        APIC_BASE => cpu.platform().read_local_apic(LocalApicRegister::Base).ok_or_else(unknown)?,
        MICROCODE => 0x0100_0065 << 32,
        // Eight variable ranges, fixed ranges, write combining.
        MTRR_CAPABILITIES => 0x508,
        SYSENTER_CS => cpu.guest.sysenter_cs,
        SYSENTER_ESP => cpu.guest.sysenter_esp,
        SYSENTER_EIP => cpu.guest.sysenter_eip,
        MACHINE_CHECK_CAPABILITIES => 10,
        DEADLINE => {
            let deadline = cpu.platform().read_local_apic(LocalApicRegister::Deadline).ok_or_else(unknown)?;
            if deadline == 0 { 0 } else { cpu.guest.model.ticks(deadline).wrapping_add(cpu.guest.tsc_offset) }
        }
        number if X2APIC.contains(&number) => {
            let register = LocalApicRegister::X2apic(number - X2APIC.start());
            cpu.platform().read_local_apic(register).ok_or_else(unknown)?
        }
        EFER => cpu.guest.efer,
        STAR => cpu.guest.star,
        LSTAR => cpu.guest.lstar,
        CSTAR => cpu.guest.cstar,
        SFMASK => cpu.guest.sfmask,
        FS_BASE => *base_register(cpu, SegmentName::Fs),
        GS_BASE => *base_register(cpu, SegmentName::Gs),
        KERNEL_GS_BASE => cpu.guest.kernel_gs_base,
        TSC_AUX => cpu.guest.tsc_aux,
        number if number == PAT || is_plain(number) => cpu.guest.other_msrs.get(&number).copied().unwrap_or(0),
        _ => return Err(unknown()),
    })
}

/// WRMSR.
pub fn write(cpu: &mut Cpu<X86_64>, number: u32, value: u64) -> Result<(), Fault> {
    let unknown = || general_protection(0);
    let canonical = |cpu: &Cpu<X86_64>| if mmu::is_storable(cpu, value) { Ok(value) } else { Err(unknown()) };
    match number {
        TIME_STAMP => adjust_time_stamp(cpu, value.wrapping_sub(time_stamp(cpu))),
        TIME_STAMP_ADJUST => adjust_time_stamp(cpu, value.wrapping_sub(cpu.guest.tsc_adjust)),
        APIC_BASE => {
            if value & APIC_BASE_X2APIC != 0 && !cpu.guest.model.features.has_named("x2apic") {
                return Err(unknown());
            }
            cpu.platform().write_local_apic(LocalApicRegister::Base, value).ok_or_else(unknown)?;
        }
        // Loading microcode changes nothing.
        MICROCODE | 0x79 | 0xc001_0020 => {}
        SYSENTER_CS => cpu.guest.sysenter_cs = value,
        SYSENTER_ESP => cpu.guest.sysenter_esp = canonical(cpu)?,
        SYSENTER_EIP => cpu.guest.sysenter_eip = canonical(cpu)?,
        PAT => {
            let types_exist = value.to_le_bytes().into_iter().all(|kind| matches!(kind, 0 | 1 | 4..=7));
            if !types_exist {
                return Err(unknown());
            }
            cpu.guest.other_msrs.insert(PAT, value);
        }
        DEADLINE => {
            let ticks = value.wrapping_sub(cpu.guest.tsc_offset);
            // Rounded up, so that the counter has reached the value by then.
            let deadline = if value == 0 { 0 } else { cpu.guest.model.nanoseconds(ticks).saturating_add(1) };
            cpu.platform().write_local_apic(LocalApicRegister::Deadline, deadline).ok_or_else(unknown)?;
        }
        number if X2APIC.contains(&number) => {
            let register = LocalApicRegister::X2apic(number - X2APIC.start());
            cpu.platform().write_local_apic(register, value).ok_or_else(unknown)?;
        }
        EFER => write_efer(cpu, value)?,
        STAR => cpu.guest.star = value,
        LSTAR => cpu.guest.lstar = canonical(cpu)?,
        CSTAR => cpu.guest.cstar = canonical(cpu)?,
        SFMASK => cpu.guest.sfmask = value & 0xffff_ffff,
        FS_BASE => *base_register(cpu, SegmentName::Fs) = canonical(cpu)?,
        GS_BASE => *base_register(cpu, SegmentName::Gs) = canonical(cpu)?,
        KERNEL_GS_BASE => cpu.guest.kernel_gs_base = canonical(cpu)?,
        TSC_AUX => cpu.guest.tsc_aux = value & 0xffff_ffff,
        number if MACHINE_CHECK_BANKS.contains(&number) => {
            let writable = match number & 3 {
                // All or no errors are reported; bit 10 of the fourth bank is Linux's own affair.
                0 => value == 0 || value | 1 << 10 | 1 == u64::MAX,
                // Errors are only ever cleared, unless HWCR permits more.
                1 => value == 0 || cpu.guest.other_msrs.get(&HARDWARE_CONFIGURATION).is_some_and(|v| v & 1 << 18 != 0),
                _ => true,
            };
            if !writable {
                return Err(unknown());
            }
            cpu.guest.other_msrs.insert(number, value);
        }
        number if is_plain(number) => {
            cpu.guest.other_msrs.insert(number, value);
        }
        _ => return Err(unknown()),
    }
    Ok(())
}

fn write_efer(cpu: &mut Cpu<X86_64>, value: u64) -> Result<(), Fault> {
    let allowed = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    let changes_mode = (value ^ cpu.guest.efer) & EFER_LME != 0;
    if value & !allowed != 0 || changes_mode && cpu.guest.cr0 & CR0_PG != 0 {
        return Err(general_protection(0));
    }
    // LMA is the processor's own.
    cpu.guest.efer = value & !EFER_LMA | cpu.guest.efer & EFER_LMA;
    mmu::flush(cpu);
    Ok(())
}

/// MOV from a control register.
pub(super) fn read_control(cpu: &Cpu<X86_64>, number: u64) -> u64 {
    match number {
        0 => cpu.guest.cr0,
        2 => cpu.guest.cr2,
        3 => cpu.guest.cr3,
        4 => cpu.guest.cr4,
        _ => cpu.platform().read_local_apic(LocalApicRegister::TaskPriority).unwrap_or(cpu.guest.cr8),
    }
}

/// MOV to a control register.
pub(super) fn write_control(cpu: &mut Cpu<X86_64>, number: u64, value: u64) -> Result<(), Fault> {
    match number {
        0 => write_cr0(cpu, value),
        2 => {
            cpu.guest.cr2 = value;
            Ok(())
        }
        3 => write_cr3(cpu, value),
        4 => write_cr4(cpu, value),
        _ => {
            if value > 15 {
                return Err(general_protection(0));
            }
            cpu.guest.cr8 = value;
            // Without a local APIC the priority is only kept.
            let _ = cpu.platform().write_local_apic(LocalApicRegister::TaskPriority, value);
            Ok(())
        }
    }
}

pub(super) fn write_cr0(cpu: &mut Cpu<X86_64>, value: u64) -> Result<(), Fault> {
    let known = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;
    let inconsistent = value & CR0_PG != 0 && value & CR0_PE == 0
        || value & CR0_PG == 0 && cpu.guest.cr4 & CR4_PCIDE != 0
        || value & CR0_NW != 0 && value & CR0_CD == 0;
    if value >> 32 != 0 || inconsistent {
        return Err(general_protection(0));
    }
    let value = value & known | CR0_ET;
    let changed = value ^ cpu.guest.cr0;
    if changed & value & CR0_PG != 0 {
        if cpu.guest.efer & EFER_LME != 0 {
            let code_is_long = cpu.guest.segments[SegmentName::Cs as usize].has(LONG);
            if cpu.guest.cr4 & CR4_PAE == 0 || code_is_long {
                return Err(general_protection(0));
            }
            cpu.guest.efer |= EFER_LMA;
        } else if cpu.guest.cr4 & CR4_PAE != 0 {
            mmu::load_page_directory_pointers(cpu)?;
        }
    }
    if changed & !value & CR0_PG != 0 {
        if cpu.guest.is_64_bit() {
            return Err(general_protection(0));
        }
        cpu.guest.efer &= !EFER_LMA;
    }
    cpu.guest.cr0 = value;
    if changed & (CR0_PG | CR0_WP | CR0_PE) != 0 {
        mmu::flush(cpu);
    }
    Ok(())
}

fn write_cr3(cpu: &mut Cpu<X86_64>, value: u64) -> Result<(), Fault> {
    let before = cpu.guest.cr3;
    if cpu.guest.is_long() {
        // Bit 63 says that nothing need be forgotten.
        let keep = if cpu.guest.cr4 & CR4_PCIDE != 0 { 1 << 63 } else { 0 };
        let address = value & !keep;
        if !mmu::is_physical(address) {
            return Err(general_protection(0));
        }
        cpu.guest.cr3 = address;
    } else {
        cpu.guest.cr3 = value & 0xffff_ffff;
        if cpu.guest.cr0 & CR0_PG != 0
            && cpu.guest.cr4 & CR4_PAE != 0
            && let Err(fault) = mmu::load_page_directory_pointers(cpu)
        {
            cpu.guest.cr3 = before;
            return Err(fault);
        }
    }
    mmu::flush_address_space(cpu);
    Ok(())
}

fn write_cr4(cpu: &mut Cpu<X86_64>, value: u64) -> Result<(), Fault> {
    if value & !cpu.guest.model.control_4() != 0 {
        return Err(general_protection(0));
    }
    let changed = value ^ cpu.guest.cr4;
    let long = cpu.guest.is_long();
    let impossible = long && (value & CR4_PAE == 0 || changed & CR4_LA57 != 0)
        || changed & value & CR4_PCIDE != 0 && (!long || cpu.guest.cr3 & 0xfff != 0);
    if impossible {
        return Err(general_protection(0));
    }
    let before = cpu.guest.cr4;
    cpu.guest.cr4 = value;
    let paging = CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP;
    if changed & paging != 0
        && cpu.guest.cr0 & CR0_PG != 0
        && value & CR4_PAE != 0
        && !cpu.guest.is_long()
        && let Err(fault) = mmu::load_page_directory_pointers(cpu)
    {
        cpu.guest.cr4 = before;
        return Err(fault);
    }
    if changed & CR4_DE != 0 {
        debug::update(cpu);
    }
    if changed & (paging | CR4_SMAP | CR4_LA57 | CR4_PCIDE) != 0 {
        mmu::flush(cpu);
    }
    Ok(())
}

/// LMSW: the low four bits of CR0, of which PE can only be set.
pub(super) fn load_machine_status(cpu: &mut Cpu<X86_64>, value: u64) -> Result<(), Fault> {
    let low = CR0_PE | CR0_MP | CR0_EM | CR0_TS;
    let kept = cpu.guest.cr0 & (!low | CR0_PE);
    write_cr0(cpu, kept | value & low)
}

/// DR4 and DR5 are DR6 and DR7, unless CR4.DE says that they do not exist.
fn debug_number(cpu: &Cpu<X86_64>, number: u64) -> Result<u64, Fault> {
    match number {
        4 | 5 if cpu.guest.cr4 & CR4_DE != 0 => Err(invalid_opcode()),
        4 | 5 => Ok(number + 2),
        8.. => Err(invalid_opcode()),
        _ => Ok(number),
    }
}

/// With DR7.GD set, any access to a debug register is a #DB.
fn check_general_detect(cpu: &Cpu<X86_64>) -> Result<(), Fault> {
    if cpu.guest.dr7 & debug::DR7_GENERAL_DETECT == 0 {
        return Ok(());
    }
    Err(Fault(Exception { number: number(vector::DEBUG), information: debug::GENERAL_DETECT }))
}

/// MOV from a debug register.
pub(super) fn read_debug(cpu: &mut Cpu<X86_64>, number: u64) -> Result<u64, Fault> {
    let number = debug_number(cpu, number)?;
    check_general_detect(cpu)?;
    Ok(match number {
        6 => cpu.guest.dr6,
        7 => cpu.guest.dr7,
        _ => cpu.guest.dr[number as usize & 3],
    })
}

/// MOV to a debug register.
pub(super) fn write_debug(cpu: &mut Cpu<X86_64>, number: u64, value: u64) -> Result<(), Fault> {
    let number = debug_number(cpu, number)?;
    check_general_detect(cpu)?;
    if number >= 6 && value >> 32 != 0 {
        return Err(general_protection(0));
    }
    match number {
        6 => cpu.guest.dr6 = value & 0xe00f | 0xffff_0ff0,
        7 => cpu.guest.dr7 = value & 0xffff_2fff | 0x400,
        _ => cpu.guest.dr[number as usize & 3] = value,
    }
    debug::update(cpu);
    Ok(())
}

/// XGETBV: XCR0, and which of its components are in use.
pub(super) fn read_extended_control(cpu: &Cpu<X86_64>, number: u32) -> Result<u64, Fault> {
    match number {
        0 => Ok(cpu.guest.xcr0),
        1 if cpu.guest.model.features.has_named("xgetbv1") => Ok(cpu.guest.xcr0 & xsave::in_use(cpu)),
        _ => Err(general_protection(0)),
    }
}

/// XSETBV: x87 always, SSE, and AVX only with SSE.
pub(super) fn write_extended_control(cpu: &mut Cpu<X86_64>, number: u32, value: u64) -> Result<(), Fault> {
    let consistent = value & 1 != 0 && value & !cpu.guest.model.components() == 0 && (value & 4 == 0 || value & 2 != 0);
    if number != 0 || !consistent {
        return Err(general_protection(0));
    }
    cpu.guest.xcr0 = value;
    Ok(())
}
