//! Reading and writing the complete state of a vCPU.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use kvm_bindings::*;
use kvm_ioctls::VcpuFd;

use super::vm::{Vm, host_error};
use crate::Error;
use crate::state::x86_64::{
    Activity, CpuState, DescriptorTable, Events, Exception, Interrupt, InterruptShadow, LOCAL_APIC_REGISTERS, Segment,
    msr,
};

/// Model-specific registers that are fields of [`CpuState`]: APIC base, EFER, and the bases of FS and GS.
const FIELDS: [u32; 4] = [0x1b, 0xc000_0080, 0xc000_0100, 0xc000_0101];

/// The model-specific registers that may be part of a guest's state on this host.
pub(super) fn msr_candidates(system: &kvm_ioctls::Kvm) -> Result<Vec<u32>, Error> {
    let all = system.get_msr_index_list().map_err(host_error("KVM_GET_MSR_INDEX_LIST"))?;
    // What describes the processor's features never changes.
    let features = system.get_msr_feature_index_list().map(|list| list.as_slice().to_vec()).unwrap_or_default();
    let candidates = all.as_slice().iter().copied();
    Ok(candidates.filter(|number| !FIELDS.contains(number) && !features.contains(number)).collect())
}

/// Reads those of the named registers that exist for the guest.
pub(super) fn read_existing_msrs(fd: &VcpuFd, numbers: &[u32]) -> Result<BTreeMap<u32, u64>, Error> {
    let mut values = BTreeMap::new();
    let mut rest = numbers;
    while !rest.is_empty() {
        let batch = &rest[..rest.len().min(KVM_MAX_MSR_ENTRIES)];
        let entries: Vec<_> = batch.iter().map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
        let mut msrs = Msrs::from_entries(&entries).map_err(|error| Error::State(format!("{error:?}")))?;
        let count = fd.get_msrs(&mut msrs).map_err(host_error("KVM_GET_MSRS"))?;
        values.extend(msrs.as_slice().iter().take(count).map(|entry| (entry.index, entry.data)));
        // KVM stops at the first that does not exist.
        let done = if count < batch.len() { count + 1 } else { count };
        rest = &rest[done..];
    }
    Ok(values)
}

fn write_msrs(fd: &VcpuFd, values: &BTreeMap<u32, u64>) -> Result<(), Error> {
    let entries: Vec<_> =
        values.iter().map(|(&index, &data)| kvm_msr_entry { index, data, ..Default::default() }).collect();
    let mut rest = entries.as_slice();
    while !rest.is_empty() {
        let batch = &rest[..rest.len().min(KVM_MAX_MSR_ENTRIES)];
        let msrs = Msrs::from_entries(batch).map_err(|error| Error::State(format!("{error:?}")))?;
        let mut done = fd.set_msrs(&msrs).map_err(host_error("KVM_SET_MSRS"))?;
        if let Some(refused) = batch.get(done) {
            // Refused is fine for one that holds the value already, such as a read-only one, or one without a value that is
            // not there.
            let now = read_existing_msrs(fd, &[refused.index])?;
            if now.get(&refused.index).copied().unwrap_or(0) != refused.data {
                return Err(Error::State(format!(
                    "model-specific register {:#x} cannot be {:#x} on this host",
                    refused.index, refused.data
                )));
            }
            done += 1;
        }
        rest = &rest[done..];
    }
    Ok(())
}

/// Reads everything but what the backend itself keeps ([`Activity`] without KVM's controllers).
pub(super) fn read(vm: &Vm, fd: &VcpuFd) -> Result<CpuState, Error> {
    let in_kernel_controller = vm.in_kernel_controller.load(Ordering::Acquire);
    // First: reading it makes KVM process pending INIT and start-up IPIs, which change what follows.
    let mp_state = fd.get_mp_state().map_err(host_error("KVM_GET_MP_STATE"))?;
    let events = fd.get_vcpu_events().map_err(host_error("KVM_GET_VCPU_EVENTS"))?;
    let regs = fd.get_regs().map_err(host_error("KVM_GET_REGS"))?;
    let sregs = fd.get_sregs().map_err(host_error("KVM_GET_SREGS"))?;
    let debug = fd.get_debug_regs().map_err(host_error("KVM_GET_DEBUGREGS"))?;
    let xsave = fd.get_xsave().map_err(host_error("KVM_GET_XSAVE"))?;
    let msrs = read_existing_msrs(fd, vm.msr_numbers(fd)?)?;
    let local_apic = if in_kernel_controller {
        let page = fd.get_lapic().map_err(host_error("KVM_GET_LAPIC"))?;
        let register = |bytes: &[std::os::raw::c_char]| {
            u32::from_le_bytes([bytes[0] as u8, bytes[1] as u8, bytes[2] as u8, bytes[3] as u8])
        };
        Some(page.regs.chunks_exact(16).map(register).collect())
    } else {
        None
    };
    Ok(CpuState {
        gpr: [
            regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8, regs.r9, regs.r10,
            regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ],
        rip: regs.rip,
        rflags: regs.rflags,
        cs: segment(&sregs.cs),
        ds: segment(&sregs.ds),
        es: segment(&sregs.es),
        fs: segment(&sregs.fs),
        gs: segment(&sregs.gs),
        ss: segment(&sregs.ss),
        tr: segment(&sregs.tr),
        ldt: segment(&sregs.ldt),
        gdt: DescriptorTable { base: sregs.gdt.base, limit: sregs.gdt.limit },
        idt: DescriptorTable { base: sregs.idt.base, limit: sregs.idt.limit },
        cr0: sregs.cr0,
        cr2: sregs.cr2,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        cr8: sregs.cr8,
        efer: sregs.efer,
        apic_base: sregs.apic_base,
        dr: debug.db,
        dr6: debug.dr6,
        dr7: debug.dr7,
        fpu: vm.xsave_layout.decode(&xsave, read_xcr0(fd)),
        msrs,
        local_apic,
        events: decode_events(&events),
        activity: match mp_state.mp_state {
            KVM_MP_STATE_HALTED => Activity::Halted,
            KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => Activity::WaitForSipi,
            KVM_MP_STATE_SIPI_RECEIVED => Activity::SipiReceived,
            _ => Activity::Running,
        },
    })
}

/// Writes everything but what the backend itself keeps. `at_reset` has the model-specific registers that `state` may
/// leave out.
pub(super) fn write(vm: &Vm, fd: &VcpuFd, state: &CpuState, at_reset: &BTreeMap<u32, u64>) -> Result<(), Error> {
    let in_kernel_controller = vm.in_kernel_controller.load(Ordering::Acquire);
    let xsave = vm.xsave_layout.encode(&state.fpu)?;
    let lapic = state.local_apic.as_deref().filter(|_| in_kernel_controller).map(encode_lapic).transpose()?;
    write_sregs(fd, state)?;
    // After the segments: KVM takes those of the reset vector for a reset, and sets the processor running.
    if in_kernel_controller {
        let mp_state = match state.activity {
            Activity::Running | Activity::Shutdown => KVM_MP_STATE_RUNNABLE,
            Activity::Halted => KVM_MP_STATE_HALTED,
            // Not UNINITIALIZED, where KVM ignores a start-up IPI that no INIT preceded.
            Activity::WaitForSipi => KVM_MP_STATE_INIT_RECEIVED,
            Activity::SipiReceived => KVM_MP_STATE_SIPI_RECEIVED,
        };
        fd.set_mp_state(kvm_mp_state { mp_state }).map_err(host_error("KVM_SET_MP_STATE"))?;
    }
    fd.set_regs(&encode_regs(state)).map_err(host_error("KVM_SET_REGS"))?;
    write_xcr0(fd, state.fpu.xcr0)?;
    write_xsave(fd, &xsave)?;
    let debug = kvm_debugregs { db: state.dr, dr6: state.dr6, dr7: state.dr7, ..Default::default() };
    fd.set_debug_regs(&debug).map_err(host_error("KVM_SET_DEBUGREGS"))?;
    if let Some(lapic) = lapic {
        fd.set_lapic(&lapic).map_err(host_error("KVM_SET_LAPIC"))?;
    }
    let mut msrs = state.msrs.clone();
    msrs.retain(|number, _| !FIELDS.contains(number));
    let deadline = msrs.remove(&msr::TSC_DEADLINE);
    let left_out: BTreeSet<u32> = at_reset.keys().filter(|number| !msrs.contains_key(number)).copied().collect();
    msrs.extend(left_out.into_iter().filter(|number| *number != msr::TSC).map(|number| (number, at_reset[&number])));
    msrs.remove(&msr::TSC_DEADLINE);
    write_msrs(fd, &msrs)?;
    // The timer takes it in deadline mode only, which the local APIC's registers chose, and relates it to the counter.
    if let Some(deadline) = deadline.filter(|_| in_kernel_controller) {
        write_msrs(fd, &BTreeMap::from([(msr::TSC_DEADLINE, deadline)]))?;
    }
    // Last, as writing registers takes pending exceptions away.
    fd.set_vcpu_events(&encode_events(vm, &state.events)).map_err(host_error("KVM_SET_VCPU_EVENTS"))
}

/// Writes what an instruction changes: not what others change meanwhile, such as the local APIC.
pub(super) fn write_after_instruction(vm: &Vm, fd: &VcpuFd, before: &CpuState, after: &CpuState) -> Result<(), Error> {
    write_sregs(fd, after)?;
    fd.set_regs(&encode_regs(after)).map_err(host_error("KVM_SET_REGS"))?;
    if after.fpu != before.fpu {
        write_xsave(fd, &vm.xsave_layout.encode(&after.fpu)?)?;
    }
    if (after.dr, after.dr6, after.dr7) != (before.dr, before.dr6, before.dr7) {
        let debug = kvm_debugregs { db: after.dr, dr6: after.dr6, dr7: after.dr7, ..Default::default() };
        fd.set_debug_regs(&debug).map_err(host_error("KVM_SET_DEBUGREGS"))?;
    }
    let mut events = encode_events(vm, &after.events);
    // Those may have come since.
    events.flags &= !(KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR | KVM_VCPUEVENT_VALID_SMM);
    fd.set_vcpu_events(&events).map_err(host_error("KVM_SET_VCPU_EVENTS"))
}

fn write_sregs(fd: &VcpuFd, state: &CpuState) -> Result<(), Error> {
    fd.set_sregs(&encode_sregs(state)).map_err(|error| {
        Error::State(format!(
            "KVM refuses its control registers (CR0 {:#x}, CR4 {:#x}, EFER {:#x}): {error}",
            state.cr0, state.cr4, state.efer
        ))
    })
}

fn write_xsave(fd: &VcpuFd, xsave: &kvm_xsave) -> Result<(), Error> {
    // SAFETY: no dynamic XSAVE feature was asked for in this process, so KVM reads no more than 4096 bytes.
    unsafe { fd.set_xsave(xsave) }.map_err(|error| Error::State(format!("KVM refuses its XSAVE area: {error}")))
}

fn encode_regs(state: &CpuState) -> kvm_regs {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = state.gpr;
    kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: state.rip,
        rflags: state.rflags,
    }
}

fn read_xcr0(fd: &VcpuFd) -> u64 {
    // Hosts without XSAVE have no such register; its reset value stands for it.
    let Ok(xcrs) = fd.get_xcrs() else { return 1 };
    let count = usize::try_from(xcrs.nr_xcrs).unwrap_or(0).min(xcrs.xcrs.len());
    xcrs.xcrs[..count].iter().find(|xcr| xcr.xcr == 0).map_or(1, |xcr| xcr.value)
}

fn write_xcr0(fd: &VcpuFd, value: u64) -> Result<(), Error> {
    if read_xcr0(fd) == value {
        return Ok(());
    }
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0].value = value;
    fd.set_xcrs(&xcrs).map_err(|error| Error::State(format!("XCR0 cannot be {value:#x} on this host: {error}")))
}

fn segment(from: &kvm_segment) -> Segment {
    Segment {
        selector: from.selector,
        base: from.base,
        limit: from.limit,
        kind: from.type_ & 0xf,
        code_or_data: from.s != 0,
        privilege: from.dpl & 3,
        present: from.present != 0,
        available: from.avl != 0,
        long: from.l != 0,
        default_big: from.db != 0,
        granularity: from.g != 0,
        unusable: from.unusable != 0,
    }
}

fn encode_segment(from: &Segment) -> kvm_segment {
    kvm_segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        type_: from.kind & 0xf,
        present: u8::from(from.present),
        dpl: from.privilege & 3,
        db: u8::from(from.default_big),
        s: u8::from(from.code_or_data),
        l: u8::from(from.long),
        g: u8::from(from.granularity),
        avl: u8::from(from.available),
        unusable: u8::from(from.unusable),
        padding: 0,
    }
}

fn encode_sregs(state: &CpuState) -> kvm_sregs {
    let table = |table: DescriptorTable| kvm_dtable { base: table.base, limit: table.limit, padding: [0; 3] };
    kvm_sregs {
        cs: encode_segment(&state.cs),
        ds: encode_segment(&state.ds),
        es: encode_segment(&state.es),
        fs: encode_segment(&state.fs),
        gs: encode_segment(&state.gs),
        ss: encode_segment(&state.ss),
        tr: encode_segment(&state.tr),
        ldt: encode_segment(&state.ldt),
        gdt: table(state.gdt),
        idt: table(state.idt),
        cr0: state.cr0,
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4,
        cr8: state.cr8,
        efer: state.efer,
        apic_base: state.apic_base,
        // An acknowledged interrupt goes in with the events.
        interrupt_bitmap: [0; 4],
    }
}

fn encode_lapic(registers: &[u32]) -> Result<kvm_lapic_state, Error> {
    if registers.len() != LOCAL_APIC_REGISTERS {
        return Err(Error::State(format!(
            "its local APIC has {} registers instead of {LOCAL_APIC_REGISTERS}",
            registers.len()
        )));
    }
    let mut page = kvm_lapic_state::default();
    for (to, register) in page.regs.chunks_exact_mut(16).zip(registers) {
        for (to, byte) in to.iter_mut().zip(register.to_le_bytes()) {
            *to = byte as std::os::raw::c_char;
        }
    }
    Ok(page)
}

fn decode_events(from: &kvm_vcpu_events) -> Events {
    let exception = (from.exception.injected != 0 || from.exception.pending != 0).then(|| Exception {
        vector: from.exception.nr,
        error_code: (from.exception.has_error_code != 0).then_some(from.exception.error_code),
        injected: from.exception.injected != 0,
        payload: (from.exception_has_payload != 0).then_some(from.exception_payload),
    });
    let interrupt = (from.interrupt.injected != 0)
        .then_some(Interrupt { vector: from.interrupt.nr, software: from.interrupt.soft != 0 });
    let shadow = u32::from(from.interrupt.shadow);
    Events {
        exception,
        interrupt,
        shadow: if shadow & KVM_X86_SHADOW_INT_MOV_SS != 0 {
            InterruptShadow::MovSs
        } else if shadow & KVM_X86_SHADOW_INT_STI != 0 {
            InterruptShadow::Sti
        } else {
            InterruptShadow::None
        },
        nmi_pending: from.nmi.pending != 0,
        nmi_injected: from.nmi.injected != 0,
        nmi_masked: from.nmi.masked != 0,
        sipi_vector: from.sipi_vector as u8,
        in_smm: from.smi.smm != 0,
        smi_pending: from.smi.pending != 0,
        smm_in_nmi: from.smi.smm_inside_nmi != 0,
        init_latched: from.smi.latched_init != 0,
    }
}

fn encode_events(vm: &Vm, from: &Events) -> kvm_vcpu_events {
    let mut to = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR | KVM_VCPUEVENT_VALID_SHADOW,
        sipi_vector: u32::from(from.sipi_vector),
        ..Default::default()
    };
    if let Some(exception) = from.exception {
        to.exception.nr = exception.vector & 31;
        to.exception.has_error_code = u8::from(exception.error_code.is_some());
        to.exception.error_code = exception.error_code.unwrap_or(0);
        // Without payloads KVM knows injected exceptions only; their side effects happened when they were read.
        let pending = !exception.injected && vm.exception_payload;
        to.exception.pending = u8::from(pending);
        to.exception.injected = u8::from(!pending);
        if let (true, Some(payload)) = (pending, exception.payload) {
            to.exception_has_payload = 1;
            to.exception_payload = payload;
        }
    }
    if vm.exception_payload {
        to.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
    }
    if let Some(interrupt) = from.interrupt {
        to.interrupt.injected = 1;
        to.interrupt.nr = interrupt.vector;
        to.interrupt.soft = u8::from(interrupt.software);
    }
    to.interrupt.shadow = match from.shadow {
        InterruptShadow::None => 0,
        InterruptShadow::Sti => KVM_X86_SHADOW_INT_STI as u8,
        InterruptShadow::MovSs => KVM_X86_SHADOW_INT_MOV_SS as u8,
    };
    to.nmi.pending = u8::from(from.nmi_pending);
    to.nmi.injected = u8::from(from.nmi_injected);
    to.nmi.masked = u8::from(from.nmi_masked);
    if vm.smm {
        to.flags |= KVM_VCPUEVENT_VALID_SMM;
        to.smi.smm = u8::from(from.in_smm);
        to.smi.pending = u8::from(from.smi_pending);
        to.smi.smm_inside_nmi = u8::from(from.smm_in_nmi);
        to.smi.latched_init = u8::from(from.init_latched);
    }
    to
}
