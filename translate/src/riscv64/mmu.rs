//! Address translation: Sv39 and Sv48 (volume II, chapter 10), with Svadu.

use super::{MACHINE, Riscv64, SUPERVISOR, USER, csr, exception, pmp};
use crate::cpu::Cpu;
use crate::guest::{Access, Exception, Translation};
use crate::ir::MemoryMode;
use crate::large_pages::LargePages;
use crate::platform::PAGE_SIZE;

/// Data accesses as user mode does them.
pub(super) const MODE_USER: MemoryMode = MemoryMode(0);
/// Data accesses as supervisor mode does them, user pages excluded.
pub(super) const MODE_SUPERVISOR: MemoryMode = MemoryMode(1);
/// Data accesses as supervisor mode does them with `SUM` set.
pub(super) const MODE_SUPERVISOR_USER_PAGES: MemoryMode = MemoryMode(2);
/// Data accesses as machine mode does them.
pub(super) const MODE_MACHINE: MemoryMode = MemoryMode(3);

/// Physical addresses have 56 bits.
const PHYSICAL_BITS: u32 = 56;
/// How often a walk begins again because another hart changed an entry under it.
const MOST_RETRIES: usize = 64;

const VALID: u64 = 1;
const READABLE: u64 = 2;
const WRITABLE: u64 = 4;
const EXECUTABLE: u64 = 8;
const USER_PAGE: u64 = 0x10;
const GLOBAL: u64 = 0x20;
const ACCESSED: u64 = 0x40;
const DIRTY: u64 = 0x80;
/// Bits of page-table entries that belong to extensions we do not have; they must be zero.
const RESERVED: u64 = 0xffc0_0000_0000_0000;

/// Forgets all cached translations.
pub(super) fn flush(cpu: &mut Cpu<Riscv64>) {
    cpu.guest.large_pages = LargePages::default();
    cpu.flush_tlb();
}

/// Forgets all cached translations but those of global pages, which are alike in every address space (10.3.1). Translations are not
/// told apart by address-space identifiers: only those of one are ever cached.
pub(super) fn flush_address_space(cpu: &mut Cpu<Riscv64>) {
    cpu.flush_tlb_of_address_space();
}

/// Forgets the cached translation of an address.
pub(super) fn flush_address(cpu: &mut Cpu<Riscv64>, address: u64) {
    if cpu.guest.large_pages.may_contain(address) {
        flush(cpu);
    } else {
        cpu.flush_tlb_page(address);
    }
}

pub(super) fn access_fault(address: u64, access: Access) -> Exception {
    let number = match access {
        Access::Execute => exception::INSTRUCTION_ACCESS_FAULT,
        Access::Read | Access::Inspect => exception::LOAD_ACCESS_FAULT,
        Access::Write => exception::STORE_ACCESS_FAULT,
    };
    Exception { number, information: address }
}

fn page_fault(address: u64, access: Access) -> Exception {
    let number = match access {
        Access::Execute => exception::INSTRUCTION_PAGE_FAULT,
        Access::Read | Access::Inspect => exception::LOAD_PAGE_FAULT,
        Access::Write => exception::STORE_PAGE_FAULT,
    };
    Exception { number, information: address }
}

pub(super) fn translate(
    cpu: &mut Cpu<Riscv64>,
    address: u64,
    width: u64,
    access: Access,
    mode: MemoryMode,
) -> Result<Translation, Exception> {
    let privilege = match mode {
        MODE_USER => USER,
        MODE_SUPERVISOR | MODE_SUPERVISOR_USER_PAGES => SUPERVISOR,
        _ => MACHINE,
    };
    let Walked { physical, readable, writable, global } = match cpu.guest.satp >> 60 {
        8 if privilege != MACHINE => walk(cpu, address, access, mode, 3)?,
        9 if privilege != MACHINE => walk(cpu, address, access, mode, 4)?,
        _ if address >> PHYSICAL_BITS != 0 => return Err(access_fault(address, access)),
        _ => Walked { physical: address, readable: true, writable: true, global: true },
    };
    let permission = cpu.guest.pmp_check(physical, width, privilege);
    let needed = match access {
        Access::Execute => pmp::EXECUTE,
        Access::Read | Access::Inspect => pmp::READ,
        Access::Write => pmp::WRITE,
    };
    if permission.allowed & needed == 0 {
        return Err(access_fault(address, access));
    }
    Ok(Translation {
        physical,
        readable: readable && permission.allowed & pmp::READ != 0,
        writable: writable && permission.allowed & pmp::WRITE != 0,
        whole_page: permission.whole_page,
        global,
    })
}

/// What a walk of the page tables found.
struct Walked {
    physical: u64,
    /// Later reads of the page are permitted as well.
    readable: bool,
    /// The same of writes, accessed and dirty bits considered.
    writable: bool,
    /// In every address space.
    global: bool,
}

/// Walks the page tables (10.3.2).
fn walk(
    cpu: &mut Cpu<Riscv64>,
    address: u64,
    access: Access,
    mode: MemoryMode,
    levels: u32,
) -> Result<Walked, Exception> {
    let virtual_bits = 12 + 9 * levels;
    let unused = 64 - virtual_bits;
    if ((address << unused) as i64 >> unused) as u64 != address {
        return Err(page_fault(address, access));
    }
    'walk: for _ in 0..MOST_RETRIES {
        let mut table = (cpu.guest.satp & ((1 << 44) - 1)) * PAGE_SIZE;
        let mut global = false;
        for level in (0..levels).rev() {
            let shift = 12 + 9 * level;
            let entry_address = table + (address >> shift & 0x1ff) * 8;
            let permission = cpu.guest.pmp_check(entry_address, 8, SUPERVISOR).allowed;
            if permission & pmp::READ == 0 {
                return Err(access_fault(address, access));
            }
            let entry = cpu.read_physical(entry_address).map_err(|_| access_fault(address, access))?;
            let writable_only = entry & (READABLE | WRITABLE) == WRITABLE;
            if entry & VALID == 0 || writable_only || entry & RESERVED != 0 {
                return Err(page_fault(address, access));
            }
            // Of a pointer to a further level, it holds for all below.
            global |= entry & GLOBAL != 0;
            let page = (entry >> 10 & ((1 << 44) - 1)) * PAGE_SIZE;
            if entry & (READABLE | EXECUTABLE) == 0 {
                if entry & (USER_PAGE | ACCESSED | DIRTY) != 0 {
                    return Err(page_fault(address, access));
                }
                table = page;
                continue;
            }
            let offset_mask = (1 << shift) - 1;
            if page & offset_mask != 0 {
                return Err(page_fault(address, access));
            }
            let readable =
                entry & READABLE != 0 || cpu.guest.mstatus & csr::MSTATUS_MXR != 0 && entry & EXECUTABLE != 0;
            let permitted = match access {
                Access::Execute => entry & EXECUTABLE != 0,
                Access::Read | Access::Inspect => readable,
                Access::Write => entry & WRITABLE != 0,
            };
            let mode_fits = match mode {
                MODE_USER => entry & USER_PAGE != 0,
                MODE_SUPERVISOR_USER_PAGES => entry & USER_PAGE == 0 || access != Access::Execute,
                _ => entry & USER_PAGE == 0,
            };
            if !permitted || !mode_fits {
                return Err(page_fault(address, access));
            }
            let marked = entry | ACCESSED | if access == Access::Write { DIRTY } else { 0 };
            if marked != entry {
                if cpu.guest.menvcfg & csr::MENVCFG_ADUE == 0 {
                    return Err(page_fault(address, access));
                }
                if permission & pmp::WRITE == 0 {
                    return Err(access_fault(address, access));
                }
                if access == Access::Inspect {
                    let physical = page | address & offset_mask;
                    return Ok(Walked { physical, readable, writable: false, global });
                }
                match cpu.compare_exchange_physical(entry_address, entry, marked) {
                    Ok(true) => (),
                    Ok(false) => continue 'walk,
                    Err(_) => return Err(access_fault(address, access)),
                }
            }
            cpu.guest.large_pages.insert(address, 12 + 9 * level);
            let physical = page | address & offset_mask;
            let writable = marked & (WRITABLE | DIRTY) == WRITABLE | DIRTY;
            return Ok(Walked { physical, readable, writable, global });
        }
        // The last level held a pointer to a further one.
        return Err(page_fault(address, access));
    }
    Err(page_fault(address, access))
}
