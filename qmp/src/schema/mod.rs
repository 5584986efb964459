//! Types that cross the wire, each declared once.
//!
//! A declaration by [`structure!`](crate::structure) or [`enumeration!`](crate::enumeration) is a documented Rust type
//! and, by the same text, the checks of what clients send, the form of what they receive, and a [`Type`] that describes
//! it to introspection and manuals.

mod macros;
mod wire;

pub(crate) use wire::enumeration_index;
pub use wire::{Address, Empty, Location, Members, Wire};

/// A type as introspection shows it.
#[derive(Clone, Copy, Debug)]
pub enum Type {
    /// A JSON string.
    String,
    /// A JSON number without fraction.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// An array whose elements all have this type.
    Array(&'static Type),
    /// One of a few strings.
    Enumeration(&'static Enumeration),
    /// An object with known members.
    Structure(&'static Structure),
    /// Any JSON value: what it must be is said elsewhere.
    Any,
}

/// An enumeration as introspection shows it.
#[derive(Clone, Copy, Debug)]
pub struct Enumeration {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub documentation: &'static str,
    /// Its values with what each means.
    pub values: &'static [(&'static str, &'static str)],
}

/// An object as introspection shows it.
#[derive(Clone, Copy, Debug)]
pub struct Structure {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub documentation: &'static str,
    /// Its members.
    pub members: &'static [Member],
}

/// A member of an object as introspection shows it.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Its name.
    pub name: &'static str,
    /// Another name under which it is accepted, for old clients.
    pub alias: Option<&'static str>,
    /// What it means.
    pub documentation: &'static str,
    /// Its type.
    pub kind: &'static Type,
    /// It may be absent.
    pub optional: bool,
}
