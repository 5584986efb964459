//! All encodings, executed by the host from memory.

use super::*;
use crate::x86_64::softfloat::Class;

/// Host code that loads an image from [rsi], loads the flags from rdx, executes an instruction whose memory operand is [rdi],
/// stores flags and AX to [rdi + 16] and [rdi + 24], and saves the image.
struct Code {
    page: *mut u8,
}

const LENGTH: usize = 4096;

impl Code {
    fn new() -> Option<Code> {
        // SAFETY: a fresh private mapping.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LENGTH,
                libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        (page != libc::MAP_FAILED).then_some(Code { page: page.cast() })
    }

    fn run(&mut self, opcode: u16, machine: &mut Machine, flags: u64) -> (u64, u16) {
        let modrm = if opcode & 0xc0 == 0xc0 { opcode as u8 } else { opcode as u8 & 0x38 | 7 };
        let code: &[&[u8]] = &[
            &[0xdd, 0x26],                         // frstor [rsi]
            &[0x52, 0x9d],                         // push rdx; popfq
            &[0xd8 | (opcode >> 8) as u8, modrm],  // the instruction
            &[0x66, 0x89, 0x47, 0x18],             // mov [rdi + 24], ax
            &[0x9c, 0x58, 0x48, 0x89, 0x47, 0x10], // pushfq; pop rax; mov [rdi + 16], rax
            &[0xdd, 0x36, 0xc3],                   // fnsave [rsi]; ret
        ];
        let code = code.concat();
        let mut image = [0_u8; 108];
        let (environment, registers) = machine.unit.fnsave_image();
        image[..28].copy_from_slice(&environment);
        image[28..].copy_from_slice(&registers);
        let mut memory = [0_u8; 32];
        memory[..16].copy_from_slice(&machine.memory);
        // SAFETY: the page is writable and long enough for the code, which touches what its operands point to only. No
        // exception is pending before the instruction, and FNSAVE leaves the unit as the ABI has it.
        unsafe {
            std::ptr::copy_nonoverlapping(code.as_ptr(), self.page, code.len());
            asm!(
                "call {code}",
                code = in(reg) self.page, in("rdi") memory.as_mut_ptr(), in("rsi") image.as_mut_ptr(), in("rdx") flags,
                out("rax") _,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            );
        }
        machine.memory.copy_from_slice(&memory[..16]);
        let (environment, registers) = image.split_at(28);
        let format = EnvironmentFormat::Protected32;
        machine.unit.frstor(format, environment.try_into().unwrap(), registers.try_into().unwrap());
        machine.unit.clear_pointers();
        let word = |at: usize| u64::from_le_bytes(memory[at..at + 8].try_into().unwrap());
        (word(16) & 0x8d5, word(24) as u16)
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        // SAFETY: the mapping made above.
        unsafe { libc::munmap(self.page.cast(), LENGTH) };
    }
}

/// What the host does with an instruction and what we do, on one state.
fn compare(code: &mut Code, opcode: u16, start: Machine, random: u64) {
    let set = ComparisonFlags { zero: random & 1 != 0, parity: random & 2 != 0, carry: random & 4 != 0 };
    let bits =
        |flags: ComparisonFlags| u64::from(flags.zero) << 6 | u64::from(flags.parity) << 2 | u64::from(flags.carry);
    let (mut got, mut want) = (start, start);
    // OF, SF and AF are set before.
    let before = bits(set) | 0x890;
    let (flags_after, accumulator) = code.run(opcode, &mut want, before | 2);
    let mut operand = [0; 10];
    operand.copy_from_slice(&start.memory[..10]);
    let outcome = got.unit.execute(opcode, operand, set);
    let mut flags = before;
    match outcome {
        Outcome::Done => {}
        Outcome::Flags(compared) => flags = bits(compared),
        Outcome::Accumulator(word) => assert_eq!(word, accumulator, "{opcode:03x}"),
        Outcome::Store(bytes) => {
            let Form::Store(length) = form(opcode) else { panic!("{opcode:03x} stores, but says otherwise") };
            if let Some(bytes) = bytes {
                got.store(&bytes[..length.into()]);
            }
        }
    }
    let report =
        |got: &Machine, want: &Machine| format!("{opcode:03x}\n from {start:?}\n got  {got:?}\n want {want:?}");
    assert_eq!(flags, flags_after, "{}", report(&got, &want));
    let transcendental = matches!(opcode, 0x1f0..=0x1f3 | 0x1f9 | 0x1fb | 0x1fe | 0x1ff);
    for machine in [&mut got, &mut want] {
        machine.unit.status &= !status::C1;
        if transcendental {
            // Their results are compared elsewhere.
            machine.unit.status &= !(exception::INEXACT | exception::UNDERFLOW | status::ERROR_SUMMARY | status::BUSY);
            for index in 0..2 {
                let physical = machine.unit.physical(index);
                machine.unit.registers[physical].significand >>= 3;
            }
        }
    }
    if transcendental {
        assert_eq!(got.unit.tags, want.unit.tags, "{}", report(&got, &want));
        assert_eq!(got.unit.status, want.unit.status, "{}", report(&got, &want));
    } else {
        assert!(got == want, "{}", report(&got, &want));
    }
}

#[test]
fn every_encoding_does_what_the_host_does() {
    let Some(mut code) = Code::new() else {
        eprintln!(
            "SKIPPED: every_encoding_does_what_the_host_does: the host maps no memory that is writable and executable"
        );
        return;
    };
    let mut numbers = Numbers(29);
    let mut tried = 0;
    let registers = (0..8_u16).flat_map(|escape| (0xc0..0x100).map(move |modrm| escape << 8 | modrm));
    let memory = (0..8_u16).flat_map(|escape| (0..8).map(move |operation| escape << 8 | operation << 3));
    for opcode in registers.chain(memory) {
        if !matches!(form(opcode), Form::Register | Form::Load(_) | Form::Store(_)) {
            continue;
        }
        tried += 1;
        for _ in 0..500 {
            let mut start = numbers.machine();
            // Out of their range, what these do is undefined.
            if matches!(opcode, 0x1f0 | 0x1f9) {
                set_in_range(&mut numbers, &mut start);
            }
            // Where quotients are large, steps differ.
            let distance = start.unit.st(0).unpack().exponent - start.unit.st(1).unpack().exponent;
            if matches!(opcode, 0x1f5 | 0x1f8) && distance > 63 {
                continue;
            }
            // Digits that are none are undefined.
            if opcode == 0x720 {
                start.memory = start.memory.map(|byte| byte & 0x77);
                start.memory[9] = 0x80;
            }
            let random = numbers.next();
            compare(&mut code, opcode, start, random);
        }
    }
    assert_eq!(tried, 8 * 64 - undefined_registers() + 64 - 4 - 4, "register and memory forms");
}

fn set_in_range(numbers: &mut Numbers, machine: &mut Machine) {
    if machine.unit.st(0).unpack().class != Class::Zero {
        let physical = machine.unit.physical(0);
        machine.unit.registers[physical] = numbers.finite(-70, -3);
    }
}

/// How many register forms the manual's opcode map (SDM volume 2, table A-7 and on) leaves empty, apart from the aliases that all processors have.
fn undefined_registers() -> usize {
    // D9: D1-D7, E2, E3, E6, E7, EF. DA: E0-E8, EA-FF. DB: E5-E7, F8-FF. DD: F0-FF. DE: D8, DA-DF. DF: E1-E7, F8-FF.
    7 + 5 + 9 + 22 + 3 + 8 + 16 + 7 + 7 + 8
}

#[test]
fn control_instructions_and_those_that_wait() {
    // FNSTENV, FNSTCW, FNSAVE, FNSTSW, FNSTSW AX, FNCLEX, FNINIT.
    for opcode in [0x130, 0x138, 0x530, 0x538, 0x7e0, 0x3e2, 0x3e3] {
        assert!(!waits(opcode) && is_control(opcode), "{opcode:03x}");
    }
    // FLDENV, FLDCW, FRSTOR.
    for opcode in [0x120, 0x128, 0x520] {
        assert!(waits(opcode) && is_control(opcode), "{opcode:03x}");
    }
    // FADD, FLD ST, FBLD, FPREM, FDECSTP, FUCOM, FST m64.
    for opcode in [0x000, 0x1c1, 0x720, 0x1f8, 0x1f6, 0x5e1, 0x510] {
        assert!(waits(opcode) && !is_control(opcode), "{opcode:03x}");
    }
}
