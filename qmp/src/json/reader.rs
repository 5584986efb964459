//! Tokens to values.

use std::collections::VecDeque;

use serde_json::{Map, Number, Value};

use super::lexer::{Lexer, Step, Token};

/// How deeply objects and arrays may nest, both counted together.
pub const MAXIMUM_DEPTH: i64 = 1024;
/// How long the tokens of one message may be together, bytes.
pub const MAXIMUM_TEXT: usize = 64 << 20;
/// How many tokens one message may have.
pub const MAXIMUM_TOKENS: usize = 2 << 20;

/// Input that is no JSON message. The texts are those of QEMU.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// A byte that begins no token, with what it follows.
    #[error("JSON parse error, stray '{0}'")]
    Stray(String),
    /// A token stands where no value can begin.
    #[error("JSON parse error, expecting value")]
    ExpectingValue,
    /// A word other than `true`, `false` and `null`.
    #[error("JSON parse error, invalid keyword '{0}'")]
    Keyword(String),
    /// A member of an object does not begin with a string.
    #[error("JSON parse error, key is not a string in object")]
    Key,
    /// No colon between a member's name and its value.
    #[error("JSON parse error, missing : in object pair")]
    Colon,
    /// No comma between the members of an object.
    #[error("JSON parse error, expected separator in dict")]
    ObjectSeparator,
    /// No comma between the elements of an array.
    #[error("JSON parse error, expected separator in list")]
    ArraySeparator,
    /// Two members of an object have the same name.
    #[error("JSON parse error, duplicate key")]
    DuplicateKey,
    /// A backslash in a string is followed by something that has no meaning.
    #[error("JSON parse error, invalid escape sequence in string")]
    Escape,
    /// `\u` is not followed by four hexadecimal digits.
    #[error("JSON parse error, invalid hex escape sequence in string")]
    HexadecimalEscape,
    /// An escape names half of a surrogate pair.
    #[error("JSON parse error, {0} is not a valid Unicode character")]
    Character(String),
    /// A string is not UTF-8.
    #[error("JSON parse error, invalid UTF-8 sequence in string")]
    Utf8,
    /// A number beyond the range of a double.
    #[error("JSON parse error, number {0} is out of range")]
    NumberRange(String),
    /// More than [`MAXIMUM_DEPTH`].
    #[error("JSON nesting depth limit exceeded")]
    Depth,
    /// More than [`MAXIMUM_TEXT`].
    #[error("JSON token size limit exceeded")]
    Text,
    /// More than [`MAXIMUM_TOKENS`].
    #[error("JSON token count limit exceeded")]
    Tokens,
}

/// A container whose end has not come yet.
#[derive(Debug)]
enum Open {
    Array(Vec<Value>),
    Object { members: Map<String, Value>, key: Option<String> },
}

/// What may come next inside the innermost open container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// A value.
    Value,
    /// A value, or the end of the array that just began.
    ValueOrEnd,
    /// A member's name.
    Key,
    /// A member's name, or the end of the object that just began.
    KeyOrEnd,
    /// The colon after a member's name.
    Colon,
    /// A comma or the end of the container.
    SeparatorOrEnd,
}

/// Reads JSON values from a stream of bytes.
///
/// Accepted beyond RFC 8259, as QEMU does: strings in single quotes, the escape `\'`, the overlong UTF-8 form of U+0000
/// and a byte order mark. Integers that fit neither 64-bit form become doubles.
///
/// A message ends where its braces and brackets are balanced, whatever else is in it: a syntax error is reported there,
/// and reading goes on behind. Bytes that belong to no token are reported at once and drop the message that they are
/// in, which is how a client gets back in step; reading then goes on at the next brace, bracket, colon, comma or control
/// character.
#[derive(Debug)]
pub struct Reader {
    input: VecDeque<u8>,
    lexer: Lexer,
    braces: i64,
    brackets: i64,
    text: usize,
    tokens: usize,
    open: Vec<Open>,
    expect: Expect,
    error: Option<InputError>,
    done: Option<Value>,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader::new()
    }
}

impl Reader {
    /// A reader at the beginning of a stream.
    pub fn new() -> Reader {
        Reader {
            input: VecDeque::new(),
            lexer: Lexer::new(),
            braces: 0,
            brackets: 0,
            text: 0,
            tokens: 0,
            open: Vec::new(),
            expect: Expect::Value,
            error: None,
            done: None,
        }
    }

    /// Adds bytes from the stream. They are kept as they are until [`Reader::next_message`] comes to them.
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
    }

    /// The next message or error; `None` once all bytes so far are used up.
    pub fn next_message(&mut self) -> Option<Result<Value, InputError>> {
        while let Some(&byte) = self.input.front() {
            let (token, taken) = match self.lexer.step(byte) {
                Step::More => (None, true),
                Step::Complete(token) => (Some(token), true),
                Step::CompleteBefore(token) => (Some(token), false),
            };
            if taken {
                self.input.pop_front();
            }
            let outcome = match token {
                Some(token) => self.token(token),
                None if self.text + self.lexer.text().len() > MAXIMUM_TEXT => {
                    self.lexer.recover();
                    Some(Err(InputError::Text))
                }
                None => None,
            };
            if let Some(outcome) = outcome {
                self.braces = 0;
                self.brackets = 0;
                self.text = 0;
                self.tokens = 0;
                self.open.clear();
                self.expect = Expect::Value;
                self.error = None;
                self.done = None;
                return Some(outcome);
            }
        }
        None
    }

    /// Takes one token in; returns the message's end.
    fn token(&mut self, token: Token) -> Option<Result<Value, InputError>> {
        match token {
            Token::OpenBrace => self.braces += 1,
            Token::CloseBrace => self.braces -= 1,
            Token::OpenBracket => self.brackets += 1,
            Token::CloseBracket => self.brackets -= 1,
            Token::Stray => {
                let text = self.lexer.text();
                // QEMU prints it as a C string.
                let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
                return Some(Err(InputError::Stray(String::from_utf8_lossy(text).into_owned())));
            }
            _ => {}
        }
        self.text += self.lexer.text().len();
        self.tokens += 1;
        if self.text > MAXIMUM_TEXT {
            return Some(Err(InputError::Text));
        }
        if self.tokens > MAXIMUM_TOKENS {
            return Some(Err(InputError::Tokens));
        }
        if self.braces + self.brackets > MAXIMUM_DEPTH {
            return Some(Err(InputError::Depth));
        }
        if self.error.is_none()
            && let Err(error) = self.build(token)
        {
            self.error = Some(error);
            self.open.clear();
        }
        if self.braces >= 0 && self.brackets >= 0 && (self.braces > 0 || self.brackets > 0) {
            return None;
        }
        Some(match (self.error.take(), self.done.take()) {
            (Some(error), _) => Err(error),
            (None, Some(value)) => Ok(value),
            // Balanced and without error, yet no value: cannot be; say what any token out of place gets.
            (None, None) => Err(InputError::ExpectingValue),
        })
    }

    /// Adds one token to the value that is being built.
    fn build(&mut self, token: Token) -> Result<(), InputError> {
        match (self.expect, token) {
            (Expect::SeparatorOrEnd, Token::Comma) => {
                self.expect = match self.open.last() {
                    Some(Open::Object { .. }) => Expect::Key,
                    _ => Expect::Value,
                };
                Ok(())
            }
            (Expect::SeparatorOrEnd | Expect::ValueOrEnd, Token::CloseBracket)
                if matches!(self.open.last(), Some(Open::Array(_))) =>
            {
                self.close()
            }
            (Expect::SeparatorOrEnd | Expect::KeyOrEnd, Token::CloseBrace)
                if matches!(self.open.last(), Some(Open::Object { .. })) =>
            {
                self.close()
            }
            (Expect::SeparatorOrEnd, _) => Err(match self.open.last() {
                Some(Open::Object { .. }) => InputError::ObjectSeparator,
                _ => InputError::ArraySeparator,
            }),
            (Expect::Colon, Token::Colon) => {
                self.expect = Expect::Value;
                Ok(())
            }
            (Expect::Colon, _) => Err(InputError::Colon),
            (Expect::Key | Expect::KeyOrEnd, Token::OpenBrace | Token::OpenBracket) => Err(InputError::Key),
            (Expect::Key | Expect::KeyOrEnd, _) => match self.scalar(token)? {
                Value::String(name) => {
                    if let Some(Open::Object { key, .. }) = self.open.last_mut() {
                        *key = Some(name);
                    }
                    self.expect = Expect::Colon;
                    Ok(())
                }
                _ => Err(InputError::Key),
            },
            (Expect::Value | Expect::ValueOrEnd, Token::OpenBrace) => {
                self.open.push(Open::Object { members: Map::new(), key: None });
                self.expect = Expect::KeyOrEnd;
                Ok(())
            }
            (Expect::Value | Expect::ValueOrEnd, Token::OpenBracket) => {
                self.open.push(Open::Array(Vec::new()));
                self.expect = Expect::ValueOrEnd;
                Ok(())
            }
            (Expect::Value | Expect::ValueOrEnd, _) => {
                let value = self.scalar(token)?;
                self.place(value)
            }
        }
    }

    /// Ends the innermost container.
    fn close(&mut self) -> Result<(), InputError> {
        match self.open.pop() {
            Some(Open::Array(elements)) => self.place(Value::Array(elements)),
            Some(Open::Object { members, .. }) => self.place(Value::Object(members)),
            None => Err(InputError::ExpectingValue),
        }
    }

    /// Puts a complete value where it belongs.
    fn place(&mut self, value: Value) -> Result<(), InputError> {
        match self.open.last_mut() {
            None => self.done = Some(value),
            Some(Open::Array(elements)) => elements.push(value),
            Some(Open::Object { members, key }) => {
                let name = key.take().unwrap_or_default();
                if members.contains_key(&name) {
                    return Err(InputError::DuplicateKey);
                }
                members.insert(name, value);
            }
        }
        self.expect = Expect::SeparatorOrEnd;
        Ok(())
    }

    /// The value of a token that is one by itself.
    fn scalar(&self, token: Token) -> Result<Value, InputError> {
        let text = self.lexer.text();
        match token {
            Token::String => string(text).map(Value::String),
            Token::Integer | Token::Float => number(&String::from_utf8_lossy(text)),
            Token::Keyword => match text {
                b"true" => Ok(Value::Bool(true)),
                b"false" => Ok(Value::Bool(false)),
                b"null" => Ok(Value::Null),
                _ => Err(InputError::Keyword(String::from_utf8_lossy(text).into_owned())),
            },
            _ => Err(InputError::ExpectingValue),
        }
    }
}

fn number(text: &str) -> Result<Value, InputError> {
    if let Ok(value) = text.parse::<i64>() {
        return Ok(value.into());
    }
    if let Ok(value) = text.parse::<u64>() {
        return Ok(value.into());
    }
    let value = text.parse::<f64>().ok().and_then(Number::from_f64);
    value.map(Value::Number).ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        InputError::NumberRange(shown)
    })
}

/// Resolves the escapes of a string that still has its quotes.
fn string(quoted: &[u8]) -> Result<String, InputError> {
    let mut rest = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
    let mut result = String::with_capacity(rest.len());
    while let Some(&first) = rest.first() {
        if first != b'\\' {
            let plain = rest.iter().position(|&byte| byte == b'\\').unwrap_or(rest.len());
            let (run, behind) = rest.split_at(plain);
            plain_text(run, &mut result)?;
            rest = behind;
            continue;
        }
        let Some(&kind) = rest.get(1) else { return Err(InputError::Escape) };
        let mut used = 2;
        result.push(match kind {
            b'"' | b'\'' | b'\\' | b'/' => kind as char,
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = hexadecimal(rest.get(2..6))?;
                used = 6;
                let mut code = u32::from(first);
                if (0xd800..0xdc00).contains(&code)
                    && rest.get(6..8) == Some(br"\u")
                    && let second = u32::from(hexadecimal(rest.get(8..12))?)
                    && (0xdc00..0xe000).contains(&second)
                {
                    code = 0x10000 + ((code - 0xd800) << 10) + (second - 0xdc00);
                    used = 12;
                }
                char::from_u32(code).ok_or_else(|| {
                    InputError::Character(String::from_utf8_lossy(rest.get(..used).unwrap_or_default()).into_owned())
                })?
            }
            _ => return Err(InputError::Escape),
        });
        rest = rest.get(used..).unwrap_or_default();
    }
    Ok(result)
}

/// Appends UTF-8 in which U+0000 may have its overlong form.
fn plain_text(mut bytes: &[u8], to: &mut String) -> Result<(), InputError> {
    loop {
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                to.push_str(text);
                return Ok(());
            }
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                let Some(behind) = rest.strip_prefix(&[0xc0, 0x80]) else { return Err(InputError::Utf8) };
                to.push_str(&String::from_utf8_lossy(valid));
                to.push('\0');
                bytes = behind;
            }
        }
    }
}

fn hexadecimal(digits: Option<&[u8]>) -> Result<u16, InputError> {
    let digits =
        digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit)).ok_or(InputError::HexadecimalEscape)?;
    let text = std::str::from_utf8(digits).map_err(|_| InputError::HexadecimalEscape)?;
    u16::from_str_radix(text, 16).map_err(|_| InputError::HexadecimalEscape)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(input: &[u8]) -> Vec<Result<Value, String>> {
        let mut reader = Reader::new();
        reader.push(input);
        let whole: Vec<_> = std::iter::from_fn(|| reader.next_message()).collect();
        let mut reader = Reader::new();
        let mut pieces = Vec::new();
        for &byte in input {
            reader.push(&[byte]);
            while let Some(message) = reader.next_message() {
                pieces.push(message);
            }
        }
        assert_eq!(whole, pieces, "framing depends on packets");
        whole.into_iter().map(|message| message.map_err(|error| error.to_string())).collect()
    }

    #[test]
    fn values_are_framed_by_themselves() {
        assert_eq!(
            read(b"{'a':[1,-2.5,{}],\"b\":null} [] 'x'true 12 "),
            [Ok(json!({"a": [1, -2.5, {}], "b": null})), Ok(json!([])), Ok(json!("x")), Ok(json!(true)), Ok(json!(12))]
        );
    }

    #[test]
    fn an_error_is_reported_where_the_message_is_balanced() {
        for (input, error) in [
            ("{'a' 1}", "missing : in object pair"),
            ("{1:2}", "key is not a string in object"),
            ("{'a':1 'b'}", "expected separator in dict"),
            ("[1 2]", "expected separator in list"),
            ("[1,]", "expecting value"),
            ("{'a':1,'a':[{}]}", "duplicate key"),
            ("['\\u12g4']", "invalid hex escape sequence in string"),
            ("['\\u12']", "invalid hex escape sequence in string"),
            ("['\\ud800\\u0041']", "\\ud800 is not a valid Unicode character"),
            ("[1e999]", "number 1e999 is out of range"),
            ("[nul,{]}", "invalid keyword 'nul'"),
        ] {
            let input = format!("{input}{{}}");
            assert_eq!(
                read(input.as_bytes()),
                [Err(format!("JSON parse error, {error}")), Ok(json!({}))],
                "for {input}"
            );
        }
        assert_eq!(
            read(b"['\xc3(']{}"),
            [Err("JSON parse error, invalid UTF-8 sequence in string".into()), Ok(json!({}))]
        );
    }

    #[test]
    fn a_stray_byte_drops_the_message() {
        assert_eq!(read(b"{'a':[1,\xff{}"), [Err("JSON parse error, stray '\u{fffd}'".into()), Ok(json!({}))]);
        assert_eq!(read(b"{'a':'b\x01{}"), [Err("JSON parse error, stray ''b\u{1}'".into()), Ok(json!({}))]);
        assert_eq!(read(b"-x -5\n"), [Err("JSON parse error, stray '-x'".into())]);
    }

    #[test]
    fn depth_is_limited() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(nested(1024).as_bytes())[0].is_ok());
        let beyond = read(nested(1030).as_bytes());
        assert_eq!(beyond[0], Err("JSON nesting depth limit exceeded".into()));
        assert_eq!(beyond[1], Ok(serde_json::from_str("[[[[[]]]]]").unwrap()));
        assert_eq!(beyond.len(), 2 + 1030 - 5);
    }

    #[test]
    fn size_is_limited() {
        let mut reader = Reader::new();
        reader.push(b"['");
        let chunk = vec![b'x'; 1 << 20];
        let mut errors = Vec::new();
        for _ in 0..80 {
            reader.push(&chunk);
            errors.extend(std::iter::from_fn(|| reader.next_message()));
        }
        assert_eq!(errors, [Err(InputError::Text)]);
        reader.push(b"'\n[]");
        assert_eq!(reader.next_message(), Some(Ok(json!([]))));
        reader.push(b"[");
        reader.push(&b"0,".repeat(MAXIMUM_TOKENS / 2));
        assert_eq!(reader.next_message(), Some(Err(InputError::Tokens)));
    }
}
