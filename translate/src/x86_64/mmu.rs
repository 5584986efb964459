//! Paging (SDM volume 3, chapter 4): 32-bit, PAE, 4-level and 5-level.

use crate::cpu::Cpu;
use crate::guest::{Access, Exception, Translation};
use crate::ir::MemoryMode;
use crate::large_pages::LargePages;
use crate::platform::PAGE_SIZE;

use super::event::{general_protection, invalid_opcode, page_fault};
use super::state::*;

/// Accesses at privilege level 3.
pub(super) const MODE_USER: MemoryMode = MemoryMode(0);
/// Accesses of supervisors, user pages included.
pub(super) const MODE_SUPERVISOR: MemoryMode = MemoryMode(1);
/// Accesses of supervisors, user pages excluded (SMAP).
pub(super) const MODE_SUPERVISOR_ONLY: MemoryMode = MemoryMode(2);
/// Accesses of the processor itself to its tables; with SMAP enabled, user pages are excluded.
pub(super) const MODE_SUPERVISOR_IMPLICIT: MemoryMode = MemoryMode(3);

/// Width of physical addresses, bits.
pub(super) const PHYSICAL_BITS: u32 = 40;
/// How often a walk begins again because another processor changed an entry under it.
const MOST_RETRIES: usize = 64;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = ((1 << 52) - 1) & !0xfff;
const ADDRESS_RESERVED: u64 = ((1 << 52) - 1) & !((1 << PHYSICAL_BITS) - 1);

const ERROR_PROTECTION: u16 = 1;
pub(super) const ERROR_WRITE: u16 = 2;
const ERROR_USER: u16 = 4;
const ERROR_RESERVED: u16 = 8;
pub(super) const ERROR_FETCH: u16 = 16;

/// Forgets all cached translations.
pub(super) fn flush(cpu: &mut Cpu<X86_64>) {
    cpu.guest.large_pages = LargePages::default();
    cpu.flush_tlb();
}

/// Forgets all cached translations but those of global pages (4.10.4.1, writes of CR3).
pub(super) fn flush_address_space(cpu: &mut Cpu<X86_64>) {
    cpu.flush_tlb_of_address_space();
}

/// Forgets the cached translation of an address.
pub(super) fn flush_address(cpu: &mut Cpu<X86_64>, address: u64) {
    let address = cpu.guest.linear(address);
    if cpu.guest.large_pages.may_contain(address) {
        flush(cpu);
    } else {
        cpu.flush_tlb_page(address);
    }
}

/// INVPCID (4.10.4.1). What is cached is of the present context only.
pub(super) fn invalidate_context(
    cpu: &mut Cpu<X86_64>,
    kind: u64,
    context: u64,
    address: u64,
) -> Result<(), super::event::Fault> {
    if !cpu.guest.model.has_invpcid() {
        return Err(invalid_opcode());
    }
    let impossible = context & !0xfff != 0
        || kind > 3
        || kind < 2 && context != 0 && cpu.guest.cr4 & CR4_PCIDE == 0
        || kind == 0 && !is_storable(cpu, address);
    if impossible {
        return Err(general_protection(0));
    }
    let present = cpu.guest.cr4 & CR4_PCIDE == 0 || cpu.guest.cr3 & 0xfff == context;
    match kind {
        0 if present => flush_address(cpu, address),
        1 if present => flush_address_space(cpu),
        0 | 1 => {}
        2 => flush(cpu),
        _ => flush_address_space(cpu),
    }
    Ok(())
}

/// The address is canonical: its unused upper bits equal the highest one used.
pub(super) fn is_canonical(cpu: &Cpu<X86_64>, address: u64) -> bool {
    has_linear_bits(address, if cpu.guest.cr4 & CR4_LA57 != 0 { 57 } else { 48 })
}

/// The address is canonical by the widest addresses that the processor has, whatever CR4.LA57 says: so registers that hold
/// addresses are checked when they are written.
pub(super) fn is_storable(cpu: &Cpu<X86_64>, address: u64) -> bool {
    has_linear_bits(address, if cpu.guest.model.has_5_levels() { 57 } else { 48 })
}

fn has_linear_bits(address: u64, bits: u32) -> bool {
    let unused = 64 - bits;
    ((address << unused) as i64 >> unused) as u64 == address
}

pub(super) fn translate(
    cpu: &mut Cpu<X86_64>,
    address: u64,
    access: Access,
    mode: MemoryMode,
) -> Result<Translation, Exception> {
    if cpu.guest.is_64_bit() && !is_canonical(cpu, address) {
        return Err(Exception { information: address, ..general_protection(0).0 });
    }
    if cpu.guest.cr0 & CR0_PG == 0 {
        let physical = address & 0xffff_ffff;
        return Ok(Translation { physical, readable: true, writable: true, whole_page: true, global: true });
    }
    let walk = Walk::new(&cpu.guest, address, access, mode);
    for _ in 0..MOST_RETRIES {
        match walk.run(cpu) {
            Ok(translation) => return Ok(translation),
            Err(Failure::Changed) => {}
            Err(Failure::Fault { error }) => return Err(page_fault(walk.address, walk.error(&cpu.guest) | error)),
        }
    }
    // Another processor keeps changing the entries: to the guest, the page was not there when it looked.
    Err(page_fault(walk.address, walk.error(&cpu.guest)))
}

enum Failure {
    /// Another processor changed an entry that was about to be marked.
    Changed,
    /// A page fault with these bits in its error code.
    Fault { error: u16 },
}

struct Walk {
    address: u64,
    access: Access,
    mode: MemoryMode,
}

/// An entry on the way of a walk.
struct Step {
    address: u64,
    entry: u64,
    bytes: u64,
}

impl Walk {
    fn new(guest: &X86_64, address: u64, access: Access, mode: MemoryMode) -> Walk {
        Walk { address: guest.linear(address), access, mode }
    }

    /// What the error code says of the access itself.
    fn error(&self, guest: &X86_64) -> u16 {
        let fetch_is_told = guest.cr4 & CR4_SMEP != 0 || guest.cr4 & CR4_PAE != 0 && guest.efer & EFER_NXE != 0;
        let user = if self.mode == MODE_USER { ERROR_USER } else { 0 };
        match self.access {
            Access::Write => ERROR_WRITE | user,
            Access::Execute if fetch_is_told => ERROR_FETCH | user,
            _ => user,
        }
    }

    fn run(&self, cpu: &mut Cpu<X86_64>) -> Result<Translation, Failure> {
        let guest = &cpu.guest;
        let wide = guest.cr4 & CR4_PAE != 0;
        let (mut table, mut shift, bits) = if !wide {
            (guest.cr3 & 0xffff_f000, 22, 10)
        } else if !guest.is_long() {
            let entry = guest.page_directory_pointers[(self.address >> 30 & 3) as usize];
            if entry & PRESENT == 0 {
                return Err(Failure::Fault { error: 0 });
            }
            (entry & ADDRESS, 21, 9)
        } else {
            let top = if guest.cr4 & CR4_LA57 != 0 { 48 } else { 39 };
            (guest.cr3 & ADDRESS & !ADDRESS_RESERVED, top, 9)
        };
        let bytes = if wide { 8 } else { 4 };
        let mut steps: [Option<Step>; 5] = [const { None }; 5];
        let mut count = 0;
        // Permissions are those that all levels give.
        let mut permitted = WRITABLE | USER;
        let mut no_execute = false;
        loop {
            let index = self.address >> shift & ((1 << bits) - 1);
            let address = table + index * bytes;
            let entry = read_entry(cpu, address, bytes)?;
            if entry & PRESENT == 0 {
                return Err(Failure::Fault { error: 0 });
            }
            let large = entry & LARGE != 0 && shift > 12;
            self.check_reserved(&cpu.guest, entry, shift, large, wide)?;
            permitted &= entry;
            no_execute |= entry & NO_EXECUTE != 0;
            steps[count] = Some(Step { address, entry, bytes });
            count += 1;
            if shift == 12 || (large && (wide || cpu.guest.cr4 & CR4_PSE != 0)) {
                break;
            }
            table = entry & if wide { ADDRESS } else { 0xffff_f000 };
            shift -= bits;
        }
        let leaf = steps[count - 1].as_ref().map_or(0, |step| step.entry);
        let (readable, writable) = self.permissions(&cpu.guest, permitted, no_execute)?;
        let offset_mask = (1 << shift) - 1;
        let frame = if !wide && shift == 22 {
            // PSE-36: bits 13 to 20 are bits 32 to 39 of the address.
            leaf & 0xffc0_0000 | (leaf >> 13 & 0xff) << 32
        } else {
            leaf & ADDRESS & !offset_mask
        };
        if self.access != Access::Inspect {
            self.mark(cpu, &steps[..count])?;
            cpu.guest.large_pages.insert(self.address, shift);
        }
        let dirty = self.access == Access::Write || leaf & DIRTY != 0;
        Ok(Translation {
            physical: frame | self.address & offset_mask,
            readable,
            writable: writable && dirty,
            whole_page: true,
            global: leaf & GLOBAL != 0 && cpu.guest.cr4 & CR4_PGE != 0,
        })
    }

    fn check_reserved(&self, guest: &X86_64, entry: u64, shift: u32, large: bool, wide: bool) -> Result<(), Failure> {
        let mut reserved = 0;
        if wide {
            reserved |= ADDRESS_RESERVED;
            if guest.efer & EFER_NXE == 0 {
                reserved |= NO_EXECUTE;
            }
            if !guest.is_long() {
                reserved |= 0x7ff << 52;
            }
            if large {
                reserved |= match shift {
                    21 => 0x1f_e000,
                    30 if guest.model.has_1_gib_pages() => 0x3fff_e000,
                    _ => LARGE,
                };
            }
        } else if large && guest.cr4 & CR4_PSE != 0 {
            reserved |= 1 << 21;
        }
        if entry & reserved != 0 {
            return Err(Failure::Fault { error: ERROR_PROTECTION | ERROR_RESERVED });
        }
        Ok(())
    }

    /// Checks the access, and says whether later reads and writes are permitted as well.
    fn permissions(&self, guest: &X86_64, permitted: u64, no_execute: bool) -> Result<(bool, bool), Failure> {
        let user_page = permitted & USER != 0;
        let denied = Failure::Fault { error: ERROR_PROTECTION };
        let user = self.mode == MODE_USER;
        if self.access == Access::Execute {
            let smep = !user && user_page && guest.cr4 & CR4_SMEP != 0;
            return if no_execute || smep || user && !user_page { Err(denied) } else { Ok((false, false)) };
        }
        let smap =
            self.mode == MODE_SUPERVISOR_ONLY || self.mode == MODE_SUPERVISOR_IMPLICIT && guest.cr4 & CR4_SMAP != 0;
        let readable = if user { user_page } else { !(smap && user_page) };
        let writable = readable && (permitted & WRITABLE != 0 || !user && guest.cr0 & CR0_WP == 0);
        let allowed = if self.access == Access::Write { writable } else { readable };
        if allowed { Ok((readable, writable)) } else { Err(denied) }
    }

    /// Sets accessed bits, and the dirty bit of the leaf for writes.
    fn mark(&self, cpu: &mut Cpu<X86_64>, steps: &[Option<Step>]) -> Result<(), Failure> {
        for (position, step) in steps.iter().flatten().enumerate() {
            let is_leaf = position + 1 == steps.len();
            let dirty = if is_leaf && self.access == Access::Write { DIRTY } else { 0 };
            let marked = step.entry | ACCESSED | dirty;
            if marked != step.entry && !exchange_entry(cpu, step, marked)? {
                return Err(Failure::Changed);
            }
        }
        Ok(())
    }
}

fn read_entry(cpu: &mut Cpu<X86_64>, address: u64, bytes: u64) -> Result<u64, Failure> {
    // Nothing answers: all ones, in which reserved bits are set.
    let word = cpu.read_physical(address & !7).unwrap_or(u64::MAX);
    Ok(if bytes == 8 { word } else { word >> (8 * (address & 4)) & 0xffff_ffff })
}

/// Replaces an entry that is still what was read; false if it is not.
fn exchange_entry(cpu: &mut Cpu<X86_64>, step: &Step, marked: u64) -> Result<bool, Failure> {
    let (expected, new) = if step.bytes == 8 {
        (step.entry, marked)
    } else {
        let shift = 8 * (step.address & 4);
        let word = cpu.read_physical(step.address & !7).unwrap_or(u64::MAX);
        let rest = word & !(0xffff_ffff << shift);
        (rest | step.entry << shift, rest | marked << shift)
    };
    // Tables in read-only memory stay as they are.
    Ok(cpu.compare_exchange_physical(step.address & !7, expected, new).unwrap_or(true))
}

/// Loads the page-directory-pointer entries of PAE paging (4.4.1); the exception if reserved bits are set.
pub(super) fn load_page_directory_pointers(cpu: &mut Cpu<X86_64>) -> Result<(), super::event::Fault> {
    let table = cpu.guest.cr3 & 0xffff_ffe0;
    let mut entries = [0; 4];
    for (number, entry) in entries.iter_mut().enumerate() {
        *entry = cpu.read_physical(table + 8 * number as u64).unwrap_or(u64::MAX);
        let reserved = ADDRESS_RESERVED | !ADDRESS & !0xfff | 0x1e6;
        if *entry & PRESENT != 0 && *entry & reserved != 0 {
            return Err(general_protection(0));
        }
    }
    cpu.guest.page_directory_pointers = entries;
    Ok(())
}

/// True where tables of addresses beyond [`PAGE_SIZE`] may be used: physical addresses that exist.
pub(super) fn is_physical(address: u64) -> bool {
    address & ADDRESS_RESERVED & !(PAGE_SIZE - 1) == 0 && address >> 52 == 0
}
