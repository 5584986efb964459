//! Bytes to tokens.

/// A lexical unit of a JSON text. The text of one that has any is in [`Lexer::text`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// `{`
    OpenBrace,
    /// `}`
    CloseBrace,
    /// `[`
    OpenBracket,
    /// `]`
    CloseBracket,
    /// `:`
    Colon,
    /// `,`
    Comma,
    /// A string with its quotes, escapes not yet resolved.
    String,
    /// A number without fraction and exponent.
    Integer,
    /// A number with fraction or exponent.
    Float,
    /// Lower-case letters.
    Keyword,
    /// Bytes that begin no token; the last of them is the one that does not fit.
    Stray,
}

/// What the lexer makes of one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The byte was taken and no token is complete.
    More,
    /// The byte was taken and ends this token.
    Complete(Token),
    /// This token ended before the byte, which must be given again.
    CompleteBefore(Token),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between tokens.
    Start,
    /// After bytes 1 or 2 of a byte order mark.
    ByteOrderMark(u8),
    /// In a string that this quote ends.
    String(u8),
    /// After a backslash in a string that this quote ends.
    Escape(u8),
    /// After a minus sign.
    Minus,
    /// After a zero that begins a number.
    Zero,
    /// In the digits before point and exponent.
    Digits,
    /// After the decimal point.
    Point,
    /// In the digits after the decimal point.
    Fraction,
    /// After `e`.
    Exponent,
    /// After the sign of the exponent.
    ExponentSign,
    /// In the digits of the exponent.
    ExponentDigits,
    /// In lower-case letters.
    Keyword,
    /// After a stray byte, until something that may begin afresh.
    Recovery,
}

/// Splits bytes into tokens, one byte at a time.
#[derive(Debug)]
pub(super) struct Lexer {
    state: State,
    text: Vec<u8>,
}

impl Lexer {
    pub(super) fn new() -> Lexer {
        Lexer { state: State::Start, text: Vec::new() }
    }

    /// The bytes of the token that was completed last, until the next byte is given; or of the one in progress.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Drops the token in progress and skips to the next byte that may begin afresh.
    pub(super) fn recover(&mut self) {
        self.state = State::Recovery;
        self.text = Vec::new();
    }

    pub(super) fn step(&mut self, byte: u8) -> Step {
        match self.state {
            State::Start => self.start(byte),
            State::ByteOrderMark(1) if byte == 0xbb => self.grow(byte, State::ByteOrderMark(2)),
            State::ByteOrderMark(2) if byte == 0xbf => {
                self.text.clear();
                self.state = State::Start;
                Step::More
            }
            State::ByteOrderMark(_) => self.stray(byte),
            State::String(quote) => match byte {
                // Bytes that UTF-8 never uses and control characters end a string at once, so that a client can always
                // get back in step.
                0x00..=0x1f | 0xfe | 0xff => self.stray(byte),
                b'\\' => self.grow(byte, State::Escape(quote)),
                _ if byte == quote => self.complete(byte, Token::String),
                _ => self.grow(byte, State::String(quote)),
            },
            State::Escape(quote) => match byte {
                0x00..=0x1f | 0xfe | 0xff => self.stray(byte),
                _ => self.grow(byte, State::String(quote)),
            },
            State::Minus => match byte {
                b'0' => self.grow(byte, State::Zero),
                b'1'..=b'9' => self.grow(byte, State::Digits),
                _ => self.stray(byte),
            },
            State::Zero | State::Digits => match byte {
                b'0'..=b'9' if self.state == State::Zero => self.stray(byte),
                b'0'..=b'9' => self.grow(byte, State::Digits),
                b'.' => self.grow(byte, State::Point),
                b'e' | b'E' => self.grow(byte, State::Exponent),
                _ => self.complete_before(Token::Integer),
            },
            State::Point => match byte {
                b'0'..=b'9' => self.grow(byte, State::Fraction),
                _ => self.stray(byte),
            },
            State::Fraction => match byte {
                b'0'..=b'9' => self.grow(byte, State::Fraction),
                b'e' | b'E' => self.grow(byte, State::Exponent),
                _ => self.complete_before(Token::Float),
            },
            State::Exponent => match byte {
                b'+' | b'-' => self.grow(byte, State::ExponentSign),
                b'0'..=b'9' => self.grow(byte, State::ExponentDigits),
                _ => self.stray(byte),
            },
            State::ExponentSign => match byte {
                b'0'..=b'9' => self.grow(byte, State::ExponentDigits),
                _ => self.stray(byte),
            },
            State::ExponentDigits => match byte {
                b'0'..=b'9' => self.grow(byte, State::ExponentDigits),
                _ => self.complete_before(Token::Float),
            },
            State::Keyword => match byte {
                b'a'..=b'z' => self.grow(byte, State::Keyword),
                _ => self.complete_before(Token::Keyword),
            },
            State::Recovery => match byte {
                0x00..=0x1f | 0xfe | 0xff | b'{' | b'}' | b'[' | b']' | b':' | b',' => self.start(byte),
                _ => Step::More,
            },
        }
    }

    fn start(&mut self, byte: u8) -> Step {
        self.text.clear();
        self.state = State::Start;
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => Step::More,
            b'{' => self.complete(byte, Token::OpenBrace),
            b'}' => self.complete(byte, Token::CloseBrace),
            b'[' => self.complete(byte, Token::OpenBracket),
            b']' => self.complete(byte, Token::CloseBracket),
            b':' => self.complete(byte, Token::Colon),
            b',' => self.complete(byte, Token::Comma),
            b'"' | b'\'' => self.grow(byte, State::String(byte)),
            b'-' => self.grow(byte, State::Minus),
            b'0' => self.grow(byte, State::Zero),
            b'1'..=b'9' => self.grow(byte, State::Digits),
            b'a'..=b'z' => self.grow(byte, State::Keyword),
            0xef => self.grow(byte, State::ByteOrderMark(1)),
            _ => self.stray(byte),
        }
    }

    fn grow(&mut self, byte: u8, state: State) -> Step {
        self.text.push(byte);
        self.state = state;
        Step::More
    }

    fn complete(&mut self, byte: u8, token: Token) -> Step {
        self.text.push(byte);
        self.state = State::Start;
        Step::Complete(token)
    }

    fn complete_before(&mut self, token: Token) -> Step {
        self.state = State::Start;
        Step::CompleteBefore(token)
    }

    fn stray(&mut self, byte: u8) -> Step {
        self.text.push(byte);
        self.state = State::Recovery;
        Step::Complete(Token::Stray)
    }
}
