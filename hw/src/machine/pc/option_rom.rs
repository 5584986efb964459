//! An option ROM by which SeaBIOS starts the kernel that the user named.
//!
//! Plug and Play BIOS Specification 1.0A, section 3: the ROM offers a bootstrap entry vector, which fetches the parts of the
//! kernel through the DMA interface of [`crate::fw_cfg`] and jumps to it.

use crate::fw_cfg::Items;
use crate::load::Image;

/// Name of the file that SeaBIOS takes for an option ROM.
const FILE: &str = "genroms/kernel.bin";
/// What puts it before all disks.
const ORDER: (&str, &[u8]) = ("bootorder", b"/rom@genroms/kernel.bin\0");

/// Key of the first part of the kernel.
const FIRST_KEY: u16 = 0x8100;

/// Of a request to select an item and to read it.
const SELECT_AND_READ: u32 = 0x0a;

// Where the program has places to be filled in.
const LENGTH: usize = 0x02;
const COUNT: usize = 0x5c;
const MODE: usize = 0x5e;
const STACK_POINTER: usize = 0x114;
const EAX: usize = 0x119;
const EBX: usize = 0x11e;
const ENTRY: usize = 0x123;
const TABLE: usize = 0x140;

/// Header, Plug and Play header, data and code.
const PROGRAM: [u8; TABLE] = {
    let mut rom = [0; TABLE];
    // Signature; RETF for the initialisation; where the Plug and Play header is.
    copy(&mut rom, 0x00, &[0x55, 0xaa, 0x00, 0xcb]);
    copy(&mut rom, 0x1a, &[0x20, 0x00]);
    // Its length is 32 bytes, the product's name at 0x40; a device to boot from, with its entry vector at 0x80.
    copy(&mut rom, 0x20, b"$PnP\x01\x02");
    copy(&mut rom, 0x30, &[0x40, 0x00, 0x00, 0x00, 0x00, 0x04]);
    copy(&mut rom, 0x3a, &[0x80, 0x00]);
    copy(&mut rom, 0x40, b"the kernel");
    // Descriptors 0x10 and 0x18: flat code and data.
    copy(&mut rom, 0x70, &[0xff, 0xff, 0, 0, 0, 0x9b, 0xcf, 0, 0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0]);
    copy(&mut rom, 0x80, &CODE);
    rom
};

const fn copy(to: &mut [u8; TABLE], at: usize, from: &[u8]) {
    let mut index = 0;
    while index < from.len() {
        to[at + index] = from[index];
        index += 1;
    }
}

#[rustfmt::skip]
const CODE: [u8; 0xa9] = [
    0xfa, 0xfc,                         // cli; cld
    0x8c, 0xc8, 0x8e, 0xd8,             // mov ax, cs; mov ds, ax
    0x66, 0x0f, 0xb7, 0xe8,             // movzx ebp, ax
    0x66, 0xc1, 0xe5, 0x04,             // shl ebp, 4: where this ROM is
    0xbe, 0x40, 0x01,                   // mov si, TABLE
    0x8b, 0x0e, 0x5c, 0x00,             // mov cx, [COUNT]
    // The next request: its address goes to the DMA ports, high half first, both big-endian.
    0x66, 0x0f, 0xb7, 0xde,             // movzx ebx, si
    0x66, 0x01, 0xeb, 0x66, 0x0f, 0xcb, // add ebx, ebp; bswap ebx
    0x66, 0x31, 0xc0, 0xba, 0x14, 0x05, // xor eax, eax; mov dx, 0x514
    0x66, 0xef, 0x66, 0x89, 0xd8,       // out dx, eax; mov eax, ebx
    0xba, 0x18, 0x05, 0x66, 0xef,       // mov dx, 0x518; out dx, eax
    // Until nothing but perhaps the error bit is left of it.
    0x66, 0x8b, 0x04, 0x66, 0x0f, 0xc8, // mov eax, [si]; bswap eax
    0x24, 0xfe, 0x75, 0xf6,             // and al, ~1; jnz
    0x83, 0xc6, 0x10, 0xe2, 0xd7,       // add si, 16; loop
    0x80, 0x3e, 0x5e, 0x00, 0x00,       // cmp byte [MODE], 0
    0x75, 0x15,                         // jne protected
    0xb8, 0x00, 0x10, 0x8e, 0xd8,       // mov ax, 0x1000; mov ds, ax
    0x8e, 0xc0, 0x8e, 0xe0, 0x8e, 0xe8, // mov es, ax; mov fs, ax; mov gs, ax
    0x8e, 0xd0, 0xbc, 0xf0, 0xfd,       // mov ss, ax; mov sp, 0xfdf0
    0xea, 0x00, 0x00, 0x20, 0x10,       // jmp 0x1020:0
    // protected:
    // By now the ROM cannot be written any more: what LGDT and the jump need goes onto the stack.
    0x67, 0x66, 0x8d, 0x85, 0x60, 0, 0, 0, // lea eax, [ebp + 0x60]
    0x66, 0x50, 0x6a, 0x1f,             // push eax; push 31
    0x89, 0xe7,                         // mov di, sp
    0x36, 0x66, 0x0f, 0x01, 0x15,       // lgdt ss:[di]
    0x6a, 0x10,                         // push 0x10
    0x66, 0x05, 0xa5, 0, 0, 0,          // add eax, 0xa5: where the 32-bit part is
    0x66, 0x50, 0x89, 0xe7,             // push eax; mov di, sp
    0x0f, 0x20, 0xc0, 0x0c, 0x01,       // mov eax, cr0; or al, 1
    0x0f, 0x22, 0xc0,                   // mov cr0, eax
    0x36, 0x66, 0xff, 0x2d,             // jmp far ss:[di]
    // 0x105, in 32-bit mode:
    0x66, 0xb8, 0x18, 0x00, 0x8e, 0xd8, // mov ax, 0x18; mov ds, ax
    0x8e, 0xc0, 0x8e, 0xe0, 0x8e, 0xe8, // mov es, ax; mov fs, ax; mov gs, ax
    0x8e, 0xd0,                         // mov ss, ax
    0xbc, 0, 0, 0, 0,                   // mov esp, STACK_POINTER
    0xb8, 0, 0, 0, 0,                   // mov eax, EAX
    0xbb, 0, 0, 0, 0,                   // mov ebx, EBX
    0xb9, 0, 0, 0, 0, 0xff, 0xe1,       // mov ecx, ENTRY; jmp ecx
];

/// How the kernel begins.
pub(super) enum Start {
    /// By the 16-bit Linux boot protocol: at 0x1020:0.
    RealMode,
    /// In protected mode without paging.
    Protected {
        /// First instruction.
        entry: u32,
        /// Stack pointer.
        stack: u32,
        /// EAX.
        eax: u32,
        /// EBX.
        ebx: u32,
    },
}

/// Adds the ROM and the `parts` of the kernel that it loads.
pub(super) fn add(items: &mut Items, parts: Vec<Image>, start: &Start) {
    let mut rom = PROGRAM.to_vec();
    let mut put = |at: usize, value: u32| rom[at..at + 4].copy_from_slice(&value.to_le_bytes());
    if let Start::Protected { entry, stack, eax, ebx } = start {
        put(STACK_POINTER, *stack);
        put(EAX, *eax);
        put(EBX, *ebx);
        put(ENTRY, *entry);
        rom[MODE] = 1;
    }
    rom[COUNT..COUNT + 2].copy_from_slice(&(parts.len() as u16).to_le_bytes());
    for (key, part) in (FIRST_KEY..).zip(parts) {
        rom.extend((u32::from(key) << 16 | SELECT_AND_READ).to_be_bytes());
        rom.extend((part.size() as u32).to_be_bytes());
        rom.extend(part.address.to_be_bytes());
        items.add(key, part);
    }
    rom.resize(rom.len().next_multiple_of(512), 0);
    rom[LENGTH] = (rom.len() / 512) as u8;
    // The bytes of a ROM add up to zero.
    let sum = rom.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
    if let Some(last) = rom.last_mut() {
        *last = last.wrapping_sub(sum);
    }
    items.add_file_bytes(FILE, rom);
    items.add_file_bytes(ORDER.0, ORDER.1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_ends_before_the_table_and_its_places_hold_nothing_else() {
        assert!(0x80 + CODE.len() <= TABLE);
        for (place, opcode) in [(STACK_POINTER, 0xbc), (EAX, 0xb8), (EBX, 0xbb), (ENTRY, 0xb9)] {
            assert_eq!((PROGRAM[place - 1], &PROGRAM[place..place + 4]), (opcode, &[0; 4][..]));
        }
        assert_eq!(PROGRAM[0x105..0x109], [0x66, 0xb8, 0x18, 0x00]);
    }
}
