//! Fields of metadata, taken one after the other from bytes that may come from anywhere.

/// A field of an image's metadata that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FieldError {
    /// The bytes end before it.
    #[error("{place} ends before its field {field}")]
    Missing {
        /// What the fields are of.
        place: &'static str,
        /// Its name.
        field: &'static str,
    },
    /// It has a value that it may not have.
    #[error("{field} is {value}; {valid}")]
    Value {
        /// Its name.
        field: &'static str,
        /// What it is.
        value: u64,
        /// What it may be, as half a sentence.
        valid: String,
    },
    /// It is no text.
    #[error("{field} is not text in UTF-8")]
    Text {
        /// Its name.
        field: &'static str,
    },
}

impl FieldError {
    /// A value that a field may not have.
    pub(crate) fn value(field: &'static str, value: impl Into<u64>, valid: impl Into<String>) -> FieldError {
        FieldError::Value { field, value: value.into(), valid: valid.into() }
    }
}

/// Which byte of a number comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endian {
    /// The most significant one.
    Big,
    /// The least significant one.
    Little,
}

impl Endian {
    /// The number of 32 bits in these bytes at an offset, if they are there.
    pub(crate) fn u32_at(self, bytes: &[u8], at: usize) -> Option<u32> {
        let number = bytes.get(at..)?.first_chunk().copied()?;
        Some(match self {
            Endian::Big => u32::from_be_bytes(number),
            Endian::Little => u32::from_le_bytes(number),
        })
    }

    /// The number of 64 bits in these bytes at an offset, if they are there.
    pub(crate) fn u64_at(self, bytes: &[u8], at: usize) -> Option<u64> {
        let number = bytes.get(at..)?.first_chunk().copied()?;
        Some(match self {
            Endian::Big => u64::from_be_bytes(number),
            Endian::Little => u64::from_le_bytes(number),
        })
    }

    /// The bytes of a number of 32 bits.
    pub(crate) fn bytes32(self, number: u32) -> [u8; 4] {
        match self {
            Endian::Big => number.to_be_bytes(),
            Endian::Little => number.to_le_bytes(),
        }
    }

    /// The bytes of a number of 64 bits.
    pub(crate) fn bytes64(self, number: u64) -> [u8; 8] {
        match self {
            Endian::Big => number.to_be_bytes(),
            Endian::Little => number.to_le_bytes(),
        }
    }
}

/// What is left of the bytes of a structure.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    place: &'static str,
    bytes: &'a [u8],
    taken: usize,
    endian: Endian,
}

impl<'a> Fields<'a> {
    /// The fields in these bytes of `place`, which is named in errors; numbers are big-endian.
    pub(crate) fn new(place: &'static str, bytes: &'a [u8]) -> Fields<'a> {
        Fields { place, bytes, taken: 0, endian: Endian::Big }
    }

    /// The same where numbers are little-endian.
    pub(crate) fn little(place: &'static str, bytes: &'a [u8]) -> Fields<'a> {
        Fields { endian: Endian::Little, ..Fields::new(place, bytes) }
    }

    /// How many bytes are left.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.taken)
    }

    /// The next bytes, as they are.
    pub(crate) fn bytes(&mut self, field: &'static str, length: usize) -> Result<&'a [u8], FieldError> {
        let rest = self.bytes.get(self.taken..).unwrap_or_default();
        let bytes = rest.get(..length).ok_or(FieldError::Missing { place: self.place, field })?;
        self.taken += length;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], FieldError> {
        let missing = FieldError::Missing { place: self.place, field };
        self.bytes(field, N)?.first_chunk().copied().ok_or(missing)
    }

    /// A number of 8 bits.
    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, FieldError> {
        Ok(u8::from_be_bytes(self.array(field)?))
    }

    /// A number of 16 bits.
    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, FieldError> {
        let bytes = self.array(field)?;
        Ok(match self.endian {
            Endian::Big => u16::from_be_bytes(bytes),
            Endian::Little => u16::from_le_bytes(bytes),
        })
    }

    /// A number of 32 bits.
    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, FieldError> {
        let bytes = self.array(field)?;
        Ok(match self.endian {
            Endian::Big => u32::from_be_bytes(bytes),
            Endian::Little => u32::from_le_bytes(bytes),
        })
    }

    /// A number of 64 bits.
    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, FieldError> {
        let bytes = self.array(field)?;
        Ok(match self.endian {
            Endian::Big => u64::from_be_bytes(bytes),
            Endian::Little => u64::from_le_bytes(bytes),
        })
    }

    /// Text of so many bytes.
    pub(crate) fn text(&mut self, field: &'static str, length: usize) -> Result<String, FieldError> {
        let bytes = self.bytes(field, length)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| FieldError::Text { field })
    }

    /// Text in a room of so many bytes, up to the first zero.
    pub(crate) fn padded_text(&mut self, field: &'static str, room: usize) -> Result<String, FieldError> {
        let bytes = self.bytes(field, room)?;
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        std::str::from_utf8(text).map(str::to_owned).map_err(|_| FieldError::Text { field })
    }

    /// Passes over what is left up to a multiple of `alignment` bytes from the beginning; that the bytes end before is no error.
    pub(crate) fn align(&mut self, alignment: usize) {
        self.taken = self.taken.next_multiple_of(alignment);
    }
}
