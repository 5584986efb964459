//! What the KVM of this host gets wrong, found out without the backend under test.

use crate::subject::Outcome;

/// Whether data breakpoints stop a guest: a real-mode program that writes to a watched byte and halts.
#[cfg(target_arch = "x86_64")]
pub(crate) fn data_breakpoints() -> Outcome {
    use accel::memory::allocate;
    use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug, kvm_userspace_memory_region};
    use kvm_ioctls::{Kvm, VcpuExit};
    use vm_memory::{Bytes, MemoryRegionAddress};

    const WATCHED: u64 = 0x800;
    // mov [0x800], al; hlt
    const PROGRAM: [u8; 4] = [0xa2, 0x00, 0x08, 0xf4];
    let memory = allocate(0, 0x1000).unwrap();
    memory.write_slice(&PROGRAM, MemoryRegionAddress(0)).unwrap();
    let vm = Kvm::new().unwrap().create_vm().unwrap();
    let region = kvm_userspace_memory_region {
        memory_size: 0x1000,
        userspace_addr: memory.as_ptr() as u64,
        ..Default::default()
    };
    // SAFETY: the memory is mapped for longer than the virtual machine exists.
    unsafe { vm.set_user_memory_region(region) }.unwrap();
    let mut vcpu = vm.create_vcpu(0).unwrap();
    let mut sregs = vcpu.get_sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).unwrap();
    let mut regs = vcpu.get_regs().unwrap();
    regs.rip = 0;
    vcpu.set_regs(&regs).unwrap();
    let mut debug = kvm_guest_debug { control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, ..Default::default() };
    debug.arch.debugreg[0] = WATCHED;
    // Register 0, on writes of one byte.
    debug.arch.debugreg[7] = 0x1_0603;
    vcpu.set_guest_debug(&debug).unwrap();
    match vcpu.run() {
        Ok(VcpuExit::Debug(_)) => Ok(()),
        exit => {
            Err(format!("the KVM of this host ignores data breakpoints: instead of a debug exit it answers {exit:?}"))
        }
    }
}

/// There is no KVM to ask.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn data_breakpoints() -> Outcome {
    Err("KVM on x86-64 hosts only".into())
}
