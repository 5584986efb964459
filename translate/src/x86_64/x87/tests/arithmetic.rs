use super::*;
use crate::x86_64::test_host::host_is_amd;

#[test]
fn arithmetic_with_registers() {
    macro_rules! all { ($($op:ident $forward:literal $backward:literal $popping:literal)*) => { $(
        check($forward, |m| m.unit.arithmetic(Arithmetic::$op, 0, 1, false), host!($forward));
        check($backward, |m| m.unit.arithmetic(Arithmetic::$op, 1, 0, false), host!($backward));
        check($popping, |m| m.unit.arithmetic(Arithmetic::$op, 1, 0, true), host!($popping));
    )* } }
    all! {
        Add "fadd st(0), st(1)" "fadd st(1), st(0)" "faddp st(1), st(0)"
        Mul "fmul st(0), st(1)" "fmul st(1), st(0)" "fmulp st(1), st(0)"
        Sub "fsub st(0), st(1)" ".byte 0xdc, 0xe9" ".byte 0xde, 0xe9"
        SubReversed "fsubr st(0), st(1)" ".byte 0xdc, 0xe1" ".byte 0xde, 0xe1"
        Div "fdiv st(0), st(1)" ".byte 0xdc, 0xf9" ".byte 0xde, 0xf9"
        DivReversed "fdivr st(0), st(1)" ".byte 0xdc, 0xf1" ".byte 0xde, 0xf1"
    }
}

#[test]
fn arithmetic_with_memory() {
    macro_rules! all { ($($op:ident $single:literal $double:literal $word:literal $doubleword:literal)*) => { $(
        check($single, |m| m.unit.arithmetic_f32(Arithmetic::$op, m.u32()), host!($single));
        check($double, |m| m.unit.arithmetic_f64(Arithmetic::$op, m.u64()), host!($double));
        check($word, |m| m.unit.arithmetic_integer(Arithmetic::$op, (m.u32() as i16).into()), host!($word));
        check($doubleword, |m| m.unit.arithmetic_integer(Arithmetic::$op, m.u32() as i32), host!($doubleword));
    )* } }
    all! {
        Add "fadd dword ptr [{memory}]" "fadd qword ptr [{memory}]" "fiadd word ptr [{memory}]" "fiadd dword ptr [{memory}]"
        Mul "fmul dword ptr [{memory}]" "fmul qword ptr [{memory}]" "fimul word ptr [{memory}]" "fimul dword ptr [{memory}]"
        Sub "fsub dword ptr [{memory}]" "fsub qword ptr [{memory}]" "fisub word ptr [{memory}]" "fisub dword ptr [{memory}]"
        SubReversed "fsubr dword ptr [{memory}]" "fsubr qword ptr [{memory}]" "fisubr word ptr [{memory}]" "fisubr dword ptr [{memory}]"
        Div "fdiv dword ptr [{memory}]" "fdiv qword ptr [{memory}]" "fidiv word ptr [{memory}]" "fidiv dword ptr [{memory}]"
        DivReversed "fdivr dword ptr [{memory}]" "fdivr qword ptr [{memory}]" "fidivr word ptr [{memory}]" "fidivr dword ptr [{memory}]"
    }
}

#[test]
fn functions_of_one_operand() {
    check("fsqrt", |m| m.unit.fsqrt(), host!("fsqrt"));
    check("fabs", |m| m.unit.fabs(), host!("fabs"));
    check("fchs", |m| m.unit.fchs(), host!("fchs"));
    check("frndint", |m| m.unit.frndint(), host!("frndint"));
    check("fxtract", |m| m.unit.fxtract(), host!("fxtract"));
}

#[test]
fn scaling() {
    if !host_is_amd() {
        eprintln!(
            "SKIPPED: scaling: of numbers in no valid form it is as AMD's processors do it, the host has another"
        );
        return;
    }
    check("fscale", |m| m.unit.fscale(), host!("fscale"));
    let small_factor = |numbers: &mut Numbers, machine: &mut Machine| {
        let physical = machine.unit.physical(1);
        machine.unit.registers[physical] = numbers.finite(-1, 14);
    };
    check_on("fscale", ROUNDS, small_factor, |m| m.unit.fscale(), host!("fscale"));
}

#[test]
fn remainders() {
    if !host_is_amd() {
        eprintln!("SKIPPED: remainders: of numbers in no valid form they are AMD's processors', the host has another");
        return;
    }
    // The steps that large quotients take are not the same on all processors.
    let near = |numbers: &mut Numbers, machine: &mut Machine| {
        let (dividend, divisor) = (machine.unit.st(0).unpack(), machine.unit.st(1).unpack());
        let finite = crate::x86_64::softfloat::Class::Finite;
        if dividend.class == finite && divisor.class == finite && dividend.exponent - divisor.exponent > 63 {
            let physical = machine.unit.physical(1);
            machine.unit.registers[physical] =
                Float80::pack(Number { exponent: dividend.exponent - numbers.below(64) as i32, ..divisor });
        }
    };
    check_on("fprem", ROUNDS, near, |m| m.unit.fprem(), host!("fprem"));
    check_on("fprem1", ROUNDS, near, |m| m.unit.fprem1(), host!("fprem1"));
    let finite = |numbers: &mut Numbers, machine: &mut Machine| {
        machine.unit.tags = 0xff;
        machine.unit.control |= 0x3f;
        machine.unit.status &= 0x7800;
        for index in 0..2 {
            let physical = machine.unit.physical(index);
            machine.unit.registers[physical] = numbers.finite(-300, 300);
        }
    };
    let until_done = |step: fn(&mut X87)| {
        move |machine: &mut Machine| {
            while {
                step(&mut machine.unit);
                machine.unit.status & status::C2 != 0
            } {}
        }
    };
    let host_loop = host!("2: fprem; fnstsw ax; test ax, 0x400; jnz 2b");
    check_on("fprem in a loop", ROUNDS, finite, until_done(X87::fprem), host_loop);
    let host_loop = host!("2: fprem1; fnstsw ax; test ax, 0x400; jnz 2b");
    check_on("fprem1 in a loop", ROUNDS, finite, until_done(X87::fprem1), host_loop);
}

#[test]
fn comparisons() {
    check("fcom", |m| m.unit.fcom(1, false, 0), host!("fcom st(1)"));
    check("fcomp", |m| m.unit.fcom(3, false, 1), host!("fcomp st(3)"));
    check("fcompp", |m| m.unit.fcom(1, false, 2), host!("fcompp"));
    check("fucom", |m| m.unit.fcom(1, true, 0), host!("fucom st(1)"));
    check("fucomp", |m| m.unit.fcom(2, true, 1), host!("fucomp st(2)"));
    check("fucompp", |m| m.unit.fcom(1, true, 2), host!("fucompp"));
    check("fcom", |m| m.unit.fcom_f32(m.u32(), false), host!("fcom dword ptr [{memory}]"));
    check("fcomp", |m| m.unit.fcom_f64(m.u64(), true), host!("fcomp qword ptr [{memory}]"));
    check("ficom", |m| m.unit.ficom((m.u32() as i16).into(), false), host!("ficom word ptr [{memory}]"));
    check("ficomp", |m| m.unit.ficom(m.u32() as i32, true), host!("ficomp dword ptr [{memory}]"));
    check("ftst", |m| m.unit.ftst(), host!("ftst"));
    check("fxam", |m| m.unit.fxam(), host!("fxam"));
    let store = |machine: &mut Machine, flags: crate::x86_64::softfloat::ComparisonFlags| {
        // All flags are set before; OF, SF and AF are cleared.
        let bits = u64::from(flags.zero) << 6 | u64::from(flags.parity) << 2 | u64::from(flags.carry);
        machine.store(&bits.to_le_bytes());
    };
    macro_rules! to_flags { ($($name:literal $index:literal $quiet:literal $pop:literal)*) => { $(
        let ours = |m: &mut Machine| { let flags = m.unit.fcomi($index, $quiet, $pop); store(m, flags) };
        check_without_c1($name, ours, host!("push 0x8d5; popfq; " $name "; pushfq; pop rax; and rax, 0x8d5; mov [{memory}], rax"));
    )* } }
    to_flags! {
        "fcomi st(0), st(1)" 1 false false "fcomip st(0), st(1)" 1 false true
        "fucomi st(0), st(1)" 1 true false "fucomip st(0), st(2)" 2 true true
    }
}
