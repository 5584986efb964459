//! Values to bytes.

use serde_json::{Number, Value};

/// How a message looks on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One line, `", "` and `": "` as separators.
    #[default]
    Line,
    /// Indented by four spaces.
    Pretty,
}

/// One message as it goes out: pure ASCII, ended by CR LF.
pub fn write(value: &Value, format: Format) -> Vec<u8> {
    let mut writer = Writer { text: String::new(), format, depth: 0 };
    writer.value(value);
    writer.text.push_str("\r\n");
    writer.text.into_bytes()
}

struct Writer {
    text: String,
    format: Format,
    depth: usize,
}

impl Writer {
    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.text.push_str("null"),
            Value::Bool(value) => self.text.push_str(if *value { "true" } else { "false" }),
            Value::Number(number) => self.number(number),
            Value::String(text) => self.string(text),
            Value::Array(elements) => self.container('[', ']', elements, |writer, element| writer.value(element)),
            Value::Object(members) => self.container('{', '}', members, |writer, (name, value)| {
                writer.string(name);
                writer.text.push_str(": ");
                writer.value(value);
            }),
        }
    }

    fn container<I: IntoIterator>(
        &mut self,
        open: char,
        close: char,
        items: I,
        mut item: impl FnMut(&mut Writer, I::Item),
    ) {
        self.text.push(open);
        self.depth += 1;
        let mut empty = true;
        for each in items {
            if !empty {
                self.text.push_str(if self.format == Format::Line { ", " } else { "," });
            }
            empty = false;
            self.line_break();
            item(self, each);
        }
        self.depth -= 1;
        if !empty {
            self.line_break();
        }
        self.text.push(close);
    }

    fn line_break(&mut self) {
        if self.format == Format::Pretty {
            self.text.push_str("\r\n");
            for _ in 0..self.depth {
                self.text.push_str("    ");
            }
        }
    }

    fn number(&mut self, number: &Number) {
        match (number.is_f64(), number.as_f64()) {
            (true, Some(value)) => self.text.push_str(&general(value)),
            _ => self.text.push_str(&number.to_string()),
        }
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        for character in text.chars() {
            match character {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                ' '..='~' => self.text.push(character),
                _ => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        self.text.push_str(&format!("\\u{unit:04X}"));
                    }
                }
            }
        }
        self.text.push('"');
    }
}

/// A double with the 17 significant digits that tell it from every other, as C's `%.17g` prints it.
fn general(value: f64) -> String {
    let scientific = format!("{value:.16e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..17).contains(&exponent) {
        let decimals = usize::try_from(16 - exponent).unwrap_or(0);
        trim(&format!("{value:.decimals$}"))
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", trim(mantissa), exponent.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_is_ascii_with_spaces_after_separators() {
        let value = json!({"a": [1, "\u{e9}\u{1f600}\u{7f}\n\"\\/"], "b": {}, "c": []});
        assert_eq!(
            write(&value, Format::Line),
            b"{\"a\": [1, \"\\u00E9\\uD83D\\uDE00\\u007F\\n\\\"\\\\/\"], \"b\": {}, \"c\": []}\r\n"
        );
    }

    #[test]
    fn pretty_indents_by_four() {
        assert_eq!(
            String::from_utf8(write(&json!({"a": [1, 2], "b": {}}), Format::Pretty)).unwrap(),
            "{\r\n    \"a\": [\r\n        1,\r\n        2\r\n    ],\r\n    \"b\": {}\r\n}\r\n"
        );
    }

    #[test]
    fn doubles_print_as_in_c() {
        for (value, text) in [
            (0.1, "0.10000000000000001"),
            (1000.0, "1000"),
            (1.5, "1.5"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (0.0001, "0.0001"),
            (0.00001, "1.0000000000000001e-05"),
            (-9.223372036854776e18, "-9.2233720368547758e+18"),
            (0.0, "0"),
        ] {
            assert_eq!(general(value), text);
        }
    }
}
