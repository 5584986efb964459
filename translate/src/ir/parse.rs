//! Reads the text form of blocks, see [`super::text`]. What follows a `;` on a line is a comment.

use super::names::*;
use super::*;

/// The text is not that of a block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct ParseError {
    /// Number of the line, from 1.
    pub line: usize,
    /// What is wrong with it, and what would be valid.
    pub problem: String,
}

/// Reads a block. The result is not [verified](super::verify()).
pub fn parse(text: &str, names: &impl Names) -> Result<Block, ParseError> {
    let mut start = None;
    let mut block = Block {
        start: 0,
        length: 0,
        ops: Vec::new(),
        instructions: Vec::new(),
        terminator: Terminator::Jump { target: 0 },
    };
    let mut terminated = false;
    let mut last = 0;
    for (index, line) in text.lines().enumerate() {
        last = index + 1;
        let at = |problem: String| ParseError { line: index + 1, problem };
        let line = line.split(';').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if terminated {
            return Err(at("nothing may follow the terminator".to_string()));
        }
        let Some(start) = start else {
            (block.start, block.length) = header(line).map_err(at)?;
            start = Some(block.start);
            continue;
        };
        if let Some(address) = line.strip_suffix(':') {
            let offset = number(address).map_err(at)?.wrapping_sub(start);
            let offset = u16::try_from(offset)
                .map_err(|_| at(format!("instruction {address} is more than 65535 bytes behind the block's start")))?;
            block.instructions.push(InstructionStart { op: block.ops.len() as u16, offset });
            continue;
        }
        match terminator(line).map_err(at)? {
            Some(terminator) => {
                block.terminator = terminator;
                terminated = true;
            }
            None => {
                let op = operation(line, block.ops.len(), names).map_err(at)?;
                block.ops.push(op);
                if block.ops.len() > usize::from(u16::MAX) {
                    return Err(at("a block has at most 65535 operations".to_string()));
                }
            }
        }
    }
    if !terminated {
        let missing = if start.is_none() { "`block ADDRESS, LENGTH`" } else { "a terminator, such as `jump ADDRESS`" };
        return Err(ParseError { line: last + 1, problem: format!("the text ends where {missing} is expected") });
    }
    Ok(block)
}

type Parsed<T> = Result<T, String>;

fn number(text: &str) -> Parsed<u64> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16),
        _ if text.starts_with('+') => return Err(format!("`{text}` is not a number")),
        _ => text.parse(),
    };
    parsed.map_err(|_| format!("`{text}` is not a number of at most 64 bits, decimal or 0x and hexadecimal"))
}

fn small<T: TryFrom<u64>>(text: &str) -> Parsed<T> {
    number(text)?.try_into().map_err(|_| format!("`{text}` is too large"))
}

fn header(line: &str) -> Parsed<(u64, u16)> {
    let rest = line.strip_prefix("block ").ok_or_else(|| format!("`{line}` is not `block ADDRESS, LENGTH`"))?;
    let [start, length] = operands(rest)?;
    Ok((number(start)?, small(length)?))
}

/// Splits at commas; there must be as many parts as the caller expects.
fn operands<const COUNT: usize>(text: &str) -> Parsed<[&str; COUNT]> {
    let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    let found = parts.len();
    parts.try_into().map_err(|_| format!("{found} operands where {COUNT} are expected"))
}

fn value(text: &str) -> Parsed<Value> {
    let digits = text.strip_prefix('v').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse().ok());
    number.map(Value).ok_or_else(|| format!("`{text}` is not a value, such as `v0`"))
}

fn values<const COUNT: usize>(text: &str) -> Parsed<[Value; COUNT]> {
    let mut all = [Value(0); COUNT];
    for (slot, text) in all.iter_mut().zip(operands::<COUNT>(text)?) {
        *slot = value(text)?;
    }
    Ok(all)
}

fn lookup<T: Copy>(table: &Table<T>, name: &str, what: &str) -> Parsed<T> {
    find(table, name).ok_or_else(|| {
        let known: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
        format!("`{name}` is not {what}: one of {}", known.join(", "))
    })
}

fn ty(name: &str) -> Parsed<Type> {
    lookup(TYPES, name, "a type")
}

fn mode(name: &str) -> Parsed<MemoryMode> {
    let digits = name.strip_prefix('m').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse().ok());
    number.map(MemoryMode).ok_or_else(|| format!("`{name}` is not a translation regime, such as `m0`"))
}

/// Splits a line at the first space: name with suffixes, operands.
fn split(line: &str) -> (&str, &str) {
    line.split_once(' ').unwrap_or((line, ""))
}

fn terminator(line: &str) -> Parsed<Option<Terminator>> {
    let (name, rest) = split(line);
    Ok(Some(match name {
        "jump" => {
            let [target] = operands(rest)?;
            Terminator::Jump { target: number(target)? }
        }
        "branch" => {
            let [condition, taken, not_taken] = operands(rest)?;
            Terminator::Branch { condition: value(condition)?, taken: number(taken)?, not_taken: number(not_taken)? }
        }
        "leave" => {
            let [target] = operands(rest)?;
            Terminator::Leave { target: number(target)? }
        }
        "leave_indirect" => {
            let [target] = values(rest)?;
            Terminator::LeaveIndirect { target }
        }
        "raise" => {
            let [exception, information] = operands(rest)?;
            Terminator::Raise { exception: small(exception)?, information: value(information)? }
        }
        _ => match name.strip_prefix("jump_indirect.") {
            Some(kind) => {
                let [target] = values(rest)?;
                Terminator::JumpIndirect { target, kind: lookup(INDIRECT_JUMPS, kind, "a kind of jump")? }
            }
            None => return Ok(None),
        },
    }))
}

fn operation(line: &str, position: usize, names: &impl Names) -> Parsed<Op> {
    let (result, text) = match line.split_once('=') {
        Some((result, text)) => (Some(value(result.trim())?), text.trim()),
        None => (None, line),
    };
    let op = operation_itself(text, names)?;
    match (result, op.result()) {
        (Some(Value(number)), Some(_)) if usize::from(number) == position => Ok(op),
        (None, None) => Ok(op),
        (Some(_), None) => Err(format!("`{text}` has no result")),
        (_, Some(_)) => {
            Err(format!("the result of `{text}` must be called v{position}, since it is operation {position}"))
        }
    }
}

fn register(name: &str, names: &impl Names) -> Parsed<Register> {
    let by_number = || name.strip_prefix('r').and_then(|digits| small(digits).ok()).map(Register);
    names.find_register(name).or_else(by_number).ok_or_else(|| format!("`{name}` is not a register"))
}

fn helper(text: &str, names: &impl Names) -> Parsed<Op> {
    let (name, rest) = split(text);
    let by_number = || name.strip_prefix("helper").and_then(|digits| small(digits).ok()).map(HelperId);
    let helper = names.find_helper(name).or_else(by_number).ok_or_else(|| format!("`{name}` is not a helper"))?;
    let mut arguments = [Value(0); 3];
    let given: Vec<&str> = rest.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if given.len() > arguments.len() {
        return Err(format!("{} operands where at most 3 are expected", given.len()));
    }
    for (slot, text) in arguments.iter_mut().zip(given) {
        *slot = value(text)?;
    }
    Ok(Op::Helper { helper, arguments })
}

/// An operation on vectors, from its name and suffixes behind `vector` and its operands.
fn vector(parts: &[&str], rest: &str, names: &impl Names) -> Parsed<Option<VectorOp>> {
    Ok(Some(match *parts {
        ["get"] => {
            let [name] = operands(rest)?;
            VectorOp::Get { register: register(name, names)? }
        }
        ["put"] => {
            let [name, new] = operands(rest)?;
            VectorOp::Put { register: register(name, names)?, value: value(new)? }
        }
        ["load", regime] => {
            let [address, distance] = operands(rest)?;
            VectorOp::Load { mode: mode(regime)?, address: value(address)?, offset: offset(distance)? }
        }
        ["store", regime] => {
            let [address, distance, new] = operands(rest)?;
            let (address, offset, value) = (value(address)?, offset(distance)?, value(new)?);
            VectorOp::Store { mode: mode(regime)?, address, offset, value }
        }
        ["from_halves"] => {
            let [low, high] = values(rest)?;
            VectorOp::FromHalves { low, high }
        }
        ["extract", lane] => {
            let [a, index] = operands(rest)?;
            VectorOp::Extract { lane: ty(lane)?, index: small(index)?, a: value(a)? }
        }
        ["insert", lane] => {
            let [a, index, new] = operands(rest)?;
            VectorOp::Insert { lane: ty(lane)?, index: small(index)?, a: value(a)?, value: value(new)? }
        }
        ["splat", lane] => {
            let [value] = values(rest)?;
            VectorOp::Splat { lane: ty(lane)?, value }
        }
        ["mask", lane] => {
            let [a] = values(rest)?;
            VectorOp::Mask { lane: ty(lane)?, a }
        }
        [name @ ("widen_s" | "widen_u"), lane] => {
            let [a] = values(rest)?;
            VectorOp::Widen { signed: name == "widen_s", lane: ty(lane)?, a }
        }
        ["float_square_root", lane] => {
            let [a] = values(rest)?;
            VectorOp::SquareRoot { lane: ty(lane)?, a }
        }
        [name] => {
            let Some(shuffle) = find(SHUFFLES, name) else { return Ok(None) };
            let [a, b, control] = operands(rest)?;
            VectorOp::Shuffle { shuffle: shuffle(small(control)?), a: value(a)?, b: value(b)? }
        }
        [name, lane] => {
            let lane = ty(lane)?;
            let [a, b] = values(rest)?;
            if let Some(op) = find(LANE_OPS, name) {
                VectorOp::Lanes { op, lane, a, b }
            } else if let Some(op) = find(LANE_SHIFTS, name) {
                VectorOp::Shift { op, lane, a, count: b }
            } else if let Some(op) = find(FLOAT_BINARY, name) {
                VectorOp::Float { op, lane, a, b }
            } else if let Some(shuffle) = find(INTERLEAVES, name) {
                VectorOp::Shuffle { shuffle: shuffle(lane), a, b }
            } else {
                return Ok(None);
            }
        }
        _ => return Ok(None),
    }))
}

fn operation_itself(text: &str, names: &impl Names) -> Parsed<Op> {
    let (full_name, rest) = split(text);
    let parts: Vec<&str> = full_name.split('.').collect();
    let unknown = || Err(format!("`{full_name}` is not an operation, or lacks or has too many suffixes"));
    let two = |rest| values::<2>(rest);
    Ok(match parts[..] {
        ["fence"] | ["fence", "tso"] => {
            let [] = operands(rest)?;
            Op::Fence { store_load: parts.len() == 1 }
        }
        ["get"] => {
            let [name] = operands(rest)?;
            Op::Get { register: register(name, names)? }
        }
        ["put"] => {
            let [name, new] = operands(rest)?;
            Op::Put { register: register(name, names)?, value: value(new)? }
        }
        ["helper"] => helper(rest, names)?,
        ["vector", ref parts @ ..] => match vector(parts, rest, names)? {
            Some(op) => Op::Vector(op),
            None => return unknown(),
        },
        ["raise_if"] => {
            let [condition, exception, information] = operands(rest)?;
            Op::RaiseIf { condition: value(condition)?, exception: small(exception)?, information: value(information)? }
        }
        ["code_address"] => {
            let [distance] = operands(rest)?;
            let problem = |_| format!("`{distance}` is not a distance: a decimal number of at most 64 bits, signed");
            Op::CodeAddress { distance: distance.parse().map_err(problem)? }
        }
        ["const", name] => {
            let [bits] = operands(rest)?;
            Op::Const { ty: ty(name)?, bits: number(bits)? }
        }
        ["select", name] => {
            let [condition, a, b] = values(rest)?;
            Op::Select { ty: ty(name)?, condition, a, b }
        }
        ["float_square_root", name] => {
            let [a] = values(rest)?;
            Op::FloatSquareRoot { ty: ty(name)?, a }
        }
        ["float_canonical", name] => {
            let [a] = values(rest)?;
            Op::FloatCanonical { ty: ty(name)?, a }
        }
        ["float_multiply_add", name] => {
            let [a, b, c] = values(rest)?;
            Op::FloatMultiplyAdd { ty: ty(name)?, a, b, c }
        }
        [name, type_name] => {
            if let Some(op) = find(BINARY, name) {
                let [a, b] = two(rest)?;
                Op::Binary { op, ty: ty(type_name)?, a, b }
            } else if let Some(op) = find(COMPARISONS, name) {
                let [a, b] = two(rest)?;
                Op::Compare { op, ty: ty(type_name)?, a, b }
            } else if let Some(op) = find(FLOAT_BINARY, name) {
                let [a, b] = two(rest)?;
                Op::FloatBinary { op, ty: ty(type_name)?, a, b }
            } else if let Some(op) = find(FLOAT_COMPARISONS, name) {
                let [a, b] = two(rest)?;
                Op::FloatCompare { op, ty: ty(type_name)?, a, b }
            } else if let Some(op) = find(UNARY, name) {
                let [a] = values(rest)?;
                Op::Unary { op, ty: ty(type_name)?, a }
            } else {
                return unknown();
            }
        }
        [name @ ("extend_s" | "extend_u"), from, to] => {
            let [a] = values(rest)?;
            Op::Extend { signed: name == "extend_s", from: ty(from)?, to: ty(to)?, a }
        }
        [name @ ("truncate" | "bitcast" | "float_convert" | "integer_to_float"), from, to] => {
            let [a] = values(rest)?;
            let (from, to) = (ty(from)?, ty(to)?);
            match name {
                "truncate" => Op::Truncate { from, to, a },
                "bitcast" => Op::Bitcast { from, to, a },
                "float_convert" => Op::FloatConvert { from, to, a },
                _ => Op::IntegerToFloat { from, to, a },
            }
        }
        ["probe_write", bytes, regime] => {
            let [address, distance] = operands(rest)?;
            Op::ProbeWrite {
                bytes: small(bytes)?,
                mode: mode(regime)?,
                address: value(address)?,
                offset: offset(distance)?,
            }
        }
        [name, width, regime] => {
            let width = || lookup(WIDTHS, width, "a width");
            let mode = || mode(regime);
            match name {
                "load_s" | "load_u" => {
                    let [address, distance] = operands(rest)?;
                    let (address, offset) = (value(address)?, offset(distance)?);
                    Op::Load { width: width()?, signed: name == "load_s", mode: mode()?, address, offset }
                }
                "store" => {
                    let [address, distance, new] = operands(rest)?;
                    let (address, offset, value) = (value(address)?, offset(distance)?, value(new)?);
                    Op::Store { width: width()?, mode: mode()?, address, offset, value }
                }
                "compare_exchange" => {
                    let [address, expected, new] = values(rest)?;
                    Op::AtomicCompareExchange { width: width()?, mode: mode()?, address, expected, new }
                }
                "load_reserved" => {
                    let [address] = values(rest)?;
                    Op::LoadReserved { width: width()?, mode: mode()?, address }
                }
                "store_conditional" => {
                    let [address, value] = two(rest)?;
                    Op::StoreConditional { width: width()?, mode: mode()?, address, value }
                }
                _ => {
                    let Some(op) = find(ATOMIC, name) else { return unknown() };
                    let [address, value] = two(rest)?;
                    Op::AtomicReadModifyWrite { op, width: width()?, mode: mode()?, address, value }
                }
            }
        }
        _ => return unknown(),
    })
}

fn offset(text: &str) -> Parsed<i32> {
    text.parse().map_err(|_| format!("`{text}` is not an offset: a signed decimal number of 32 bits"))
}
