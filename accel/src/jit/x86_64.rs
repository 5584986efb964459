//! An x86-64 processor's run-time state to and from [`CpuState`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use translate::cpu::{Cpu, Signals};
use translate::x86_64::cpuid::CpuModel;
use translate::x86_64::features::InstructionSet;
use translate::x86_64::msr::{set_time_stamp, time_stamp};
use translate::x86_64::segment::{self as native, SegmentName, attribute};
use translate::x86_64::{X86_64, segment};
use translate::x86_64::{debug, event, management, registers, state as guest_state, x87};

use super::processor::Processor;
use crate::Error;
use crate::state::CpuState as AnyState;
use crate::state::x86_64::{
    Activity, CpuState, DescriptorTable, Events, Exception, Float80, Fpu, Interrupt, InterruptShadow, Segment, msr,
};

impl Processor for X86_64 {
    const INPUTS: u64 = 1 << event::INPUT_INTR;

    fn new(index: u32, count: &Arc<AtomicU32>, model: &Arc<CpuModel>) -> X86_64 {
        count.fetch_max(index + 1, Ordering::SeqCst);
        X86_64::new(model.clone(), count.clone(), index == 0)
    }

    fn model_features(model: &CpuModel) -> InstructionSet {
        model.instructions()
    }

    fn reset(cpu: &mut Cpu<X86_64>) {
        guest_state::reset(cpu, false);
    }

    fn state(cpu: &Cpu<X86_64>) -> AnyState {
        AnyState::X86_64(Box::new(state(cpu)))
    }

    fn set_state(cpu: &mut Cpu<X86_64>, state: &AnyState) -> Result<(), Error> {
        match state {
            AnyState::X86_64(state) => set_state(cpu, state),
            _ => Err(Error::State("it is that of another architecture; this processor is an x86-64 one".into())),
        }
    }

    fn data_mode(cpu: &Cpu<X86_64>) -> translate::ir::MemoryMode {
        translate::x86_64::data_mode(cpu)
    }

    fn settle(_cpu: &mut Cpu<X86_64>) {}

    fn inject_nmi(signals: &Signals) -> Result<(), Error> {
        event::send_nmi(signals);
        Ok(())
    }

    fn inject_smi(signals: &Signals) {
        signals.set_input(event::INPUT_SMI, true);
    }

    fn inject_init(signals: &Signals) {
        signals.set_input(event::INPUT_INIT, true);
    }

    fn inject_start_up(signals: &Signals, vector: u8) {
        event::start_up(signals, vector);
    }
}

fn segment_out(segment: &segment::Segment, base: u64) -> Segment {
    let has = |bit: u16| segment.attributes & bit != 0;
    Segment {
        selector: segment.selector,
        base,
        limit: segment.limit,
        kind: (segment.attributes & 0xf) as u8,
        code_or_data: has(attribute::CODE_OR_DATA),
        privilege: segment.privilege(),
        present: has(attribute::PRESENT),
        available: has(attribute::AVAILABLE),
        long: has(attribute::LONG),
        default_big: has(attribute::BIG),
        granularity: has(attribute::GRANULARITY),
        unusable: !has(attribute::PRESENT),
    }
}

fn segment_in(segment: &Segment) -> segment::Segment {
    let bit = |set: bool, bit: u16| if set { bit } else { 0 };
    let attributes = u16::from(segment.kind & 0xf)
        | bit(segment.code_or_data, attribute::CODE_OR_DATA)
        | u16::from(segment.privilege & 3) << attribute::PRIVILEGE_SHIFT
        | bit(segment.present && !segment.unusable, attribute::PRESENT)
        | bit(segment.available, attribute::AVAILABLE)
        | bit(segment.long, attribute::LONG)
        | bit(segment.default_big, attribute::BIG)
        | bit(segment.granularity, attribute::GRANULARITY);
    native::Segment { selector: segment.selector, limit: segment.limit, attributes }
}

fn table_out(table: &native::Table) -> DescriptorTable {
    DescriptorTable { base: table.base, limit: table.limit }
}

fn table_in(table: &DescriptorTable) -> native::Table {
    native::Table { base: table.base, limit: table.limit }
}

fn vector_register(number: usize, part: usize) -> usize {
    usize::from(registers::vector_part(number as u8, part as u8).0)
}

fn fpu_out(cpu: &Cpu<X86_64>) -> Fpu {
    let x87 = &cpu.guest.x87;
    let part = |number: usize, part: usize| cpu.context.registers[vector_register(number, part)];
    Fpu {
        fcw: x87.control,
        fsw: x87.status,
        ftw: x87.tags,
        fop: x87.opcode,
        fip: x87.instruction_pointer,
        fdp: x87.data_pointer,
        st: std::array::from_fn(|index| {
            let value = x87.st(index as u8);
            Float80 { significand: value.significand, sign_exponent: value.sign_exponent }
        }),
        mxcsr: guest_state::mxcsr(cpu),
        xmm: std::array::from_fn(|number| [part(number, 0), part(number, 1)]),
        ymm_high: std::array::from_fn(|number| [part(number, 2), part(number, 3)]),
        xcr0: cpu.guest.xcr0,
        components: BTreeMap::new(),
    }
}

fn fpu_in(cpu: &mut Cpu<X86_64>, fpu: &Fpu) {
    let x87 = &mut cpu.guest.x87;
    x87.control = fpu.fcw;
    x87.status = fpu.fsw;
    x87.tags = fpu.ftw;
    x87.opcode = fpu.fop;
    x87.instruction_pointer = fpu.fip;
    x87.data_pointer = fpu.fdp;
    let top = usize::from(x87.top());
    for (index, value) in fpu.st.iter().enumerate() {
        x87.registers[(top + index) % 8] =
            x87::Float80 { significand: value.significand, sign_exponent: value.sign_exponent };
    }
    for number in 0..16 {
        for part in 0..2 {
            cpu.context.registers[vector_register(number, part)] = fpu.xmm[number][part];
            cpu.context.registers[vector_register(number, part + 2)] = fpu.ymm_high[number][part];
        }
    }
    guest_state::set_mxcsr(cpu, fpu.mxcsr);
    cpu.guest.xcr0 = fpu.xcr0 & cpu.guest.model.components() | 1;
}

/// The state as every backend has it.
pub(crate) fn state(cpu: &Cpu<X86_64>) -> CpuState {
    let guest = &cpu.guest;
    let segment = |name: SegmentName| segment_out(&guest.segments[name as usize], native::base(cpu, name));
    let inputs = cpu.signals.inputs.load(Ordering::SeqCst);
    let mut msrs = guest.other_msrs.clone();
    msrs.extend([
        (msr::STAR, guest.star),
        (msr::LSTAR, guest.lstar),
        (msr::CSTAR, guest.cstar),
        (msr::SFMASK, guest.sfmask),
        (msr::KERNEL_GS_BASE, guest.kernel_gs_base),
        (SYSENTER_CS, guest.sysenter_cs),
        (SYSENTER_ESP, guest.sysenter_esp),
        (SYSENTER_EIP, guest.sysenter_eip),
        (TSC_AUX, guest.tsc_aux),
        (TSC_ADJUST, guest.tsc_adjust),
        (msr::TSC, time_stamp(cpu)),
    ]);
    // Not every host's KVM has the register, where it could not be but what it is after a reset.
    if guest.management_base != management::BASE_AT_RESET {
        msrs.insert(SMBASE, guest.management_base.into());
    }
    let mut gpr = [0; 16];
    gpr.copy_from_slice(&cpu.context.registers[..16]);
    CpuState {
        gpr,
        rip: guest_state::instruction_pointer(cpu),
        rflags: guest_state::rflags(cpu),
        cs: segment(SegmentName::Cs),
        ds: segment(SegmentName::Ds),
        es: segment(SegmentName::Es),
        fs: segment(SegmentName::Fs),
        gs: segment(SegmentName::Gs),
        ss: segment(SegmentName::Ss),
        tr: segment_out(&guest.tr.segment, guest.tr.base),
        ldt: segment_out(&guest.ldt.segment, guest.ldt.base),
        gdt: table_out(&guest.gdt),
        idt: table_out(&guest.idt),
        cr0: guest.cr0,
        cr2: guest.cr2,
        cr3: guest.cr3,
        cr4: guest.cr4,
        cr8: guest.cr8,
        efer: guest.efer,
        apic_base: CpuState::reset(cpu.index as u32).apic_base,
        dr: guest.dr,
        dr6: guest.dr6,
        dr7: guest.dr7,
        fpu: fpu_out(cpu),
        msrs,
        local_apic: None,
        events: Events {
            exception: pending_exception(guest),
            interrupt: match guest.pending_event {
                Some(event::PendingEvent::Interrupt(vector)) => Some(Interrupt { vector, software: false }),
                _ => None,
            },
            shadow: if guest.interrupt_shadow { InterruptShadow::Sti } else { InterruptShadow::None },
            nmi_pending: inputs >> event::INPUT_NMI & 1 != 0,
            nmi_masked: guest.nmi_masked,
            in_smm: guest.in_management,
            smi_pending: inputs >> event::INPUT_SMI & 1 != 0,
            smm_in_nmi: guest.management_in_nmi,
            init_latched: inputs >> event::INPUT_INIT & 1 != 0,
            ..Events::default()
        },
        activity: match (guest.waits_for_start_up, cpu.shut_down, cpu.halted) {
            (true, _, _) => Activity::WaitForSipi,
            (_, true, _) => Activity::Shutdown,
            (_, _, true) => Activity::Halted,
            _ => Activity::Running,
        },
    }
}

fn pending_exception(guest: &X86_64) -> Option<Exception> {
    let Some(event::PendingEvent::Exception { number, information }) = guest.pending_event else { return None };
    let (vector, error_code) = event::split(number);
    // Page faults have written CR2 by the time they are injected.
    Some(Exception { vector, error_code, injected: true, payload: Some(information) })
}

const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const SMBASE: u32 = 0x9e;
const TSC_AUX: u32 = 0xc000_0103;
const TSC_ADJUST: u32 = 0x3b;

/// Replaces the state.
pub(crate) fn set_state(cpu: &mut Cpu<X86_64>, state: &CpuState) -> Result<(), Error> {
    if let Some(component) = state.fpu.components.keys().next() {
        return Err(Error::State(format!("it has XSAVE component {component}, and the jit has 0 to 2 only")));
    }
    cpu.context.registers[..16].copy_from_slice(&state.gpr);
    let segments = [
        (SegmentName::Es, &state.es),
        (SegmentName::Cs, &state.cs),
        (SegmentName::Ss, &state.ss),
        (SegmentName::Ds, &state.ds),
        (SegmentName::Fs, &state.fs),
        (SegmentName::Gs, &state.gs),
    ];
    for (name, segment) in segments {
        cpu.guest.segments[name as usize] = segment_in(segment);
        cpu.context.registers[usize::from(registers::segment_base(name).0)] = segment.base;
    }
    guest_state::set_rflags(cpu, state.rflags);
    fpu_in(cpu, &state.fpu);
    let guest = &mut cpu.guest;
    guest.tr = native::SystemSegment { segment: segment_in(&state.tr), base: state.tr.base };
    guest.ldt = native::SystemSegment { segment: segment_in(&state.ldt), base: state.ldt.base };
    guest.gdt = table_in(&state.gdt);
    guest.idt = table_in(&state.idt);
    guest.cr0 = state.cr0 & 0xffff_ffff;
    guest.cr2 = state.cr2;
    guest.cr3 = state.cr3;
    guest.cr4 = state.cr4;
    guest.cr8 = state.cr8;
    guest.efer = state.efer;
    guest.dr = state.dr;
    guest.dr6 = state.dr6;
    guest.dr7 = state.dr7;
    guest.interrupt_shadow = state.events.shadow != InterruptShadow::None;
    guest.nmi_masked = state.events.nmi_masked;
    guest.in_management = state.events.in_smm;
    guest.management_in_nmi = state.events.smm_in_nmi;
    set_msrs(guest, &state.msrs);
    if let Some(time_stamp) = state.msrs.get(&msr::TSC) {
        set_time_stamp(cpu, *time_stamp);
    }
    let guest = &mut cpu.guest;
    guest.waits_for_start_up = matches!(state.activity, Activity::WaitForSipi | Activity::SipiReceived);
    cpu.shut_down = state.activity == Activity::Shutdown;
    cpu.halted = matches!(state.activity, Activity::Halted | Activity::WaitForSipi);
    cpu.signals.set_input(event::INPUT_NMI, state.events.nmi_pending);
    cpu.signals.set_input(event::INPUT_SMI, state.events.smi_pending);
    cpu.signals.set_input(event::INPUT_INIT, state.events.init_latched);
    if state.activity == Activity::SipiReceived {
        event::start_up(&cpu.signals, state.events.sipi_vector);
    }
    debug::update(cpu);
    guest_state::set_instruction_pointer(cpu, state.rip);
    // Whatever was on its way is delivered first of all.
    if let Some(exception) = state.events.exception {
        let error_code = exception.error_code.map(|code| code as u16);
        let number = match error_code {
            Some(code) => event::number_with_error(exception.vector, code),
            None => event::number(exception.vector),
        };
        let information = exception.payload.unwrap_or(state.cr2);
        cpu.guest.pending_event = Some(event::PendingEvent::Exception { number, information });
    } else if let Some(interrupt) = state.events.interrupt {
        cpu.guest.pending_event = Some(event::PendingEvent::Interrupt(interrupt.vector));
    } else {
        cpu.guest.pending_event = None;
    }
    cpu.flush_tlb();
    Ok(())
}

fn set_msrs(guest: &mut X86_64, msrs: &BTreeMap<u32, u64>) {
    let get = |number: u32| msrs.get(&number).copied().unwrap_or(0);
    guest.star = get(msr::STAR);
    guest.lstar = get(msr::LSTAR);
    guest.cstar = get(msr::CSTAR);
    guest.sfmask = get(msr::SFMASK);
    guest.kernel_gs_base = get(msr::KERNEL_GS_BASE);
    guest.sysenter_cs = get(SYSENTER_CS);
    guest.sysenter_esp = get(SYSENTER_ESP);
    guest.sysenter_eip = get(SYSENTER_EIP);
    guest.tsc_aux = get(TSC_AUX);
    guest.tsc_adjust = get(TSC_ADJUST);
    guest.management_base = msrs.get(&SMBASE).map_or(management::BASE_AT_RESET, |base| *base as u32);
    let own = [
        msr::STAR,
        msr::LSTAR,
        msr::CSTAR,
        msr::SFMASK,
        msr::KERNEL_GS_BASE,
        SYSENTER_CS,
        SYSENTER_ESP,
        SYSENTER_EIP,
        TSC_AUX,
        TSC_ADJUST,
        SMBASE,
        msr::TSC,
        msr::TSC_DEADLINE,
    ];
    guest.other_msrs = msrs.iter().filter(|(number, _)| !own.contains(number)).map(|(n, v)| (*n, *v)).collect();
}
