//! Options of formats (`-o`): which there are, and the values that a user gives.

use crate::size::{SizeError, parse_size};

/// An option that a format has when an image is made.
#[derive(Clone, Copy, Debug)]
pub struct FormatOption {
    /// Its name.
    pub name: &'static str,
    /// What its value is.
    pub kind: OptionKind,
    /// What it is for, as part of a sentence.
    pub help: &'static str,
    /// What it is if the user does not say, as the user would say it; `None` where that need not be shown.
    pub default: Option<&'static str>,
}

impl FormatOption {
    /// An option with text for a value.
    pub const fn text(name: &'static str, help: &'static str) -> FormatOption {
        FormatOption { name, kind: OptionKind::Text, help, default: None }
    }

    /// An option that is on or off.
    pub const fn switch(name: &'static str, help: &'static str) -> FormatOption {
        FormatOption { name, kind: OptionKind::Switch, help, default: None }
    }

    /// An option with a number.
    pub const fn number(name: &'static str, help: &'static str) -> FormatOption {
        FormatOption { name, kind: OptionKind::Number, help, default: None }
    }

    /// An option with a number of bytes.
    pub const fn size(name: &'static str, help: &'static str) -> FormatOption {
        FormatOption { name, kind: OptionKind::Size, help, default: None }
    }

    /// The option with a default that is shown.
    pub const fn or(self, default: &'static str) -> FormatOption {
        FormatOption { default: Some(default), ..self }
    }
}

/// What the value of an option is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionKind {
    /// Any text.
    Text,
    /// `on` or `off`.
    Switch,
    /// A number.
    Number,
    /// A number of bytes, with a suffix if need be.
    Size,
}

impl OptionKind {
    /// What stands for a value in help.
    pub fn placeholder(self) -> &'static str {
        match self {
            OptionKind::Text => "<str>",
            OptionKind::Switch => "<bool (on/off)>",
            OptionKind::Number => "<num>",
            OptionKind::Size => "<size>",
        }
    }
}

/// Why options of a format cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// The format has none of the name.
    #[error("Invalid parameter '{0}'")]
    Unknown(String),
    /// It is neither on nor off.
    #[error("Parameter '{0}' expects 'on' or 'off'")]
    Switch(String),
    /// It is no number.
    #[error("Parameter '{0}' expects a number")]
    Number(String),
    /// It is no size.
    #[error(
        "Parameter '{0}' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."
    )]
    Size(String),
    /// No such size can be.
    #[error("Value '{value}' is out of range for parameter '{name}'")]
    OutOfRange {
        /// The option's name.
        name: String,
        /// What was given.
        value: String,
    },
    /// It has none of the values that it may have.
    #[error("{0}")]
    Value(String),
}

/// A value as it was given, and as the number that it is.
#[derive(Clone, Debug)]
struct Given {
    text: String,
    number: u64,
}

/// The options of one format, with values.
#[derive(Clone, Debug)]
pub struct OptionValues {
    /// In the order in which they are shown.
    options: Vec<FormatOption>,
    values: Vec<Option<Given>>,
}

impl OptionValues {
    /// No values but the defaults.
    pub fn new(options: Vec<FormatOption>) -> OptionValues {
        let values = options.iter().map(|option| option.default.and_then(|text| read(option, text).ok())).collect();
        OptionValues { options, values }
    }

    /// Takes the values of a list `name=value,name=value`, where two commas are one in a value. A name alone is `on`, and with `no`
    /// before it `off`. What comes later counts.
    pub fn set_list(&mut self, list: &str) -> Result<(), OptionError> {
        for (name, value) in split(list) {
            match value {
                Some(value) => self.set(&name, &value)?,
                None => match name.strip_prefix("no") {
                    Some(name) => self.set(name, "off")?,
                    None => self.set(&name, "on")?,
                },
            }
        }
        Ok(())
    }

    /// Gives an option a value.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), OptionError> {
        let at = self.position(name).ok_or_else(|| OptionError::Unknown(name.to_owned()))?;
        self.values[at] = Some(read(&self.options[at], value)?);
        Ok(())
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.options.iter().position(|option| option.name == name)
    }

    fn given(&self, name: &str) -> Option<&Given> {
        self.values[self.position(name)?].as_ref()
    }

    /// There is an option with the name.
    pub fn has(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    /// The value of an option with text, if it has one.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.given(name).map(|given| given.text.as_str())
    }

    /// The value of an option with a number or a size, if it has one.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.given(name).map(|given| given.number)
    }

    /// An option is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.number(name) == Some(1)
    }

    /// The options.
    pub fn options(&self) -> &[FormatOption] {
        &self.options
    }

    /// The values that there are, as they are shown.
    pub fn shown(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.options.iter().zip(&self.values).filter_map(|(option, given)| {
            let given = given.as_ref()?;
            Some(match option.kind {
                OptionKind::Size | OptionKind::Number => (option.name, given.number.to_string()),
                OptionKind::Text | OptionKind::Switch => (option.name, given.text.replace(',', ",,")),
            })
        })
    }
}

fn read(option: &FormatOption, text: &str) -> Result<Given, OptionError> {
    let name = || option.name.to_owned();
    let number = match option.kind {
        OptionKind::Text => 0,
        OptionKind::Switch => match text {
            "on" | "yes" | "true" | "y" => 1,
            "off" | "no" | "false" | "n" => 0,
            _ => return Err(OptionError::Switch(name())),
        },
        OptionKind::Number => text.parse().map_err(|_| OptionError::Number(name()))?,
        OptionKind::Size => parse_size(text).map_err(|error| match error {
            SizeError::Invalid => OptionError::Size(name()),
            SizeError::OutOfRange => OptionError::OutOfRange { name: name(), value: text.to_owned() },
        })?,
    };
    Ok(Given { text: text.to_owned(), number })
}

/// Names, and values where there are some, of a list.
pub fn split(list: &str) -> Vec<(String, Option<String>)> {
    let (mut parts, mut part) = (Vec::new(), String::new());
    let mut rest = list.chars().peekable();
    while let Some(c) = rest.next() {
        if c == ',' && rest.next_if_eq(&',').is_none() {
            parts.push(std::mem::take(&mut part));
        } else {
            part.push(c);
        }
    }
    parts.push(part);
    let halves = |part: String| match part.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (part, None),
    };
    parts.into_iter().map(halves).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &[FormatOption] = &[
        FormatOption::size("size", "length"),
        FormatOption::switch("nocow", "copies"),
        FormatOption::text("preallocation", "room"),
        FormatOption::number("bits", "bits").or("16"),
    ];

    fn values(list: &str) -> Result<String, String> {
        let mut values = OptionValues::new(OPTIONS.to_vec());
        values.set_list(list).map_err(|error| error.to_string())?;
        Ok(values.shown().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn lists_of_options() {
        assert_eq!(values("size=1k,nocow=yes").unwrap(), "size=1024 nocow=yes bits=16");
        assert_eq!(values("nonocow,bits=8").unwrap(), "nocow=off bits=8");
        assert_eq!(values("preallocation=of,,f,size=1,size=2").unwrap(), "size=2 preallocation=of,,f bits=16");
        assert_eq!(values("nocow").unwrap_err(), "Invalid parameter 'cow'");
        assert_eq!(values("nocow=bla").unwrap_err(), "Parameter 'nocow' expects 'on' or 'off'");
        assert_eq!(values("bits=x").unwrap_err(), "Parameter 'bits' expects a number");
        assert_eq!(values("size=-1").unwrap_err(), "Value '-1' is out of range for parameter 'size'");
        assert!(values("size=x").unwrap_err().starts_with("Parameter 'size' expects a non-negative number below 2^64"));
        assert_eq!(values("=x").unwrap_err(), "Invalid parameter ''");
    }
}
