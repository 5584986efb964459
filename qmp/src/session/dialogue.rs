//! The protocol without input and output.

use std::sync::Arc;

use hw::vm::Vm;
use serde_json::{Map, Value, json};

use super::Negotiation;
use crate::commands::{self, Command, Context, Execution, VersionInfo};
use crate::error::Error;
use crate::json::{InputError, Reader};
use crate::schema::Wire;

/// The command that ends the negotiation.
const NEGOTIATE: &str = "qmp_capabilities";

/// What a client receives first.
pub fn greeting() -> Value {
    json!({"QMP": {"version": VersionInfo::own().to_wire(), "capabilities": ["oob"]}})
}

/// The protocol with one client.
///
/// Take requests with [`Dialogue::next_request`], one after the other, and begin the next only when the last is answered;
/// only those that [overtake](Request::overtakes) may be begun meanwhile.
pub struct Dialogue {
    reader: Reader,
    context: Arc<Context>,
}

/// Something that a client sent.
#[derive(Debug)]
pub struct Request {
    message: Result<Value, InputError>,
    overtakes: bool,
}

impl Request {
    /// It does not wait for the requests before it.
    pub fn overtakes(&self) -> bool {
        self.overtakes
    }
}

/// What becomes of a request.
pub enum Answer {
    /// It is answered by this message.
    Message(Value),
    /// A command is to be carried out first.
    Call(Call),
}

/// A command with its arguments, on its way.
pub struct Call {
    command: &'static Command,
    arguments: Map<String, Value>,
    context: Arc<Context>,
}

impl Call {
    /// Where the command is to run.
    pub fn execution(&self) -> Execution {
        self.command.execution
    }

    /// Carries the command out.
    pub fn run(self) -> Result<Value, Error> {
        (self.command.handler)(&self.context, self.arguments)
    }
}

/// The message for a result of a command whose request had this `id`.
pub(super) fn answer(result: Result<Value, Error>, id: Option<Value>) -> Value {
    let mut message = Map::new();
    match result {
        Ok(value) => {
            message.insert("return".into(), value);
            message.extend(id.map(|id| ("id".into(), id)));
        }
        Err(error) => {
            message.extend(id.map(|id| ("id".into(), id)));
            message.insert("error".into(), error.to_value());
        }
    }
    Value::Object(message)
}

impl Dialogue {
    /// The beginning of a conversation about `vm`. The client receives the [`greeting`] first.
    pub fn new(vm: Arc<Vm>) -> Dialogue {
        let context = Context { vm, negotiation: Arc::default() };
        Dialogue { reader: Reader::new(), context: Arc::new(context) }
    }

    /// What was agreed on.
    pub fn negotiation(&self) -> &Arc<Negotiation> {
        &self.context.negotiation
    }

    /// Adds bytes that the client sent.
    pub fn push(&mut self, bytes: &[u8]) {
        self.reader.push(bytes);
    }

    /// The next request; `None` once all bytes so far are used up.
    pub fn next_request(&mut self) -> Option<Request> {
        let message = self.reader.next_message()?;
        let overtakes = self.context.negotiation.has_out_of_band()
            && matches!(&message, Ok(Value::Object(members)) if members.contains_key("exec-oob") && !members.contains_key("execute"));
        Some(Request { message, overtakes })
    }

    /// Begins to carry a request out. Returns the `id` that belongs into the answer to a [`Call`], too.
    pub fn begin(&self, request: Request) -> (Answer, Option<Value>) {
        let mut id = None;
        match self.call(request, &mut id) {
            Ok(call) => (Answer::Call(call), id),
            Err(error) => (Answer::Message(answer(Err(error), id)), None),
        }
    }

    /// Finds the command that a request means and checks what can be checked before it runs.
    fn call(&self, request: Request, id: &mut Option<Value>) -> Result<Call, Error> {
        let message = request.message.map_err(|error| Error::generic(error.to_string()))?;
        let Value::Object(mut members) = message else {
            return Err(Error::generic("QMP input must be a JSON object"));
        };
        *id = members.shift_remove("id");
        let member = |text: String| Error::generic(format!("QMP input {text}"));
        let mut name = None;
        let mut arguments = Map::new();
        for (key, value) in members {
            match (key.as_str(), value) {
                ("execute", value) => set_name(&mut name, "execute", value)?,
                ("exec-oob", value) if self.context.negotiation.has_out_of_band() => {
                    set_name(&mut name, "exec-oob", value)?;
                }
                ("arguments", Value::Object(value)) => arguments = value,
                ("arguments", _) => return Err(member("member 'arguments' must be an object".into())),
                (other, _) => return Err(member(format!("member '{other}' is unexpected"))),
            }
        }
        let Some((key, name)) = name else { return Err(member("lacks member 'execute'".into())) };
        let command = self.find(&name)?;
        if key == "exec-oob" && !command.allow_out_of_band {
            return Err(Error::generic(format!("The command {name} does not support OOB")));
        }
        Ok(Call { command, arguments, context: self.context.clone() })
    }

    /// The command called `name`, if it may be sent now.
    fn find(&self, name: &str) -> Result<&'static Command, Error> {
        match (self.context.negotiation.is_complete(), name == NEGOTIATE) {
            (false, false) => {
                Err(Error::command_not_found("Expecting capabilities negotiation with 'qmp_capabilities'"))
            }
            (true, true) => {
                Err(Error::command_not_found("Capabilities negotiation is already complete, command ignored"))
            }
            _ => commands::find(name)
                .ok_or_else(|| Error::command_not_found(format!("The command {name} has not been found"))),
        }
    }
}

/// Takes the name of the command from member `key` of a request.
fn set_name(name: &mut Option<(&'static str, String)>, key: &'static str, value: Value) -> Result<(), Error> {
    if name.is_some() {
        return Err(Error::generic("QMP input member 'execute' clashes with 'exec-oob'"));
    }
    match value {
        Value::String(text) => *name = Some((key, text)),
        _ => return Err(Error::generic(format!("QMP input member '{key}' must be a string"))),
    }
    Ok(())
}
