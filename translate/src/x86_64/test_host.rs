//! The processor that tests run on.

#![cfg(target_arch = "x86_64")]

/// The host's processor does what AMD's do where those of others do otherwise.
pub(crate) fn host_is_amd() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx] == [0x6874_7541, 0x6974_6e65, 0x444d_4163]
}
