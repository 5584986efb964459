use super::*;

#[test]
fn loads() {
    check("fld m32", |m| m.unit.fld_f32(m.u32()), host!("fld dword ptr [{memory}]"));
    check("fld m64", |m| m.unit.fld_f64(m.u64()), host!("fld qword ptr [{memory}]"));
    check("fld m80", |m| m.unit.fld_f80(m.f80()), host!("fld tbyte ptr [{memory}]"));
    check("fild m16", |m| m.unit.fild((m.u32() as i16).into()), host!("fild word ptr [{memory}]"));
    check("fild m32", |m| m.unit.fild((m.u32() as i32).into()), host!("fild dword ptr [{memory}]"));
    check("fild m64", |m| m.unit.fild(m.u64() as i64), host!("fild qword ptr [{memory}]"));
    check("fld st", |m| m.unit.fld_st(3), host!("fld st(3)"));
    let digits = |numbers: &mut Numbers, machine: &mut Machine| {
        for byte in &mut machine.memory {
            *byte = (numbers.below(10) << 4 | numbers.below(10)) as u8;
        }
        machine.memory[9] = (numbers.below(2) << 7) as u8;
    };
    check_on("fbld", ROUNDS, digits, |m| m.unit.fbld(m.f80().to_bytes()), host!("fbld tbyte ptr [{memory}]"));
    macro_rules! constants { ($($name:literal $constant:ident)*) => { $(
        check($name, |m| m.unit.fld_constant(Constant::$constant), host!($name));
    )* } }
    constants! {
        "fld1" One "fldl2t" Log2Of10 "fldl2e" Log2OfE "fldpi" Pi "fldlg2" Log10Of2 "fldln2" LogOf2 "fldz" Zero
    }
}

#[test]
fn stores() {
    macro_rules! all { ($($name:literal $ours:expr;)*) => { $(
        let ours = |m: &mut Machine| {
            let method: fn(&mut X87) -> Option<_> = $ours;
            if let Some(value) = method(&mut m.unit) { m.store(&value.to_le_bytes()) }
        };
        check($name, ours, host!($name));
    )* } }
    all! {
        "fst dword ptr [{memory}]" |unit| unit.fst_f32(false);
        "fstp dword ptr [{memory}]" |unit| unit.fst_f32(true);
        "fst qword ptr [{memory}]" |unit| unit.fst_f64(false);
        "fstp qword ptr [{memory}]" |unit| unit.fst_f64(true);
        "fist word ptr [{memory}]" |unit| unit.fist(16, false).map(|value| value as i16);
        "fistp word ptr [{memory}]" |unit| unit.fist(16, true).map(|value| value as i16);
        "fist dword ptr [{memory}]" |unit| unit.fist(32, false).map(|value| value as i32);
        "fistp dword ptr [{memory}]" |unit| unit.fist(32, true).map(|value| value as i32);
        "fistp qword ptr [{memory}]" |unit| unit.fist(64, true);
        "fisttp word ptr [{memory}]" |unit| unit.fisttp(16).map(|value| value as i16);
        "fisttp dword ptr [{memory}]" |unit| unit.fisttp(32).map(|value| value as i32);
        "fisttp qword ptr [{memory}]" |unit| unit.fisttp(64);
    }
    let bytes = |m: &mut Machine, value: Option<[u8; 10]>| {
        if let Some(value) = value {
            m.store(&value);
        }
    };
    let ours = |m: &mut Machine| {
        let value = m.unit.fstp_f80().map(Float80::to_bytes);
        bytes(m, value);
    };
    check("fstp m80", ours, host!("fstp tbyte ptr [{memory}]"));
    let ours = |m: &mut Machine| {
        let value = m.unit.fbstp();
        bytes(m, value);
    };
    check("fbstp", ours, host!("fbstp tbyte ptr [{memory}]"));
}

#[test]
fn moves_within_the_stack() {
    check("fst st", |m| m.unit.fst_st(2, false), host!("fst st(2)"));
    check("fstp st", |m| m.unit.fst_st(2, true), host!("fstp st(2)"));
    check("fstp st", |m| m.unit.fst_st(0, true), host!("fstp st(0)"));
    check("fxch", |m| m.unit.fxch(1), host!("fxch st(1)"));
    check("fxch", |m| m.unit.fxch(7), host!("fxch st(7)"));
    check_without_c1("fcmove", |m| m.unit.fcmov(1, true), host!("cmp eax, eax; fcmove st(0), st(1)"));
    check_without_c1("fcmovne", |m| m.unit.fcmov(1, false), host!("cmp eax, eax; fcmovne st(0), st(1)"));
    check_without_c1("ffree", |m| m.unit.ffree(4), host!("ffree st(4)"));
    check("fincstp", |m| m.unit.fincstp(), host!("fincstp"));
    check("fdecstp", |m| m.unit.fdecstp(), host!("fdecstp"));
}

#[test]
fn control_instructions() {
    check("fninit", |m| m.unit.fninit(), host!("fninit"));
    check("fnclex", |m| m.unit.fnclex(), host!("fnclex"));
    check("fldcw", |m| m.unit.fldcw(m.u32() as u16), host!("fldcw [{memory}]"));
    let ours = |m: &mut Machine| m.store(&m.unit.fnstcw().to_le_bytes());
    check("fnstcw", ours, host!("fnstcw [{memory}]"));
    let ours = |m: &mut Machine| m.store(&m.unit.fnstsw().to_le_bytes());
    check("fnstsw", ours, host!("fnstsw [{memory}]"));
    assert!(!X87::default().has_pending_exception());
    // A pending exception stays until it is cleared or masked.
    let mut unit = X87::default();
    unit.fldcw(0x37e);
    unit.fsqrt();
    assert!(unit.has_pending_exception() && unit.is_empty(0));
    unit.fldcw(0x37f);
    assert!(!unit.has_pending_exception());
}

#[test]
fn mmx_registers() {
    let ours = |m: &mut Machine| {
        m.unit.enter_mmx();
        m.unit.set_mmx(3, m.u64());
    };
    check("movq mm3, m64", ours, host!("movq mm3, [{memory}]"));
    let ours = |m: &mut Machine| {
        m.unit.enter_mmx();
        m.store(&m.unit.mmx(5).to_le_bytes());
    };
    check("movq m64, mm5", ours, host!("movq [{memory}], mm5"));
    check("emms", |m| m.unit.emms(), host!("emms"));
}
