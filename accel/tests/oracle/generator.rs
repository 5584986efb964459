//! Random programs: random encodings, with instructions before them that point their memory operands at data, and branches
//! between them.

use iced_x86::{
    Decoder, DecoderOptions, EncodingKind, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

use crate::forms::{self, Group};
use crate::machine::{CODE, DATA, DATA_END, FS_BASE, GS_BASE, STACK, STACK_END, STACK_POINTER};
use crate::program::{Fixup, Item, Program, Target};
use crate::random::Random;
use crate::undefined;

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;
const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;

/// What is known of the registers at a place in the program, whatever it started with.
#[derive(Clone, Copy, Default)]
struct Known {
    registers: [Option<u64>; 16],
    /// RSP points into the stack, far from its ends.
    stack: bool,
}

impl Known {
    /// What is known if control came from either place.
    fn join(&self, other: &Known) -> Known {
        let mut joined = *self;
        for (register, other) in joined.registers.iter_mut().zip(other.registers) {
            *register = register.filter(|_| *register == other);
        }
        joined.stack &= other.stack;
        joined
    }
}

pub(crate) struct Generator<'a> {
    random: &'a mut Random,
    groups: &'a [Group],
    info: InstructionInfoFactory,
    known: Known,
}

/// A program of `length` items.
pub(crate) fn generate(random: &mut Random, groups: &[Group], length: usize) -> Program {
    // Now and then the program crosses from one page to the next.
    let origin = if random.once_in(4) { CODE + 0x1000 - random.below(400) } else { CODE + random.below(64) };
    let known = Known { stack: true, ..Known::default() };
    let mut generator = Generator { random, groups, info: InstructionInfoFactory::new(), known };
    let mut items = Vec::new();
    // Places that branches go to, and what was known where they came from.
    let mut joins: Vec<(usize, Known)> = Vec::new();
    while items.len() < length {
        for (place, known) in &joins {
            if *place == items.len() {
                generator.known = generator.known.join(known);
            }
        }
        joins.retain(|(place, _)| *place > items.len());
        let before = generator.known;
        let item = match generator.random.below(40) {
            0..=1 => generator.branch(),
            2 => generator.new_value(),
            3 => generator.load_flags(),
            4 if groups.contains(&Group::Sse) && generator.random.once_in(2) => generator.load_mxcsr(),
            5 if groups.contains(&Group::Avx) && generator.random.once_in(2) => generator.save_and_restore(),
            _ => generator.instruction(),
        };
        if let Some(Fixup { to: Target::Skip(skipped), .. }) = item.fixup {
            let mut known = generator.known;
            if skipped > 0 {
                // Taken or not: what the branch itself did to registers is among what is known.
                known = known.join(&before);
            }
            joins.push((items.len() + 1 + skipped, known));
        }
        items.push(item);
    }
    let mut program = Program { origin, items };
    drop_long_branches(&mut program);
    program
}

/// Takes branches out whose distance does not fit.
fn drop_long_branches(program: &mut Program) {
    let addresses = program.addresses();
    for index in 0..program.items.len() {
        let Some(fixup) = program.items[index].fixup else { continue };
        let Target::Skip(skipped) = fixup.to else { continue };
        let to = addresses[(index + 1 + skipped).min(program.items.len())];
        if fixup.length == 1 && to - addresses[index] > 120 {
            program.items[index] = Item::default();
        }
    }
}

impl Generator<'_> {
    /// An instruction of the forms.
    fn instruction(&mut self) -> Item {
        loop {
            let mut code = forms::encoding(self.random, self.groups);
            let mut decoder = Decoder::with_ip(64, &code, 0, DecoderOptions::NONE);
            let instruction = decoder.decode();
            if !forms::allowed(&instruction, self.groups) {
                continue;
            }
            let offsets = decoder.get_constant_offsets(&instruction);
            code.truncate(instruction.len());
            let before = self.known;
            let displacement = (offsets.displacement_offset(), offsets.displacement_size());
            match self.complete(&instruction, code, displacement) {
                Some(item) => return item,
                None => self.known = before,
            }
        }
    }

    /// Gives an instruction operands that it can work with; `None` if that is too hard.
    fn complete(&mut self, instruction: &Instruction, code: Vec<u8>, displacement: (usize, usize)) -> Option<Item> {
        let mut item = Item { code, ..Item::default() };
        let info = self.info.info(instruction).clone();
        let written = |access| {
            matches!(access, OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite)
        };
        let stack = instruction.is_stack_instruction();
        let writes_stack_pointer =
            info.used_registers().iter().any(|used| number(used.register()) == Some(RSP) && written(used.access()));
        // Programs that lose their stack end soon.
        if writes_stack_pointer && !stack && !self.random.once_in(16) {
            return None;
        }
        if stack && !self.known.stack {
            self.set(&mut item, RSP, STACK_POINTER);
            self.known.stack = true;
        }
        self.special_operands(instruction, &mut item)?;
        if (0..instruction.op_count()).any(|index| instruction.op_kind(index) == OpKind::Memory) {
            let writes = info.used_memory().iter().any(|used| written(used.access()));
            self.memory_operand(instruction, &mut item, displacement, writes)?;
        }
        for used in info.used_registers() {
            if let (Some(register), true) = (number(used.register()), written(used.access())) {
                self.known.registers[register] = None;
            }
        }
        if writes_stack_pointer {
            let keeps = matches!(
                instruction.mnemonic(),
                Mnemonic::Push | Mnemonic::Pushf | Mnemonic::Pushfq | Mnemonic::Pop | Mnemonic::Enter
            ) && !(0..instruction.op_count()).any(|index| {
                instruction.mnemonic() == Mnemonic::Pop && number(instruction.op_register(index)) == Some(RSP)
            });
            self.known.stack &= keeps;
        }
        if undefined::result(instruction) {
            let register = number(instruction.op0_register())?;
            let value = self.random.integer();
            mov(&mut item.after, register, value);
        }
        let undefined = undefined::flags(instruction);
        if undefined != 0 {
            if !self.known.stack {
                // The setup must not disturb an instruction that has to do with RSP.
                if info.used_registers().iter().any(|used| number(used.register()) == Some(RSP)) {
                    return None;
                }
                self.set(&mut item, RSP, STACK_POINTER);
                self.known.stack = true;
            }
            // pushfq; and dword [rsp], defined; popfq
            item.after.extend([0x9c, 0x81, 0x24, 0x24]);
            item.after.extend((!undefined).to_le_bytes());
            item.after.push(0x9d);
        }
        Some(item)
    }

    /// Registers that mean something to certain instructions.
    fn special_operands(&mut self, instruction: &Instruction, item: &mut Item) -> Option<()> {
        use Mnemonic as M;
        match instruction.mnemonic() {
            M::Div | M::Idiv if !self.random.once_in(12) => {
                // Mostly the quotient fits.
                let size = instruction.op0_register().size().max(instruction.memory_size().size());
                let signed = instruction.mnemonic() == M::Idiv;
                let mut value = self.random.integer();
                if size == 1 {
                    value &= if signed { 0x7f } else { 0xff };
                    self.set(item, RAX, value);
                } else {
                    if signed {
                        value >>= 1;
                        value &= u64::MAX >> (64 - 8 * size as u32).min(63) >> 1;
                    }
                    self.set(item, RAX, value);
                    let top = if self.random.once_in(3) { self.random.below(16) } else { 0 };
                    self.set(item, RDX, top);
                }
                let divisor = instruction.op0_kind() == OpKind::Register;
                if divisor && self.random.below(4) != 0 {
                    let register = number(instruction.op0_register())?;
                    if register == RAX || register == RDX || register == RSP {
                        return None;
                    }
                    let value = self.random.integer() | 0x101;
                    self.set(item, register, value);
                }
            }
            M::Bt | M::Bts | M::Btr | M::Btc
                if instruction.op0_kind() == OpKind::Memory && instruction.op1_kind() == OpKind::Register =>
            {
                let register = number(instruction.op1_register())?;
                if register == RSP
                    || [instruction.memory_base(), instruction.memory_index()].map(number).contains(&Some(register))
                {
                    return None;
                }
                let value = self.random.below(0x1000).wrapping_sub(0x800);
                self.set(item, register, value);
            }
            M::Cmpxchg if self.random.once_in(2) && instruction.op0_kind() == OpKind::Register => {
                // Equal more often than by chance: both get one value.
                let register = number(instruction.op0_register())?;
                if register != RSP && register != RAX {
                    let value = self.random.integer();
                    self.set(item, RAX, value);
                    self.set(item, register, value);
                }
            }
            M::Enter => {
                let levels = item.code.len() - 1;
                item.code[levels] &= 0x23;
                item.code[levels - 1] &= 1;
                // The frames that it copies begin where RBP points.
                self.set(item, RBP, STACK_POINTER + 0x100);
            }
            M::Leave => self.set(item, RBP, STACK_POINTER - 0x80),
            M::Xlatb => self.point(item, RBX, instruction.memory_segment(), 1, 0x100),
            M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu => self.point(item, RDI, instruction.memory_segment(), 1, 16),
            _ if instruction.memory_index().is_vector_register() => {
                // Indices that stay within data: vpsrld or vpsrlq of the register by what leaves few bits.
                use Mnemonic as M;
                let quadwords =
                    matches!(instruction.mnemonic(), M::Vgatherqps | M::Vgatherqpd | M::Vpgatherqd | M::Vpgatherqq);
                let index = instruction.memory_index().number() as u8;
                let (opcode, shift) = if quadwords { (0x73, 54) } else { (0x72, 22) };
                let rex = if index < 8 { 0xe1 } else { 0xc1 };
                item.setup.extend([0xc4, rex, (!index & 15) << 3 | 5, opcode, 0xd0 | index & 7, shift]);
            }
            _ if instruction.is_string_instruction() => {
                let segment = instruction.memory_segment();
                let uses = |register: Register| {
                    (0..instruction.op_count()).any(|index| {
                        let kind = instruction.op_kind(index);
                        match register {
                            Register::RSI => matches!(kind, OpKind::MemorySegRSI | OpKind::MemorySegESI),
                            _ => matches!(kind, OpKind::MemoryESRDI | OpKind::MemoryESEDI),
                        }
                    })
                };
                if instruction.has_rep_prefix() || instruction.has_repne_prefix() {
                    let count = self.random.below(24);
                    // With addresses of 32 bits the upper half of the counter does not count.
                    self.set(item, RCX, count);
                }
                if uses(Register::RSI) {
                    self.point(item, RSI, segment, 1, 0x200);
                }
                if uses(Register::RDI) {
                    self.point(item, RDI, Register::ES, 1, 0x200);
                    if self.random.once_in(3) && uses(Register::RSI) && segment == Register::DS {
                        // Overlapping.
                        let near = self.known.registers[RSI]?.wrapping_add(self.random.below(40)).wrapping_sub(20);
                        self.set(item, RDI, near);
                    }
                }
            }
            _ => {}
        }
        Some(())
    }

    /// Points the ModRM memory operand at data.
    fn memory_operand(
        &mut self,
        instruction: &Instruction,
        item: &mut Item,
        (at, length): (usize, usize),
        writes: bool,
    ) -> Option<()> {
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        let size = (instruction.memory_size().size() as u64).max(1);
        if base == Register::RIP || base == Register::EIP {
            let Fixup { to: Target::Address(address), .. } = self.rip_relative(item, at, size) else { return None };
            // Short of data: the segment's base.
            let address = address.wrapping_sub(segment_base(instruction.memory_segment()));
            if let Some(fixup) = &mut item.fixup {
                fixup.to = Target::Address(address);
            }
            return (base == Register::RIP || segment_base(instruction.memory_segment()) == 0).then_some(());
        }
        if instruction.mnemonic() == Mnemonic::Lea {
            return Some(());
        }
        let locked = instruction.has_lock_prefix() || instruction.mnemonic() == Mnemonic::Xchg;
        let vex = instruction.code().encoding() == EncodingKind::VEX;
        let mut target = self.place(size, locked, writes);
        if vex && size >= 16 && self.random.once_in(2) {
            // These need no alignment.
            target = target.wrapping_add(self.random.below(size));
        }
        let segment = segment_base(instruction.memory_segment());
        let scale = u64::from(instruction.memory_index_scale());
        let displacement = instruction.memory_displacement64();
        let mut indexed = 0;
        if let Some(register) = number(index) {
            if number(base) == Some(register) {
                return None;
            }
            let value = match self.known.registers[register] {
                Some(value) => value,
                None => {
                    let value = self.random.below(0x80).wrapping_sub(0x20);
                    self.set(item, register, value);
                    value
                }
            };
            indexed = value.wrapping_mul(scale);
        }
        match number(base) {
            None => {
                let displacement = target.wrapping_sub(segment).wrapping_sub(indexed).to_le_bytes();
                item.code.get_mut(at..at + length)?.copy_from_slice(displacement.get(..length)?);
            }
            Some(RSP) => {
                // The stack is where it is.
                if !self.known.stack || segment != 0 || (writes && index != Register::None) {
                    return None;
                }
                let displacement = (self.random.next() as i8 & !0xf).to_le_bytes()[0];
                match length {
                    1 => item.code[at] = displacement,
                    4 => item.code[at..at + 4].copy_from_slice(&i32::from(displacement as i8).to_le_bytes()),
                    _ => {}
                }
            }
            Some(register) => {
                let present = self.known.registers[register]
                    .map(|base| base.wrapping_add(indexed).wrapping_add(displacement).wrapping_add(segment));
                let fits = |address: u64| {
                    let aligned = (size < 16 || vex) && !locked || address.is_multiple_of(size);
                    (DATA..DATA_END - size).contains(&address) && aligned
                };
                if !present.is_some_and(fits) {
                    let value = target.wrapping_sub(segment).wrapping_sub(indexed).wrapping_sub(displacement);
                    // Addresses of 32 bits wrap around there.
                    self.set(item, register, value);
                }
            }
        }
        Some(())
    }

    fn rip_relative(&mut self, item: &mut Item, at: usize, size: u64) -> Fixup {
        let to = Target::Address(self.place(size, true, false));
        let fixup = Fixup { at, length: 4, from: item.code.len(), to };
        item.fixup = Some(fixup);
        fixup
    }

    /// An address for an access of `size` bytes.
    fn place(&mut self, size: u64, aligned: bool, writes: bool) -> u64 {
        let unit = size.next_power_of_two().min(64);
        let aligned = (aligned || size >= 16) && !self.random.once_in(48);
        let (start, end) = (DATA, DATA_END - size.next_multiple_of(16));
        let place = match self.random.below(64) {
            // Beyond what is mapped, or what may be written.
            0 if self.random.once_in(3) => DATA_END - self.random.below(size + 4),
            0 if self.random.once_in(2) => DATA - self.random.below(size + 4),
            0 => STACK_END - size,
            // Across pages.
            1..=4 => start + 0x1000 - self.random.below(size + 1),
            // A few places that many come back to.
            5..=30 => start + 0x800 + self.random.below(0x40),
            _ => start + self.random.below(end - start),
        };
        let _ = writes;
        if aligned { place / unit * unit } else { place }
    }

    /// Points a register at `room` bytes of data on either side.
    fn point(&mut self, item: &mut Item, register: usize, segment: Register, size: u64, room: u64) {
        let base = segment_base(segment);
        let value = loop {
            let place = self.place(size, false, false);
            if self.random.once_in(32) || (DATA + room..DATA_END - room).contains(&place) {
                break place.wrapping_sub(base);
            }
        };
        self.set(item, register, value);
    }

    fn set(&mut self, item: &mut Item, register: usize, value: u64) {
        mov(&mut item.setup, register, value);
        self.known.registers[register] = Some(value);
        if register == RSP {
            self.known.stack = (STACK..STACK_END).contains(&value);
        }
    }

    /// Loads a register with a new value, which is not made a base of addresses.
    fn new_value(&mut self) -> Item {
        let mut item = Item::default();
        let register = self.random.pick(&[0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        let value = self.random.integer();
        mov(&mut item.code, register, value);
        self.known.registers[register] = None;
        item
    }

    /// POPFQ of random flags, now and then with TF.
    fn load_flags(&mut self) -> Item {
        let mut item = Item::default();
        if !self.known.stack {
            self.set(&mut item, RSP, STACK_POINTER);
        }
        let trap = if self.random.once_in(40) { 0x100 } else { 0 };
        // DF up most of the time, and ID and NT.
        let more = if self.random.once_in(4) { 0x20_4400 } else { 0x20_0000 };
        let flags = self.random.next() as u32 & (0x8d5 | more) | trap | 0x200;
        // push flags; popfq
        item.code.push(0x68);
        item.code.extend(flags.to_le_bytes());
        item.code.extend(if self.random.once_in(4) { vec![0x66, 0x83, 0x04, 0x24, 0, 0x9d] } else { vec![0x9d] });
        item
    }

    /// LDMXCSR of a value that mostly masks exceptions; bit 17 exists on some processors only.
    fn load_mxcsr(&mut self) -> Item {
        let mut item = Item::default();
        if !self.known.stack {
            self.set(&mut item, RSP, STACK_POINTER);
        }
        let masks = if self.random.once_in(8) { self.random.next() as u32 & 0x1f80 } else { 0x1f80 };
        let reserved = if self.random.once_in(100) { 1 << 16 } else { 0 };
        let value = masks | reserved | self.random.next() as u32 & 0xe07f;
        // push value; ldmxcsr [rsp]; lea rsp, [rsp + 8]
        item.code.push(0x68);
        item.code.extend(value.to_le_bytes());
        item.code.extend([0x0f, 0xae, 0x14, 0x24, 0x48, 0x8d, 0x64, 0x24, 0x08]);
        item
    }

    /// XSAVE or XSAVEC of the vector registers, something that changes them, and XRSTOR. Left out are XSAVEOPT, which may remember
    /// what was restored last; the x87's state, since processors differ about its pointers; and XGETBV, with which KVM
    /// without hardware assistance shows the host's XCR0 at times.
    fn save_and_restore(&mut self) -> Item {
        let mut item = Item::default();
        let area = DATA + 64 * self.random.below(((DATA_END - DATA) - 832) / 64) + u64::from(self.random.once_in(24));
        self.set(&mut item, RDI, area);
        self.set(&mut item, RDX, 0);
        // mov qword [rdi + 512 + 8n], 0; XRSTOR faults if it finds something else in most of them.
        let kept = if self.random.once_in(8) { self.random.below(8) } else { 8 };
        for word in (0..8).filter(|word| *word != kept) {
            item.code.extend([0x48, 0xc7, 0x87, (8 * word) as u8, 2, 0, 0, 0, 0, 0, 0]);
        }
        // and dword [rdi + 512], 0xffe00007: components of the host, with which KVM without hardware assistance restores.
        item.code.extend([0x81, 0xa7, 0, 2, 0, 0, 0x07, 0, 0xe0, 0xff]);
        let choose = |generator: &mut Self, item: &mut Item, components: u8, forms: &[[u8; 3]]| {
            // mov eax, components
            item.code.extend([0xb8, components, 0, 0, 0]);
            if generator.random.once_in(2) {
                item.code.push(0x48);
            }
            item.code.extend(generator.random.pick(forms));
        };
        let saved = self.random.pick(&[2, 4, 6, 6]);
        // AMD's processors do not always initialise MXCSR with an SSE component that is not in a compact area.
        let restored = if saved == 4 { 4 } else { self.random.pick(&[2, 4, 6, 6]) };
        // vpcmpeqd ymm3, ymm3, ymm3: processors may take components whose registers are all zero as in use.
        item.code.extend([0xc5, 0xe5, 0x76, 0xdb]);
        choose(self, &mut item, saved, &[[0x0f, 0xae, 0x27], [0x0f, 0xc7, 0x27]]);
        // mov dword [rdi + 28], 0: processors differ in the mask of MXCSR.
        item.code.extend([0xc7, 0x47, 28, 0, 0, 0, 0]);
        if self.random.once_in(3) {
            // mov dword [rdi + 24], MXCSR
            item.code.extend([0xc7, 0x47, 24, 0xa1, 0x1f, 0, 0]);
        }
        // vzeroupper; pcmpeqd xmm3, xmm3
        item.code.extend([0xc5, 0xf8, 0x77, 0x66, 0x0f, 0x76, 0xdb]);
        choose(self, &mut item, restored, &[[0x0f, 0xae, 0x2f]]);
        self.known.registers[RAX] = None;
        self.known.registers[RDX] = None;
        item
    }

    /// A branch forward over a few items.
    fn branch(&mut self) -> Item {
        let mut item = Item::default();
        let skipped = self.random.below(4) as usize;
        let short = |code: Vec<u8>| {
            let end = code.len();
            (code, Fixup { at: end - 1, length: 1, from: end, to: Target::Skip(skipped) })
        };
        let near = |code: Vec<u8>| {
            let end = code.len();
            (code, Fixup { at: end - 4, length: 4, from: end, to: Target::Skip(skipped) })
        };
        let condition = self.random.below(16) as u8;
        let kind = self.random.below(12);
        if matches!(kind, 5..=10) && !self.known.stack {
            self.set(&mut item, RSP, STACK_POINTER);
        }
        let (code, fixup) = match kind {
            0..=1 => short(vec![0x70 | condition, 0]),
            2 => near(vec![0x0f, 0x80 | condition, 0, 0, 0, 0]),
            3 => short(vec![0xeb, 0]),
            4 => {
                self.known.registers[RCX] = None;
                let mut code = vec![self.random.pick(&[0xe0, 0xe1, 0xe2, 0xe3]), 0];
                if self.random.once_in(4) {
                    code.insert(0, 0x67);
                }
                short(code)
            }
            5..=6 => near(vec![0xe8, 0, 0, 0, 0]),
            7..=9 => {
                // lea rax, [rip + target]; then by way of the stack or not.
                self.known.registers[RAX] = None;
                let mut code = vec![0x48, 0x8d, 0x05, 0, 0, 0, 0];
                let (end, amount) = (code.len(), self.random.below(32) as u8 * 8);
                code.extend(match self.random.below(5) {
                    // jmp rax
                    0 => vec![0xff, 0xe0],
                    // call rax
                    1 => vec![0xff, 0xd0],
                    // push rax; ret
                    2 => vec![0x50, 0xc3],
                    // push rax; ret amount
                    3 => vec![0x50, 0xc2, amount, 0],
                    // push rax; jmp [rsp]
                    _ => vec![0x50, 0xff, 0x24, 0x24],
                });
                (code, Fixup { at: 3, length: 4, from: end, to: Target::Skip(skipped) })
            }
            _ => {
                let (code, fixup) = near(vec![0xe9, 0, 0, 0, 0]);
                (code, fixup)
            }
        };
        item.code = code;
        item.fixup = Some(fixup);
        item
    }
}

fn segment_base(segment: Register) -> u64 {
    match segment {
        Register::FS => FS_BASE,
        Register::GS => GS_BASE,
        _ => 0,
    }
}

/// The number of a general register, or of that which it is a part of.
fn number(register: Register) -> Option<usize> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number())
}

/// mov register, value
fn mov(code: &mut Vec<u8>, register: usize, value: u64) {
    let extended = (register >> 3) as u8;
    let low = (register & 7) as u8;
    if let Ok(value) = u32::try_from(value) {
        if extended != 0 {
            code.push(0x41);
        }
        code.push(0xb8 | low);
        code.extend(value.to_le_bytes());
    } else if let Ok(value) = i32::try_from(value as i64) {
        code.extend([0x48 | extended, 0xc7, 0xc0 | low]);
        code.extend(value.to_le_bytes());
    } else {
        code.extend([0x48 | extended, 0xb8 | low]);
        code.extend(value.to_le_bytes());
    }
}
