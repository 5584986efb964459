//! Option groups: `driver,key=value,flag`, as QEMU writes them.

use std::fmt::Display;
use std::str::FromStr;

use qmp::server::split_at_commas;

use super::Invalid;

/// One option's value, taken apart. A comma in a value is written twice.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// The option as the user wrote it, for messages.
    option: &'static str,
    whole: String,
    /// The leading value without a key, if there is one.
    first: Option<String>,
    members: Vec<(String, String)>,
}

impl Group {
    /// Takes the value of `option` apart. A first part without `=` is the leading value; later ones are switches that are on,
    /// or off if they begin with `no`.
    pub(crate) fn parse(option: &'static str, text: &str) -> Result<Group, Invalid> {
        let mut group = Group { option, whole: text.into(), first: None, members: Vec::new() };
        for (place, part) in split_at_commas(text).into_iter().enumerate() {
            match part.split_once('=') {
                Some((key, value)) if !key.is_empty() => group.members.push((key.into(), value.into())),
                None if place == 0 => group.first = Some(part),
                None if !part.is_empty() => match part.strip_prefix("no") {
                    Some(name) if !name.is_empty() => group.members.push((name.into(), "off".into())),
                    _ => group.members.push((part, "on".into())),
                },
                _ => return Err(group.invalid("its parts are key=value, separated by commas")),
            }
        }
        Ok(group)
    }

    /// An error about the whole value.
    pub(crate) fn invalid(&self, what: impl Display) -> Invalid {
        Invalid::new(format!("-{} {}: {what}", self.option, self.whole))
    }

    /// Takes the leading value, or else that of `key`.
    pub(crate) fn take_first(&mut self, key: &str) -> Option<String> {
        self.first.take().filter(|value| !value.is_empty()).or_else(|| self.take(key))
    }

    /// Takes the last value given for `key`.
    pub(crate) fn take(&mut self, key: &str) -> Option<String> {
        let mut found = None;
        self.members.retain(|(name, value)| {
            let hit = name == key;
            if hit {
                found = Some(value.clone());
            }
            !hit
        });
        found
    }

    /// Takes all that is left.
    pub(crate) fn take_rest(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.members)
    }

    /// Takes a value that must be there.
    pub(crate) fn take_required(&mut self, key: &str) -> Result<String, Invalid> {
        self.take(key).ok_or_else(|| self.invalid(format!("{key}=... is missing")))
    }

    /// Takes a number.
    pub(crate) fn take_number<T: FromStr>(&mut self, key: &str) -> Result<Option<T>, Invalid> {
        let Some(text) = self.take(key) else { return Ok(None) };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(self.invalid(format!("{key}={text} is not a number in range"))),
        }
    }

    /// Takes a number that may be written in hexadecimal.
    pub(crate) fn take_port(&mut self, key: &str) -> Result<Option<u16>, Invalid> {
        let Some(text) = self.take(key) else { return Ok(None) };
        let number = match text.strip_prefix("0x") {
            Some(digits) => u16::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        number.map(Some).ok_or_else(|| self.invalid(format!("{key}={text} is not a port between 0 and 0xffff")))
    }

    /// Takes a switch: `on` or `off`.
    pub(crate) fn take_switch(&mut self, key: &str) -> Result<Option<bool>, Invalid> {
        match self.take(key).as_deref() {
            None => Ok(None),
            Some("on" | "yes" | "true" | "y") => Ok(Some(true)),
            Some("off" | "no" | "false" | "n") => Ok(Some(false)),
            Some(text) => Err(self.invalid(format!("{key}={text} is neither on nor off"))),
        }
    }

    /// Takes a switch that may also be `auto`, as if it was not given.
    pub(crate) fn take_switch_or_auto(&mut self, key: &str) -> Result<Option<bool>, Invalid> {
        if self.members.iter().any(|(name, value)| name == key && value == "auto") {
            self.take(key);
            return Ok(None);
        }
        self.take_switch(key)
    }

    /// Ends reading: what was not taken is not known. `known` lists what would be valid.
    pub(crate) fn finish(self, known: &str) -> Result<(), Invalid> {
        if let Some(first) = &self.first {
            return Err(self.invalid(format!("{first:?} is not known here; valid are {known}")));
        }
        match self.members.first() {
            None => Ok(()),
            Some((key, _)) => Err(self.invalid(format!("{key} is not known; valid are {known}"))),
        }
    }
}

/// Bytes of a size as users write it: a number with a suffix K, M, G or T, or in units of `unit` bytes without one.
pub(crate) fn size(text: &str, unit: u64) -> Option<u64> {
    let (digits, factor) = match text.trim_end_matches(['B', 'b']).to_ascii_uppercase().pop() {
        Some('K') => (&text[..text.find(['k', 'K'])?], 1 << 10),
        Some('M') => (&text[..text.find(['m', 'M'])?], 1 << 20),
        Some('G') => (&text[..text.find(['g', 'G'])?], 1 << 30),
        Some('T') => (&text[..text.find(['t', 'T'])?], 1 << 40),
        _ => (text, unit),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_a_leading_value_members_and_switches() {
        let mut group = Group::parse("device", "virtio-blk-device,drive=a,,b,server,nowait").unwrap();
        assert_eq!(group.take_first("driver").as_deref(), Some("virtio-blk-device"));
        assert_eq!(group.take("drive").as_deref(), Some("a,b"));
        assert_eq!(group.take_switch("server").unwrap(), Some(true));
        assert_eq!(group.take_switch("wait").unwrap(), Some(false));
        group.finish("nothing").unwrap();
    }

    #[test]
    fn what_is_left_over_is_named_with_what_would_be_valid() {
        let group = Group::parse("smp", "4,socks=2").unwrap();
        let mut group = group;
        group.take_first("cpus");
        let message = group.finish("cpus, sockets").unwrap_err().to_string();
        assert_eq!(message, "-smp 4,socks=2: socks is not known; valid are cpus, sockets");
    }

    #[test]
    fn sizes_have_suffixes_and_do_not_overflow() {
        assert_eq!(size("512", 1 << 20), Some(512 << 20));
        assert_eq!(size("2G", 1 << 20), Some(2 << 30));
        assert_eq!(size("64k", 1), Some(64 << 10));
        assert_eq!(size("99999999999T", 1), None);
        assert_eq!(size("-1", 1), None);
        assert_eq!(size("", 1), None);
        assert_eq!(size("1.5G", 1), None);
    }
}
