//! The descriptor: text that says of what parts an image is made.

use crate::{Error, FieldError};

/// Most files of an image.
const MOST_EXTENTS: usize = 4096;
/// What stands for the identifier of the parent where there is none.
const NO_PARENT: u32 = u32::MAX;

/// The text and what it says.
#[derive(Clone, Debug)]
pub(super) struct Descriptor {
    text: String,
    /// Identifier of what is on the disk; programs change it with the first write.
    pub(super) cid: u32,
    pub(super) parent: Option<Parent>,
    pub(super) create_type: String,
    pub(super) extents: Vec<ExtentLine>,
}

/// The image behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) cid: u32,
    pub(super) name: String,
}

/// A part of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExtentLine {
    pub(super) is_read_only: bool,
    pub(super) sectors: u64,
    pub(super) kind: ExtentKind,
}

/// What a part of the disk is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExtentKind {
    /// A sparse file of this name.
    Sparse(String),
    /// The bytes of a file of this name, from this sector on.
    Flat(String, u64),
    /// Nothing: it is zeros.
    Zero,
}

impl Descriptor {
    /// Whether the first bytes of a file are those of a descriptor: behind comments and empty lines stands its version.
    pub(super) fn probe(start: &[u8]) -> bool {
        let lines = start.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let mut telling = lines.skip_while(|line| line.is_empty() || line.starts_with(b"#"));
        telling.next().is_some_and(|line| matches!(line, b"version=1" | b"version=2" | b"version=3"))
    }

    /// Reads a descriptor; it ends with the first zero byte.
    pub(super) fn parse(bytes: &[u8]) -> Result<Descriptor, Error> {
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = String::from_utf8(text.to_vec()).map_err(|_| FieldError::Text { field: "the descriptor" })?;
        let cid = number(&text, "CID")?.ok_or_else(|| Error::Corrupt("the descriptor has no CID".into()))?;
        let create_type = value(&text, "createType").map(unquoted).unwrap_or_default().to_owned();
        let parent = match number(&text, "parentCID")? {
            None | Some(NO_PARENT) => None,
            Some(cid) => {
                let name = value(&text, "parentFileNameHint").map(unquoted).filter(|name| !name.is_empty());
                let unnamed = || Error::Corrupt(format!("parentCID is {cid:08x}, but parentFileNameHint is missing"));
                Some(Parent { cid, name: name.ok_or_else(unnamed)?.to_owned() })
            }
        };
        let mut extents = Vec::new();
        for line in text.lines() {
            extents.extend(ExtentLine::parse(line.trim())?);
            if extents.len() > MOST_EXTENTS {
                return Err(Error::Unsupported(format!("the descriptor has more than {MOST_EXTENTS} extents")));
            }
        }
        Ok(Descriptor { cid, parent, create_type, extents, text })
    }

    /// The text with another identifier.
    pub(super) fn with_cid(&self, cid: u32) -> String {
        let lines = self.text.split_inclusive('\n').map(|line| match key(line) {
            Some(("CID", _)) => format!("CID={cid:08x}\n"),
            _ => line.to_owned(),
        });
        lines.collect()
    }
}

/// What stands on both sides of a line's equals sign.
fn key(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    Some((key.trim(), value.trim()))
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().filter_map(key).find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn unquoted(text: &str) -> &str {
    text.trim_matches('"')
}

/// A number in hexadecimal.
fn number(text: &str, name: &'static str) -> Result<Option<u32>, Error> {
    let Some(digits) = value(text, name) else { return Ok(None) };
    let number = u32::from_str_radix(digits, 16);
    number
        .map(Some)
        .map_err(|_| Error::Corrupt(format!("{name} is {digits:?}; it must be a hexadecimal number of 32 bits")))
}

impl ExtentLine {
    /// An extent, if the line is one: access, sectors, type, the file's name in quotes, and the first sector in it.
    fn parse(line: &str) -> Result<Option<ExtentLine>, Error> {
        let mut words = line.splitn(3, char::is_whitespace);
        let (Some(access), Some(sectors), Some(rest)) = (words.next(), words.next(), words.next()) else {
            return Ok(None);
        };
        if !matches!(access, "RW" | "RDONLY" | "NOACCESS") {
            return Ok(None);
        }
        let invalid = |what: &str| Error::Corrupt(format!("extent {line:?}: {what}"));
        if access == "NOACCESS" {
            return Err(Error::Unsupported(format!("extent {line:?}: extents without access are not built")));
        }
        let sectors: u64 = sectors.parse().map_err(|_| invalid("the number of sectors is not a number"))?;
        if sectors > 1 << 40 {
            return Err(invalid("the number of sectors must be at most 1099511627776"));
        }
        let rest = rest.trim();
        let (kind, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let mut quoted = rest.trim().splitn(3, '"').skip(1);
        let name = quoted.next().unwrap_or_default().to_owned();
        let behind = quoted.next().unwrap_or_default().trim();
        let kind = match kind {
            "ZERO" => ExtentKind::Zero,
            _ if name.is_empty() => return Err(invalid("the name of its file is missing")),
            "SPARSE" => ExtentKind::Sparse(name),
            "VMFS" if behind.is_empty() => ExtentKind::Flat(name, 0),
            "FLAT" | "VMFS" => {
                let first: u64 = behind.parse().map_err(|_| invalid("the first sector is not a number"))?;
                if first > 1 << 40 {
                    return Err(invalid("the first sector must be at most 1099511627776"));
                }
                ExtentKind::Flat(name, first)
            }
            other => {
                let known = "FLAT, VMFS, SPARSE and ZERO are built";
                return Err(Error::Unsupported(format!("extent {line:?}: its type is {other}; {known}")));
            }
        };
        Ok(Some(ExtentLine { is_read_only: access == "RDONLY", sectors, kind }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Disk DescriptorFile\nversion=1\nCID=1ab\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n\n\
        RW 100 FLAT \"a b.vmdk\" 7\nRDONLY 5 SPARSE \"c.vmdk\"\nRW 9 ZERO\nddb.adapterType = \"ide\"\n";

    #[test]
    fn what_a_descriptor_says() {
        let descriptor = Descriptor::parse(TEXT.as_bytes()).unwrap();
        assert_eq!((descriptor.cid, descriptor.parent.as_ref()), (0x1ab, None));
        assert_eq!(descriptor.create_type, "twoGbMaxExtentFlat");
        let line = |is_read_only, sectors, kind| ExtentLine { is_read_only, sectors, kind };
        let extents = [
            line(false, 100, ExtentKind::Flat("a b.vmdk".into(), 7)),
            line(true, 5, ExtentKind::Sparse("c.vmdk".into())),
            line(false, 9, ExtentKind::Zero),
        ];
        assert_eq!(descriptor.extents, extents);
        assert_eq!(descriptor.with_cid(0xff), TEXT.replace("CID=1ab", "CID=000000ff"));
        assert!(Descriptor::probe(TEXT.as_bytes()));
        assert!(!Descriptor::probe(b"# only a comment\nelse\nversion=1\n"));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (from, to, named) in [
            ("CID=1ab", "CID=xyz", "CID is \"xyz\""),
            ("CID=1ab\n", "", "no CID"),
            ("parentCID=ffffffff", "parentCID=1", "parentFileNameHint is missing"),
            ("RW 100", "RW 1e3", "not a number"),
            ("RW 100", "RW 99999999999999", "at most 1099511627776"),
            ("\" 7", "\" x", "first sector is not a number"),
            ("\" 7", "\" 99999999999999", "first sector must be at most"),
            ("FLAT \"a b.vmdk\" 7", "FLAT", "name of its file"),
            ("SPARSE", "SESPARSE", "its type is SESPARSE"),
            ("RDONLY", "NOACCESS", "without access"),
        ] {
            let error = Descriptor::parse(TEXT.replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(named), "{error:?} does not say {named:?}");
        }
    }
}
