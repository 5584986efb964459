//! The form of a table of commands.

/// Declares the commands of a group as `COMMANDS`.
///
/// An entry is the command's documentation, its name, where it runs (a value of [`super::Execution`]), its function,
/// and the types of the function's arguments and result, which implement [`crate::schema::Wire`].
macro_rules! commands {
    ($(
        $(#[doc = $documentation:literal])+
        $name:literal $execution:ident => $handler:ident($arguments:ty) -> $returns:ty,
    )+) => {
        pub(in crate::commands) const COMMANDS: &[$crate::commands::Command] = &[$($crate::commands::Command {
            name: $name,
            documentation: concat!($($documentation, "\n"),+),
            arguments: <$arguments as $crate::schema::Wire>::TYPE,
            returns: <$returns as $crate::schema::Wire>::TYPE,
            allow_out_of_band: false,
            execution: $crate::commands::Execution::$execution,
            handler: |context, arguments| {
                let arguments = <$arguments as $crate::schema::Wire>::from_wire(
                    serde_json::Value::Object(arguments),
                    &$crate::schema::Location::Arguments,
                )?;
                let result: $returns = $handler(context, arguments)?;
                Ok($crate::schema::Wire::to_wire(&result))
            },
        }),+];
    };
}

pub(in crate::commands) use commands;
