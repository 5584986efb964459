//! FMA: fused multiply-add.

use super::float::packed;
use super::table::Register;
use crate::x86_64::softfloat::{Environment, Format, pack};

/// Which two operands are multiplied; the other is added. Operand 1 is the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// 1 and 3, plus 2.
    O132,
    /// 2 and 1, plus 3.
    O213,
    /// 2 and 3, plus 1.
    O231,
}

/// What happens to the addend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addend {
    /// It is added.
    Added,
    /// It is subtracted.
    Subtracted,
    /// It is subtracted in lanes with even numbers, and added in the others (VFMADDSUB).
    Alternating,
    /// It is added in lanes with even numbers, and subtracted in the others (VFMSUBADD).
    AlternatingReversed,
}

/// An instruction of FMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MultiplyAdd {
    /// Which operands are multiplied.
    pub order: Order,
    /// The product is negated.
    pub negated: bool,
    /// What happens to the addend.
    pub addend: Addend,
    /// Lanes are binary64, not binary32.
    pub double: bool,
    /// Only the lowest lane takes part.
    pub scalar: bool,
}

const ORDERS: [Order; 3] = [Order::O132, Order::O213, Order::O231];
const ADDENDS: [Addend; 4] = [Addend::Added, Addend::Subtracted, Addend::Alternating, Addend::AlternatingReversed];

impl MultiplyAdd {
    /// The instruction with a mnemonic in lower case.
    pub fn named(name: &str) -> Option<MultiplyAdd> {
        let rest = name.strip_prefix("vf")?;
        let (negated, rest) = rest.strip_prefix('n').map_or((false, rest), |rest| (true, rest));
        // The longer names first.
        let (addend, rest) = [
            ("maddsub", Addend::Alternating),
            ("msubadd", Addend::AlternatingReversed),
            ("madd", Addend::Added),
            ("msub", Addend::Subtracted),
        ]
        .iter()
        .find_map(|(prefix, addend)| Some((*addend, rest.strip_prefix(prefix)?)))?;
        let (order, rest) = [("132", Order::O132), ("213", Order::O213), ("231", Order::O231)]
            .iter()
            .find_map(|(prefix, order)| Some((*order, rest.strip_prefix(prefix)?)))?;
        let (scalar, double) = match rest {
            "ps" => (false, false),
            "pd" => (false, true),
            "ss" => (true, false),
            "sd" => (true, true),
            _ => return None,
        };
        Some(MultiplyAdd { order, negated, addend, double, scalar })
    }

    /// All of it in one word.
    pub fn encode(self) -> u64 {
        self.order as u64
            | u64::from(self.negated) << 2
            | u64::from(self.double) << 3
            | u64::from(self.scalar) << 4
            | (self.addend as u64) << 5
    }

    /// From [`MultiplyAdd::encode`].
    pub fn decode(word: u64) -> MultiplyAdd {
        MultiplyAdd {
            order: ORDERS[(word & 3).min(2) as usize],
            negated: word & 4 != 0,
            double: word & 8 != 0,
            scalar: word & 16 != 0,
            addend: ADDENDS[(word >> 5 & 3) as usize],
        }
    }

    /// The result of the 128 bits of three operands.
    pub fn on_registers(self, environment: &mut Environment, operands: [Register; 3]) -> Register {
        let format = if self.double { Format::DOUBLE } else { Format::SINGLE };
        environment.format = format;
        let [first, second, third] = operands;
        let (a, b, c) = match self.order {
            Order::O132 => (first, third, second),
            Order::O213 => (second, first, third),
            Order::O231 => (second, third, first),
        };
        if self.scalar {
            let result = self.on_lanes(environment, format, false, [a[0], b[0], c[0]]);
            let kept = if self.double { 0 } else { first[0] & !0xffff_ffff };
            return [result | kept, first[1]];
        }
        // The multiplied operands' lanes come in pairs; the addend's follow in the same order.
        let mut addends = Vec::with_capacity(4);
        packed(format, c, c, |lane, _| {
            addends.push(lane);
            0
        });
        let mut addends = addends.into_iter().enumerate();
        packed(format, a, b, |a, b| {
            let (number, c) = addends.next().unwrap_or_default();
            self.on_lanes(environment, format, number % 2 != 0, [a, b, c])
        })
    }

    fn on_lanes(self, environment: &mut Environment, format: Format, odd: bool, lanes: [u64; 3]) -> u64 {
        let [a, b, c] = lanes.map(|lane| environment.operand(format, lane));
        let subtracts = match self.addend {
            Addend::Added => false,
            Addend::Subtracted => true,
            Addend::Alternating => !odd,
            Addend::AlternatingReversed => odd,
        };
        // The sign of a NaN stays.
        let a = if self.negated && !a.is_nan() { a.negated() } else { a };
        let c = if subtracts && !c.is_nan() { c.negated() } else { c };
        pack(format, environment.multiply_add(a, b, c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_and_encoded() {
        let all = ["vfmadd132ps", "vfnmsub231sd", "vfmaddsub213pd", "vfmsubadd132ps", "vfnmadd213ss"];
        for name in all {
            let operation = MultiplyAdd::named(name).unwrap();
            assert_eq!(MultiplyAdd::decode(operation.encode()), operation, "{name}");
        }
        assert_eq!(MultiplyAdd::named("vfmaddsub213pd").unwrap().addend, Addend::Alternating);
        assert!(MultiplyAdd::named("vfmaddps").is_none() && MultiplyAdd::named("vfnmadd132ph").is_none());
    }

    #[test]
    fn the_sum_is_rounded_once() {
        let mut environment = Environment::sse(0x1f80, Format::DOUBLE);
        let operation = MultiplyAdd::named("vfmadd213sd").unwrap();
        for (a, b, c) in
            [(1.0 + f64::EPSILON, 1.0 - f64::EPSILON, -1.0_f64), (3e-160, 7e-160, 1e-320), (1e300, 1e8, -1e308)]
        {
            let result =
                operation.on_registers(&mut environment, [[a.to_bits(), 0], [b.to_bits(), 0], [c.to_bits(), 0]]);
            assert_eq!(f64::from_bits(result[0]), f64::mul_add(a, b, c));
        }
    }
}
