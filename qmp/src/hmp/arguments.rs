//! The words of a line.

use super::Failure;
use super::expression::{self, Registers};

/// What is left of a line.
pub(super) struct Arguments<'a> {
    rest: &'a str,
}

impl<'a> Arguments<'a> {
    pub(super) fn new(line: &'a str) -> Arguments<'a> {
        Arguments { rest: line.trim() }
    }

    /// What is left.
    pub(super) fn rest(&self) -> &'a str {
        self.rest
    }

    /// Takes the name of a command: up to the next space or slash.
    pub(super) fn name(&mut self) -> Option<&'a str> {
        let end = self.rest.find(|character: char| character.is_whitespace() || character == '/');
        self.take(end.unwrap_or(self.rest.len()))
    }

    /// Takes the next word as it is.
    pub(super) fn word(&mut self) -> Option<&'a str> {
        self.take(self.rest.find(char::is_whitespace).unwrap_or(self.rest.len()))
    }

    /// Takes the word behind a slash that follows at once, if one does.
    pub(super) fn format(&mut self) -> Option<&'a str> {
        let rest = self.rest.strip_prefix('/')?;
        self.rest = rest;
        Some(self.word().unwrap_or_default())
    }

    /// Takes the flag `-letter`, if it is next.
    pub(super) fn flag(&mut self, letter: char) -> bool {
        let mut copy = Arguments { rest: self.rest };
        let found =
            copy.word().and_then(|word| word.strip_prefix('-')).is_some_and(|flags| flags == letter.to_string());
        if found {
            self.rest = copy.rest;
        }
        found
    }

    /// Takes a word, or text in quotation marks in which a backslash keeps the next character as it is.
    pub(super) fn string(&mut self, what: &str) -> Result<String, Failure> {
        let missing = || Failure::Usage(format!("{what} expected"));
        let Some(quoted) = self.rest.strip_prefix('"') else {
            return self.word().map(str::to_owned).ok_or_else(missing);
        };
        let mut text = String::new();
        let mut characters = quoted.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.rest = quoted.get(at + 1..).unwrap_or_default().trim_start();
                    return Ok(text);
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 'r')) => text.push('\r'),
                    Some((_, other @ ('\\' | '\'' | '"'))) => text.push(other),
                    _ => return Err(Failure::Usage("unsupported escape code in a string".into())),
                },
                _ => text.push(character),
            }
        }
        Err(Failure::Usage("unterminated string".into()))
    }

    /// Takes an integer expression.
    pub(super) fn expression(&mut self, what: &str, registers: &Registers<'_>) -> Result<i64, Failure> {
        if self.rest.is_empty() {
            return Err(Failure::Usage(format!("{what} expected")));
        }
        let (value, rest) = expression::evaluate(self.rest, registers).map_err(Failure::Usage)?;
        self.rest = rest;
        Ok(value)
    }

    fn take(&mut self, end: usize) -> Option<&'a str> {
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        (!word.is_empty()).then_some(word)
    }
}
