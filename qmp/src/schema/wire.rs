//! Conversion between JSON values and Rust types, with the errors that clients know.

use std::fmt;

use serde_json::{Map, Value};

use super::{Structure, Type};
use crate::error::Error;

/// Where in a command's arguments a value stands.
#[derive(Clone, Copy, Debug)]
pub enum Location<'a> {
    /// The arguments themselves.
    Arguments,
    /// The member of this name.
    Member(&'a Location<'a>, &'a str),
    /// An element of an array.
    Element(&'a Location<'a>, usize),
}

impl Location<'_> {
    /// What errors about values call it: a member by its own name alone, anything else `null`, as QEMU does.
    fn value_name(&self) -> &str {
        match self {
            Location::Member(_, name) => name,
            _ => "null",
        }
    }
}

impl fmt::Display for Location<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Arguments => formatter.write_str("arguments"),
            Location::Member(Location::Arguments, name) => formatter.write_str(name),
            Location::Member(outer, name) => write!(formatter, "{outer}.{name}"),
            Location::Element(outer, index) => write!(formatter, "{outer}[{index}]"),
        }
    }
}

/// A type that crosses the wire.
pub trait Wire: Sized {
    /// How introspection shows it.
    const TYPE: &'static Type;

    /// A member of this type may be absent.
    const OPTIONAL: bool = false;

    /// Checks and takes what a client sent at `location`.
    fn from_wire(value: Value, location: &Location<'_>) -> Result<Self, Error>;

    /// What stands for an absent member.
    fn from_absent(location: &Location<'_>) -> Result<Self, Error> {
        Err(Error::missing(location))
    }

    /// What a client receives.
    fn to_wire(&self) -> Value;

    /// What a client receives as a member; `None` leaves the member out.
    fn to_member(&self) -> Option<Value> {
        Some(self.to_wire())
    }
}

impl Wire for String {
    const TYPE: &'static Type = &Type::String;

    fn from_wire(value: Value, location: &Location<'_>) -> Result<String, Error> {
        match value {
            Value::String(text) => Ok(text),
            _ => Err(Error::wrong_type(location, "string")),
        }
    }

    fn to_wire(&self) -> Value {
        Value::String(self.clone())
    }
}

impl Wire for bool {
    const TYPE: &'static Type = &Type::Boolean;

    fn from_wire(value: Value, location: &Location<'_>) -> Result<bool, Error> {
        value.as_bool().ok_or_else(|| Error::wrong_type(location, "boolean"))
    }

    fn to_wire(&self) -> Value {
        Value::Bool(*self)
    }
}

impl Wire for i64 {
    const TYPE: &'static Type = &Type::Integer;

    fn from_wire(value: Value, location: &Location<'_>) -> Result<i64, Error> {
        value.as_i64().ok_or_else(|| Error::wrong_type(location, "integer"))
    }

    fn to_wire(&self) -> Value {
        (*self).into()
    }
}

impl Wire for Value {
    const TYPE: &'static Type = &Type::Any;

    fn from_wire(value: Value, _: &Location<'_>) -> Result<Value, Error> {
        Ok(value)
    }

    fn to_wire(&self) -> Value {
        self.clone()
    }
}

/// A guest address. Clients may write one in the upper half as a negative number, too, as QEMU demands it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub u64);

impl Wire for Address {
    const TYPE: &'static Type = &Type::Integer;

    fn from_wire(value: Value, location: &Location<'_>) -> Result<Address, Error> {
        let address = value.as_u64().or(value.as_i64().map(i64::cast_unsigned));
        address.map(Address).ok_or_else(|| Error::wrong_type(location, "integer"))
    }

    fn to_wire(&self) -> Value {
        self.0.into()
    }
}

impl<T: Wire> Wire for Vec<T> {
    const TYPE: &'static Type = &Type::Array(T::TYPE);

    fn from_wire(value: Value, location: &Location<'_>) -> Result<Vec<T>, Error> {
        let Value::Array(elements) = value else { return Err(Error::wrong_type(location, "array")) };
        let element = |(index, value)| T::from_wire(value, &Location::Element(location, index));
        elements.into_iter().enumerate().map(element).collect()
    }

    fn to_wire(&self) -> Value {
        Value::Array(self.iter().map(T::to_wire).collect())
    }
}

impl<T: Wire> Wire for Option<T> {
    const TYPE: &'static Type = T::TYPE;
    const OPTIONAL: bool = true;

    fn from_wire(value: Value, location: &Location<'_>) -> Result<Option<T>, Error> {
        T::from_wire(value, location).map(Some)
    }

    fn from_absent(_: &Location<'_>) -> Result<Option<T>, Error> {
        Ok(None)
    }

    fn to_wire(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::to_wire)
    }

    fn to_member(&self) -> Option<Value> {
        self.as_ref().map(T::to_wire)
    }
}

/// No arguments; no result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Empty;

impl Wire for Empty {
    const TYPE: &'static Type =
        &Type::Structure(&Structure { name: "Empty", documentation: "An object without members.", members: &[] });

    fn from_wire(value: Value, location: &Location<'_>) -> Result<Empty, Error> {
        Members::open(value, location)?.close().map(|()| Empty)
    }

    fn to_wire(&self) -> Value {
        Value::Object(Map::new())
    }
}

/// The members of an object that a client sent, while they are taken one after the other.
#[derive(Debug)]
pub struct Members<'a> {
    members: Map<String, Value>,
    location: &'a Location<'a>,
}

impl<'a> Members<'a> {
    /// Begins with an object.
    pub fn open(value: Value, location: &'a Location<'a>) -> Result<Members<'a>, Error> {
        match value {
            Value::Object(members) => Ok(Members { members, location }),
            _ => Err(Error::wrong_type(location, "object")),
        }
    }

    /// Takes one member, under its name or its alias.
    pub fn take<T: Wire>(&mut self, name: &str, alias: Option<&str>) -> Result<T, Error> {
        // The order of an object's members means nothing, so the quick way of removal will do.
        for name in [Some(name), alias].into_iter().flatten() {
            if let Some(value) = self.members.swap_remove(name) {
                return T::from_wire(value, &Location::Member(self.location, name));
            }
        }
        T::from_absent(&Location::Member(self.location, name))
    }

    /// Ends: no member may be left.
    pub fn close(self) -> Result<(), Error> {
        match self.members.keys().next() {
            None => Ok(()),
            Some(name) => {
                Err(Error::generic(format!("Parameter '{}' is unexpected", Location::Member(self.location, name))))
            }
        }
    }
}

/// Finds the value of an enumeration that a client sent.
pub(crate) fn enumeration_index(
    value: &Value,
    values: &[(&str, &str)],
    location: &Location<'_>,
) -> Result<usize, Error> {
    let Value::String(text) = value else { return Err(Error::wrong_type(location, "string")) };
    values
        .iter()
        .position(|(name, _)| name == text)
        .ok_or_else(|| Error::generic(format!("Parameter '{}' does not accept value '{text}'", location.value_name())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    crate::enumeration! {
        /// Colours.
        pub(crate) enum Colour {
            /// Red.
            "red" => Red,
            /// Blue.
            "blue" => Blue,
        }
    }

    crate::structure! {
        /// A thing.
        #[derive(Debug, PartialEq)]
        pub(crate) struct Thing {
            /// Its name.
            "name" => name: String,
            /// Its index.
            "thing-index" | "index" => index: Option<i64>,
            /// Its colours.
            "colours" => colours: Option<Vec<Colour>>,
        }
    }

    fn read(value: Value) -> Result<Thing, String> {
        Thing::from_wire(value, &Location::Arguments).map_err(|error| error.description)
    }

    #[test]
    fn members_are_checked_in_declared_order_and_then_for_strangers() {
        assert_eq!(
            read(json!({"index": 3, "name": "x", "colours": ["blue"]})),
            Ok(Thing { name: "x".into(), index: Some(3), colours: Some(vec![Colour::Blue]) })
        );
        for (value, error) in [
            (json!({"index": 1.5}), "Parameter 'name' is missing"),
            (json!({"name": "x", "index": 1.0}), "Invalid parameter type for 'index', expected: integer"),
            (json!({"zz": 1, "name": null}), "Invalid parameter type for 'name', expected: string"),
            (json!({"zz": 1, "name": ""}), "Parameter 'zz' is unexpected"),
            (json!({"name": "", "thing-index": 1, "index": 1}), "Parameter 'index' is unexpected"),
            (json!({"name": "", "colours": [1]}), "Invalid parameter type for 'colours[0]', expected: string"),
            (json!({"name": "", "colours": ["red", "no"]}), "Parameter 'null' does not accept value 'no'"),
            (json!([]), "Invalid parameter type for 'arguments', expected: object"),
        ] {
            assert_eq!(read(value), Err(error.into()));
        }
    }

    #[test]
    fn what_is_absent_is_left_out() {
        assert_eq!(Thing { name: "x".into(), index: None, colours: None }.to_wire(), json!({"name": "x"}));
    }

    #[test]
    fn the_description_has_names_and_documentation() {
        let Type::Structure(thing) = Thing::TYPE else { panic!("not a structure") };
        assert_eq!((thing.name, thing.documentation.trim()), ("Thing", "A thing."));
        assert_eq!(thing.members[1].alias, Some("index"));
        assert!(thing.members[1].optional && !thing.members[0].optional);
    }

    #[test]
    fn addresses_may_be_negative() {
        let read = |value| Address::from_wire(value, &Location::Arguments).map(|address| address.0).ok();
        assert_eq!(read(json!(-1)), Some(u64::MAX));
        assert_eq!(read(json!(u64::MAX)), Some(u64::MAX));
        assert_eq!(read(json!(1.0)), None);
    }
}
