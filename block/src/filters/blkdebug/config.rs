//! Files with rules: sections of names and values.

use std::path::Path;

use super::{BlkdebugEvent, InjectError, IoType, SetState};
use crate::{Error, host_words};

/// Most bytes of such a file.
const MOST: u64 = 1 << 20;

/// Reads the rules in a file.
pub(super) fn read(path: &Path) -> Result<(Vec<InjectError>, Vec<SetState>), Error> {
    let failed =
        |why: &dyn std::fmt::Display| Error::Unsupported(format!("Could not read blkdebug config file: {why}"));
    let length = std::fs::metadata(path).map_err(|error| failed(&host_words(&error)))?.len();
    if length > MOST {
        return Err(failed(&format!("it has {length} bytes, and no more than {MOST} are read")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed(&host_words(&error)))?;
    parse(&text)
}

/// Names and values of one section, in the file's order.
type Values<'a> = Vec<(&'a str, &'a str)>;

/// The rules of a text.
pub(super) fn parse(text: &str) -> Result<(Vec<InjectError>, Vec<SetState>), Error> {
    let mut sections: Vec<(&str, Values)> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some((heading, _)) = line.strip_prefix('[').and_then(|line| line.split_once(']')) {
            // A section may have a name, which nobody asks for.
            let kind = heading.split_whitespace().next().unwrap_or_default();
            if !["inject-error", "set-state"].contains(&kind) {
                return Err(Error::Unsupported(format!("There is no option group '{kind}'")));
            }
            sections.push((kind, Vec::new()));
            continue;
        }
        let Some((_, values)) = sections.last_mut() else {
            return Err(Error::Unsupported("no group defined".into()));
        };
        let value = line.split_once('=').and_then(|(name, value)| {
            let (value, _) = value.trim().strip_prefix('"')?.split_once('"')?;
            Some((name.trim(), value))
        });
        let invalid = || Error::Unsupported(format!("Invalid parameter '{line}'"));
        values.push(value.ok_or_else(invalid)?);
    }
    let (mut errors, mut states) = (Vec::new(), Vec::new());
    for (kind, values) in sections {
        if kind == "inject-error" {
            errors.push(inject_error(&values)?);
        } else {
            states.push(set_state(&values)?);
        }
    }
    Ok((errors, states))
}

fn inject_error(values: &Values) -> Result<InjectError, Error> {
    let mut rule = InjectError::after(event(values)?);
    for (name, value) in values {
        match *name {
            "event" => {}
            "state" => rule.state = state(number(name, value)?),
            "iotype" => rule.iotype = Some(IoType::named(value).ok_or_else(|| invalid(value))?),
            "errno" => rule.errno = number(name, value)?,
            // The number that stands for any.
            "sector" if *value == "-1" => rule.sector = None,
            "sector" => rule.sector = Some(number(name, value)?),
            "once" => rule.once = switch(name, value)?,
            "immediately" => rule.immediately = switch(name, value)?,
            _ => return Err(Error::Unsupported(format!("Invalid parameter '{name}'"))),
        }
    }
    Ok(rule)
}

fn set_state(values: &Values) -> Result<SetState, Error> {
    let mut rule = SetState { event: event(values)?, state: None, new_state: 0 };
    for (name, value) in values {
        match *name {
            "event" => {}
            "state" => rule.state = state(number(name, value)?),
            "new_state" => rule.new_state = number(name, value)?,
            _ => return Err(Error::Unsupported(format!("Invalid parameter '{name}'"))),
        }
    }
    Ok(rule)
}

/// The event that a section is about.
fn event(values: &Values) -> Result<BlkdebugEvent, Error> {
    if let Some((name, _)) = values.iter().find(|(name, _)| !NAMES.contains(name)) {
        return Err(Error::Unsupported(format!("Invalid parameter '{name}'")));
    }
    let name = values.iter().rev().find(|(name, _)| *name == "event").map(|(_, value)| *value);
    let name = name.ok_or_else(|| Error::Unsupported("Missing event name for rule".into()))?;
    BlkdebugEvent::named(name).ok_or_else(|| invalid(name))
}

/// What a section may have.
const NAMES: [&str; 8] = ["event", "state", "iotype", "errno", "sector", "once", "immediately", "new_state"];

/// State 0 is any.
fn state(number: i32) -> Option<i32> {
    Some(number).filter(|number| *number != 0)
}

fn invalid(value: &str) -> Error {
    Error::Unsupported(format!("invalid parameter value: {value}"))
}

fn number<N: std::str::FromStr>(name: &str, value: &str) -> Result<N, Error> {
    value.parse().map_err(|_| Error::Unsupported(format!("Parameter '{name}' expects a number")))
}

fn switch(name: &str, value: &str) -> Result<bool, Error> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(Error::Unsupported(format!("Parameter '{name}' expects 'on' or 'off'"))),
    }
}
