//! Integer expressions.
//!
//! Numbers are decimal, octal (`0...`), hexadecimal (`0x...`) or characters (`'a'`); `$name` is a register. All
//! arithmetic is that of 64-bit integers that wrap around. As in QEMU, `*` `/` `%` bind closest, then `&` `|` `^`, then
//! `+` `-`.

/// Looks up a register; `None` if there is none of that name, an error if the processor cannot tell.
pub(super) type Registers<'a> = dyn Fn(&str) -> Result<Option<u64>, String> + 'a;

/// How deeply parentheses and signs may nest.
const MAXIMUM_DEPTH: u32 = 64;

/// Evaluates the expression at the beginning of `text`. Returns what is behind it, too.
pub(super) fn evaluate<'a>(text: &'a str, registers: &Registers<'_>) -> Result<(i64, &'a str), String> {
    let mut parser = Parser { rest: text, registers, depth: 0 };
    let value = parser.sum()?;
    Ok((value, parser.rest.trim_start()))
}

struct Parser<'a, 'r> {
    rest: &'a str,
    registers: &'r Registers<'r>,
    depth: u32,
}

impl Parser<'_, '_> {
    /// Takes the next character if it is one of `set`.
    fn operator(&mut self, set: &str) -> Option<char> {
        let rest = self.rest.trim_start();
        let character = rest.chars().next().filter(|&character| set.contains(character))?;
        self.rest = rest.get(character.len_utf8()..).unwrap_or_default();
        Some(character)
    }

    fn sum(&mut self) -> Result<i64, String> {
        let mut value = self.logic()?;
        while let Some(operator) = self.operator("+-") {
            let right = self.logic()?;
            value = if operator == '+' { value.wrapping_add(right) } else { value.wrapping_sub(right) };
        }
        Ok(value)
    }

    fn logic(&mut self) -> Result<i64, String> {
        let mut value = self.product()?;
        while let Some(operator) = self.operator("&|^") {
            let right = self.product()?;
            value = match operator {
                '&' => value & right,
                '|' => value | right,
                _ => value ^ right,
            };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<i64, String> {
        let mut value = self.unary()?;
        while let Some(operator) = self.operator("*/%") {
            let right = self.unary()?;
            if right == 0 && operator != '*' {
                return Err("division by zero".into());
            }
            value = match operator {
                '*' => value.wrapping_mul(right),
                '/' => value.wrapping_div(right),
                _ => value.wrapping_rem(right),
            };
        }
        Ok(value)
    }

    fn unary(&mut self) -> Result<i64, String> {
        self.depth += 1;
        if self.depth > MAXIMUM_DEPTH {
            return Err(format!("expression nests deeper than {MAXIMUM_DEPTH}"));
        }
        let value = match self.operator("+-~(") {
            Some('+') => self.unary(),
            Some('-') => self.unary().map(i64::wrapping_neg),
            Some('~') => self.unary().map(|value| !value),
            Some(_) => {
                let value = self.sum()?;
                self.operator(")").map(|_| value).ok_or_else(|| "')' expected".into())
            }
            None => self.atom(),
        };
        self.depth -= 1;
        value
    }

    fn atom(&mut self) -> Result<i64, String> {
        self.rest = self.rest.trim_start();
        if let Some(text) = self.rest.strip_prefix('\'') {
            let mut characters = text.chars();
            let (character, quote) = (characters.next(), characters.next());
            return match (character, quote) {
                (Some(character), Some('\'')) => {
                    self.rest = characters.as_str();
                    Ok(i64::from(u32::from(character)))
                }
                _ => Err("missing terminating ' character".into()),
            };
        }
        if let Some(text) = self.rest.strip_prefix('$') {
            let name = leading(text, |character| character.is_ascii_alphanumeric() || "_.:".contains(character));
            self.rest = text.get(name.len()..).unwrap_or_default();
            let value = (self.registers)(name)?.ok_or_else(|| format!("unknown register '${name}'"))?;
            return Ok(value.cast_signed());
        }
        let word = leading(self.rest, |character| character.is_ascii_alphanumeric());
        if word.is_empty() {
            return Err(match self.rest.chars().next() {
                None => "unexpected end of expression".into(),
                Some(character) => format!("invalid char '{character}' in expression"),
            });
        }
        let lower = word.to_ascii_lowercase();
        let (digits, radix) = match (lower.strip_prefix("0x"), lower.strip_prefix('0')) {
            (Some(digits), _) => (digits, 16),
            (None, Some(digits)) if !digits.is_empty() => (digits, 8),
            _ => (lower.as_str(), 10),
        };
        let value = u64::from_str_radix(digits, radix).map_err(|_| format!("'{word}' is no number of 64 bits"))?;
        self.rest = self.rest.get(word.len()..).unwrap_or_default();
        Ok(value.cast_signed())
    }
}

/// The characters at the beginning of `text` that are `wanted`.
fn leading(text: &str, wanted: impl Fn(char) -> bool) -> &str {
    let end = text.find(|character| !wanted(character)).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(text: &str) -> Result<(i64, &str), String> {
        evaluate(text, &|name| Ok((name == "pc").then_some(0x1000)))
    }

    #[test]
    fn values_and_operators() {
        for (text, value) in [
            ("0x10", 16),
            ("010", 8),
            ("0", 0),
            ("-1", -1),
            ("0xffffffffffffffff", -1),
            ("'a'", 97),
            ("$pc + 4", 0x1004),
            ("2*(3+4)-1", 13),
            ("1+2&3", 3),
            ("~0 ^ 0xf", -16),
            ("7%4/2", 1),
            ("-0x8000000000000000/-1", i64::MIN),
        ] {
            assert_eq!(eval(text), Ok((value, "")), "{text}");
        }
        assert_eq!(eval("12 34"), Ok((12, "34")));
    }

    #[test]
    fn errors() {
        for text in ["", "(1", "1/0", "$zz", "0x", "09", "1 +", "#", "''", &"(".repeat(100_000), &"-".repeat(100_000)] {
            assert!(eval(text).is_err(), "{}", &text[..text.len().min(10)]);
        }
    }
}
