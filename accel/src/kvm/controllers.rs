//! Reading and writing the state of KVM's interrupt controllers and timer.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_FLAGS_HPET_LEGACY,
    KVM_PIT_FLAGS_SPEAKER_DATA_ON, kvm_ioapic_state, kvm_irqchip, kvm_pic_state, kvm_pit_channel_state, kvm_pit_state2,
    kvm_reinject_control,
};
use kvm_ioctls::VmFd;

use super::vm::host_error;
use crate::Error;
use crate::state::pc::{Controllers, IoApic, Pic, Pit, PitChannel};

vmm_sys_util::ioctl_io_nr!(KVM_REINJECT_CONTROL, kvm_bindings::KVMIO, 0x71);

/// Where the timer is wired to.
const IO_APIC_TIMER_INPUT: u32 = 2;

const PICS: [u32; 2] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE];

pub(super) fn read(vm: &VmFd) -> Result<Controllers, Error> {
    let chip = |chip_id| {
        let mut chip = kvm_irqchip { chip_id, ..Default::default() };
        vm.get_irqchip(&mut chip).map_err(host_error("KVM_GET_IRQCHIP")).map(|()| chip)
    };
    let mut pics = [Pic::default(); 2];
    for (pic, number) in pics.iter_mut().zip(PICS) {
        let chip = chip(number)?.chip;
        // SAFETY: the number of the chip selects this member of the union; all members are plain data.
        *pic = decode_pic(unsafe { &chip.pic });
    }
    let io_apic = chip(KVM_IRQCHIP_IOAPIC)?.chip;
    // SAFETY: as above.
    let io_apic = decode_io_apic(unsafe { &io_apic.ioapic });
    let pit = vm.get_pit2().map_err(host_error("KVM_GET_PIT2"))?;
    Ok(Controllers { pics, io_apic, pit: decode_pit(&pit, monotonic_time()) })
}

pub(super) fn write(vm: &VmFd, state: &Controllers) -> Result<(), Error> {
    let mut chip = kvm_irqchip::default();
    // KVM's timer gives pulses, and its output is low between them. Were it high, the next pulse would be no edge, and as nobody
    // acknowledges that one, there would never be another.
    let mut state = state.clone();
    state.pics[0].last_levels &= !1;
    state.io_apic.levels &= !(1 << IO_APIC_TIMER_INPUT);
    for (pic, number) in state.pics.iter().zip(PICS) {
        chip.chip_id = number;
        chip.chip.pic = encode_pic(pic);
        vm.set_irqchip(&chip).map_err(host_error("KVM_SET_IRQCHIP"))?;
    }
    chip.chip_id = KVM_IRQCHIP_IOAPIC;
    chip.chip.ioapic = encode_io_apic(&state.io_apic);
    vm.set_irqchip(&chip).map_err(host_error("KVM_SET_IRQCHIP"))?;
    vm.set_pit2(&encode_pit(&state.pit, monotonic_time())).map_err(host_error("KVM_SET_PIT2"))?;
    forget_unacknowledged_ticks(vm)
}

/// KVM's timer raises no interrupt while its last one is not acknowledged, so that a slow guest misses none. Whether it is, KVM
/// knows of its own interrupt only, and not of one that was acknowledged somewhere else; it forgets about that when this
/// behaviour is switched on.
fn forget_unacknowledged_ticks(vm: &VmFd) -> Result<(), Error> {
    for pit_reinject in [0, 1] {
        let request = kvm_reinject_control { pit_reinject, ..Default::default() };
        // SAFETY: the kernel reads one `kvm_reinject_control`, which outlives the call.
        if unsafe { vmm_sys_util::ioctl::ioctl_with_ref(vm, KVM_REINJECT_CONTROL(), &request) } != 0 {
            return Err(Error::Host { call: "KVM_REINJECT_CONTROL", source: std::io::Error::last_os_error() });
        }
    }
    Ok(())
}

/// The host's monotonic clock in nanoseconds, by which KVM notes when a count was loaded.
fn monotonic_time() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one `timespec`; that clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

fn decode_pic(from: &kvm_pic_state) -> Pic {
    Pic {
        last_levels: from.last_irr,
        irr: from.irr,
        imr: from.imr,
        isr: from.isr,
        highest_priority: from.priority_add,
        vector_base: from.irq_base,
        read_isr: from.read_reg_select != 0,
        poll: from.poll != 0,
        special_mask: from.special_mask != 0,
        initialisation: from.init_state,
        automatic_eoi: from.auto_eoi != 0,
        rotate_on_automatic_eoi: from.rotate_on_auto_eoi != 0,
        special_fully_nested: from.special_fully_nested_mode != 0,
        icw4_needed: from.init4 != 0,
        level_triggered: from.elcr,
        level_triggered_mask: from.elcr_mask,
    }
}

fn encode_pic(from: &Pic) -> kvm_pic_state {
    kvm_pic_state {
        last_irr: from.last_levels,
        irr: from.irr,
        imr: from.imr,
        isr: from.isr,
        priority_add: from.highest_priority & 7,
        irq_base: from.vector_base,
        read_reg_select: u8::from(from.read_isr),
        poll: u8::from(from.poll),
        special_mask: u8::from(from.special_mask),
        init_state: from.initialisation & 3,
        auto_eoi: u8::from(from.automatic_eoi),
        rotate_on_auto_eoi: u8::from(from.rotate_on_automatic_eoi),
        special_fully_nested_mode: u8::from(from.special_fully_nested),
        init4: u8::from(from.icw4_needed),
        elcr: from.level_triggered,
        elcr_mask: from.level_triggered_mask,
    }
}

fn decode_io_apic(from: &kvm_ioapic_state) -> IoApic {
    IoApic {
        address: from.base_address,
        selected: from.ioregsel,
        id: from.id,
        levels: from.irr,
        // SAFETY: both members of the union are the same 64 bits.
        redirection: from.redirtbl.map(|entry| unsafe { entry.bits }),
    }
}

fn encode_io_apic(from: &IoApic) -> kvm_ioapic_state {
    let mut to = kvm_ioapic_state {
        base_address: from.address,
        ioregsel: from.selected,
        id: from.id,
        irr: from.levels,
        ..Default::default()
    };
    for (to, bits) in to.redirtbl.iter_mut().zip(from.redirection) {
        to.bits = bits;
    }
    to
}

fn decode_pit(from: &kvm_pit_state2, now: i64) -> Pit {
    let channel = |from: &kvm_pit_channel_state| PitChannel {
        count: from.count,
        latched_count: from.latched_count,
        latched: from.count_latched,
        status_latched: from.status_latched != 0,
        status: from.status,
        read_state: from.read_state,
        write_state: from.write_state,
        write_latch: from.write_latch,
        access: from.rw_mode,
        mode: from.mode,
        bcd: from.bcd != 0,
        gate: from.gate != 0,
        elapsed: u64::try_from(now.saturating_sub(from.count_load_time)).unwrap_or(0),
    };
    Pit {
        channels: [channel(&from.channels[0]), channel(&from.channels[1]), channel(&from.channels[2])],
        replaced_by_hpet: from.flags & KVM_PIT_FLAGS_HPET_LEGACY != 0,
        speaker_on: from.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON != 0,
    }
}

fn encode_pit(from: &Pit, now: i64) -> kvm_pit_state2 {
    let mut to = kvm_pit_state2::default();
    for (to, from) in to.channels.iter_mut().zip(&from.channels) {
        *to = kvm_pit_channel_state {
            count: from.count,
            latched_count: from.latched_count,
            count_latched: from.latched,
            status_latched: u8::from(from.status_latched),
            status: from.status,
            read_state: from.read_state,
            write_state: from.write_state,
            write_latch: from.write_latch,
            rw_mode: from.access,
            mode: from.mode,
            bcd: u8::from(from.bcd),
            gate: u8::from(from.gate),
            count_load_time: now.saturating_sub(i64::try_from(from.elapsed).unwrap_or(i64::MAX)),
        };
    }
    if from.replaced_by_hpet {
        to.flags |= KVM_PIT_FLAGS_HPET_LEGACY;
    }
    if from.speaker_on {
        to.flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
    }
    to
}
