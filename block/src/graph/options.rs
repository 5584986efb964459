//! The options of nodes, as `-blockdev`, `-drive`, `blockdev-add` and `json:` names give them.

use serde_json::{Map, Value};

use crate::options::split;
use crate::{Error, parse_size};

/// Deepest nesting of options.
const DEEPEST: usize = 32;

/// Options of a node by name, with those of its children within them, until each is taken.
///
/// Those of a command have JSON's types; those of a command line are texts.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Where they stand within others, with a dot behind it, for messages.
    place: String,
    members: Map<String, Value>,
    is_text: bool,
    /// Without a driver, the first bytes decide.
    may_probe: bool,
}

/// What an option says of a child.
#[derive(Clone, Debug)]
pub enum ChildOptions {
    /// There is none.
    Nothing,
    /// The node with a name.
    Named(String),
    /// A node of its own.
    New(NodeOptions),
}

impl NodeOptions {
    /// Those of a command.
    pub fn from_members(members: Map<String, Value>) -> NodeOptions {
        NodeOptions { place: String::new(), members, is_text: false, may_probe: false }
    }

    /// Those of a text: an object in JSON, with the types that a command has, or pairs of dotted names and values, of which the first
    /// may be the driver alone. A comma in a value is written twice.
    pub fn from_text(text: &str) -> Result<NodeOptions, Error> {
        if text.trim_start().starts_with('{') {
            return NodeOptions::object(text).map(NodeOptions::from_members);
        }
        let pairs = split(text).into_iter().enumerate().map(|(place, pair)| match pair {
            (name, Some(value)) => Ok((name, value)),
            (name, None) if place == 0 => Ok(("driver".to_owned(), name)),
            (name, None) => Err(Error::Option(format!("{name:?}: its parts are key=value, separated by commas"))),
        });
        NodeOptions::from_pairs(pairs.collect::<Result<Vec<_>, _>>()?)
    }

    /// An object in JSON.
    fn object(text: &str) -> Result<Map<String, Value>, Error> {
        match serde_json::from_str(text) {
            Ok(Value::Object(members)) => Ok(members),
            Ok(_) => Err(Error::Option("Invalid JSON object given".into())),
            Err(error) => Err(Error::Option(format!("Could not parse the JSON options: {error}"))),
        }
    }

    /// Those that pairs of dotted names and texts give.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Result<NodeOptions, Error> {
        let mut members = Map::new();
        for (name, value) in pairs {
            insert(&mut members, &name, Value::String(value))?;
        }
        Ok(NodeOptions { place: String::new(), members, is_text: true, may_probe: false })
    }

    /// Those of a description in JSON, whose names may be dotted.
    pub fn from_json(text: &str) -> Result<NodeOptions, Error> {
        let given = NodeOptions::object(text)?;
        let mut members = Map::new();
        for (name, value) in given {
            insert(&mut members, &name, value)?;
        }
        // Texts are as good as numbers here: tools write either.
        Ok(NodeOptions { place: String::new(), members, is_text: true, may_probe: false })
    }

    /// The image in a file, whose format is found out unless it is among these options (`driver`).
    pub fn of_image(file: NodeOptions, mut options: NodeOptions) -> NodeOptions {
        options.members.insert("file".into(), Value::Object(file.members));
        NodeOptions { is_text: true, ..options.probing() }
    }

    /// The same, and without a driver the first bytes of its file decide.
    pub fn probing(self) -> NodeOptions {
        NodeOptions { may_probe: true, ..self }
    }

    /// Without a driver, the first bytes decide.
    pub(super) fn may_probe(&self) -> bool {
        self.may_probe
    }

    /// The same as JSON.
    pub fn to_value(&self) -> Value {
        Value::Object(self.members.clone())
    }

    /// An option of this name was given.
    pub fn contains(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// Gives an option, unless it was given.
    pub fn set_default(&mut self, name: &str, value: impl Into<Value>) {
        self.members.entry(name).or_insert_with(|| value.into());
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.place)
    }

    fn wrong(&self, name: &str, valid: &str) -> Error {
        Error::Option(format!("Invalid parameter type for '{}', expected: {valid}", self.full(name)))
    }

    /// Takes a text.
    pub fn take_text(&mut self, name: &str) -> Result<Option<String>, Error> {
        match self.members.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value @ (Value::Number(_) | Value::Bool(_))) if self.is_text => Ok(Some(value.to_string())),
            Some(_) => Err(self.wrong(name, "string")),
        }
    }

    /// Takes a text that must be there.
    pub fn take_required(&mut self, name: &str) -> Result<String, Error> {
        self.take_text(name)?.ok_or_else(|| self.missing(name))
    }

    /// An option that must be there is not.
    pub fn missing(&self, name: &str) -> Error {
        Error::Option(format!("Parameter '{}' is missing", self.full(name)))
    }

    /// Takes a switch.
    pub fn take_flag(&mut self, name: &str) -> Result<Option<bool>, Error> {
        match self.members.remove(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(Value::String(text)) if self.is_text => match text.as_str() {
                "on" | "yes" | "true" | "y" => Ok(Some(true)),
                "off" | "no" | "false" | "n" => Ok(Some(false)),
                _ => Err(Error::Option(format!("Parameter '{}' expects 'on' or 'off'", self.full(name)))),
            },
            Some(_) => Err(self.wrong(name, "boolean")),
        }
    }

    /// Takes a number; on a command line, with a suffix as sizes have.
    pub fn take_number(&mut self, name: &str) -> Result<Option<u64>, Error> {
        let valid = |this: &Self| Error::Option(format!("Parameter '{}' expects a number", this.full(name)));
        match self.members.remove(name) {
            None => Ok(None),
            Some(Value::Number(number)) => number.as_u64().map(Some).ok_or_else(|| valid(self)),
            Some(Value::String(text)) if self.is_text => parse_size(&text).map(Some).map_err(|_| valid(self)),
            Some(_) => Err(self.wrong(name, "integer")),
        }
    }

    /// Takes one of some names.
    pub fn take_choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, Error> {
        let Some(text) = self.take_text(name)? else { return Ok(None) };
        let found = choices.iter().find(|(known, _)| *known == text).map(|(_, value)| *value);
        found.map(Some).ok_or_else(|| {
            let known = choices.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ");
            Error::Option(format!("Parameter '{}' does not accept value '{text}'; valid are {known}", self.full(name)))
        })
    }

    /// Takes options within these; none, if they were not given.
    pub fn take_group(&mut self, name: &str) -> Result<NodeOptions, Error> {
        let place = format!("{}.", self.full(name));
        match self.members.remove(name) {
            None | Some(Value::Null) => {
                Ok(NodeOptions { place, members: Map::new(), is_text: self.is_text, may_probe: false })
            }
            Some(Value::Object(members)) => Ok(NodeOptions { place, members, is_text: self.is_text, may_probe: false }),
            Some(_) => Err(self.wrong(name, "object")),
        }
    }

    /// Takes what is said of a child.
    pub fn take_child(&mut self, name: &str) -> Result<Option<ChildOptions>, Error> {
        let value = self.members.remove(name);
        value.map(|value| self.child(name, value)).transpose()
    }

    fn child(&self, name: &str, value: Value) -> Result<ChildOptions, Error> {
        match value {
            Value::Null => Ok(ChildOptions::Nothing),
            Value::String(text) if text.is_empty() => Ok(ChildOptions::Nothing),
            Value::String(text) => Ok(ChildOptions::Named(text)),
            Value::Object(members) => {
                let place = format!("{}.", self.full(name));
                Ok(ChildOptions::New(NodeOptions { place, members, is_text: self.is_text, may_probe: false }))
            }
            _ => Err(self.wrong(name, "BlockdevRef")),
        }
    }

    /// Takes a list: on a command line, its elements have numbers as names.
    pub fn take_list(&mut self, name: &str) -> Result<Vec<Value>, Error> {
        match self.members.remove(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(elements)) => Ok(elements),
            Some(Value::Object(mut members)) if self.is_text => {
                let count = members.len();
                let elements = (0..count).map(|at| members.remove(&at.to_string()));
                elements.collect::<Option<Vec<_>>>().ok_or_else(|| self.wrong(name, "array"))
            }
            Some(_) => Err(self.wrong(name, "array")),
        }
    }

    /// Takes a list of children.
    pub fn take_children(&mut self, name: &str) -> Result<Vec<ChildOptions>, Error> {
        let elements = self.take_list(name)?;
        elements.into_iter().enumerate().map(|(at, value)| self.child(&format!("{name}.{at}"), value)).collect()
    }

    /// Takes a list of groups of options.
    pub fn take_groups(&mut self, name: &str) -> Result<Vec<NodeOptions>, Error> {
        let elements = self.take_list(name)?;
        let group = |(at, value)| match value {
            Value::Object(members) => {
                let place = format!("{}.{at}.", self.full(name));
                Ok(NodeOptions { place, members, is_text: self.is_text, may_probe: false })
            }
            _ => Err(self.wrong(name, "object")),
        };
        elements.into_iter().enumerate().map(group).collect()
    }

    /// Refuses what nobody took.
    pub fn finish(self) -> Result<(), Error> {
        match self.members.keys().next() {
            None => Ok(()),
            Some(name) => Err(Error::Option(format!("Parameter '{}' is unexpected", self.full(name)))),
        }
    }
}

/// Puts an option where its dotted name says.
fn insert(members: &mut Map<String, Value>, name: &str, value: Value) -> Result<(), Error> {
    let invalid = || Error::Option(format!("Invalid parameter '{name}'"));
    let parts: Vec<&str> = name.split('.').collect();
    let (last, groups) = parts.split_last().ok_or_else(invalid)?;
    if groups.len() > DEEPEST || parts.iter().any(|part| part.is_empty()) {
        return Err(invalid());
    }
    let mut at = members;
    for group in groups {
        let within = at.entry(*group).or_insert_with(|| Value::Object(Map::new()));
        at = within.as_object_mut().ok_or_else(|| {
            Error::Option(format!("Parameter '{name}': '{group}' is given as a value, and as a group of options"))
        })?;
    }
    match at.get(*last) {
        Some(Value::Object(_)) => {
            Err(Error::Option(format!("Parameter '{name}' is given as a value, and as a group of options")))
        }
        _ => {
            at.insert((*last).to_owned(), value);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Result<NodeOptions, Error> {
        NodeOptions::from_pairs(text.split(',').map(|pair| {
            let (name, value) = pair.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        }))
    }

    #[test]
    fn dotted_names_are_groups_and_lists() {
        let mut options =
            pairs("driver=quorum,children.0.driver=null-co,children.1=b,cache.direct=on,size=4k").unwrap();
        assert_eq!(options.take_required("driver").unwrap(), "quorum");
        let children = options.take_children("children").unwrap();
        let [ChildOptions::New(first), ChildOptions::Named(second)] = &children[..] else { panic!("{children:?}") };
        assert_eq!((first.to_value()["driver"].as_str(), second.as_str()), (Some("null-co"), "b"));
        assert_eq!(options.take_number("size").unwrap(), Some(4096));
        let mut cache = options.take_group("cache").unwrap();
        assert_eq!(cache.take_flag("direct").unwrap(), Some(true));
        cache.finish().unwrap();
        options.finish().unwrap();
    }

    #[test]
    fn what_is_wrong_is_named() {
        let failed = |result: Result<NodeOptions, Error>| result.unwrap_err().to_string();
        assert!(failed(pairs("file=a,file.driver=b")).contains("'file.driver'"));
        assert!(failed(pairs("file.driver=b,file=a")).contains("'file'"));
        assert!(failed(pairs("a..b=c")).contains("'a..b'"));
        let mut options = pairs("cache.direct=perhaps,cache.other=1").unwrap();
        let mut cache = options.take_group("cache").unwrap();
        assert_eq!(
            cache.take_flag("direct").unwrap_err().to_string(),
            "Parameter 'cache.direct' expects 'on' or 'off'"
        );
        assert_eq!(cache.finish().unwrap_err().to_string(), "Parameter 'cache.other' is unexpected");
        let mut typed = NodeOptions::from_members(
            serde_json::json!({ "read-only": "on", "size": -1, "list": {} }).as_object().unwrap().clone(),
        );
        let text = typed.take_flag("read-only").unwrap_err().to_string();
        assert_eq!(text, "Invalid parameter type for 'read-only', expected: boolean");
        assert_eq!(typed.take_number("size").unwrap_err().to_string(), "Parameter 'size' expects a number");
        assert!(typed.take_list("list").is_err());
        assert_eq!(typed.missing("driver").to_string(), "Parameter 'driver' is missing");
    }
}
