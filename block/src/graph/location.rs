//! Names of images, as users write them where a name is all that is asked for.

use std::os::unix::fs::FileTypeExt;

use serde_json::{Map, Value, json};

use super::options::NodeOptions;
use crate::Error;
use crate::nbd::{Address, Target, TargetError};

/// Whether the part of a name before a colon is that of a protocol.
fn protocol(name: &str) -> Option<(&str, &str)> {
    name.split_once(':').filter(|(before, _)| !before.contains('/'))
}

impl NodeOptions {
    /// The node that has the bytes of an image with this name: a file, what a protocol names, or a description in JSON.
    ///
    /// ```text
    /// PATH, file:PATH                     a file of the host, or a device of it
    /// host_device:PATH, host_cdrom:PATH
    /// json:{"driver": "file", ...}        as blockdev-add takes it; dotted names are possible
    /// nbd:..., nbd+unix:...               as [`Target`] says
    /// http://..., https:, ftp:, ftps:
    /// null-co:, null-aio:
    /// blkdebug:CONFIG:IMAGE, blkverify:RAW:IMAGE
    /// ```
    pub fn of_file_name(name: &str) -> Result<NodeOptions, Error> {
        let object = |value: Value| match value {
            Value::Object(members) => members,
            _ => Map::new(),
        };
        let members = match protocol(name) {
            None => object(json!({ "driver": driver_of_path(name), "filename": name })),
            Some(("file", path)) => object(json!({ "driver": driver_of_path(path), "filename": path })),
            Some((driver @ ("host_device" | "host_cdrom"), path)) => {
                object(json!({ "driver": driver, "filename": path }))
            }
            Some(("json", text)) => return NodeOptions::from_json(text),
            Some((scheme, _)) if scheme == "nbd" || scheme.starts_with("nbd+") || scheme.starts_with("nbds") => {
                let target: Target = name.parse().map_err(|error: TargetError| Error::Option(error.to_string()))?;
                if target.tls {
                    let text = format!("'{name}' needs TLS, whose credentials (tls-creds) are not built here yet");
                    return Err(Error::Option(text));
                }
                object(of_target(&target))
            }
            Some((driver @ ("http" | "https" | "ftp" | "ftps"), _)) => object(json!({ "driver": driver, "url": name })),
            Some((driver @ ("null-co" | "null-aio"), _)) => object(json!({ "driver": driver })),
            Some(("blkdebug", rest)) => {
                let (config, image) = rest.split_once(':').ok_or_else(|| {
                    Error::Option(format!("'{name}' is not blkdebug:CONFIG:IMAGE; CONFIG may be empty"))
                })?;
                let image = NodeOptions::of_file_name(image)?.to_value();
                let mut members = object(json!({ "driver": "blkdebug", "image": image }));
                if !config.is_empty() {
                    members.insert("config".into(), config.into());
                }
                members
            }
            Some(("blkverify", rest)) => {
                let (raw, test) = rest
                    .split_once(':')
                    .ok_or_else(|| Error::Option(format!("'{name}' is not blkverify:RAW:IMAGE")))?;
                let part = |name| NodeOptions::of_file_name(name).map(|options| options.to_value());
                let raw = json!({ "driver": "raw", "file": part(raw)? });
                object(json!({ "driver": "blkverify", "raw": raw, "test": part(test)? }))
            }
            Some((other, _)) => return Err(Error::Option(format!("Unknown protocol '{other}'"))),
        };
        Ok(NodeOptions::from_members(members))
    }
}

/// The driver of a file of the host.
fn driver_of_path(path: &str) -> &'static str {
    match std::fs::metadata(path).map(|metadata| metadata.file_type()) {
        Ok(kind) if kind.is_block_device() || kind.is_char_device() => "host_device",
        _ => "file",
    }
}

/// The options of an export of a server.
fn of_target(target: &Target) -> Value {
    let server = match &target.address {
        Address::Unix(path) => json!({ "type": "unix", "path": path.display().to_string() }),
        Address::Tcp { host, port } => json!({ "type": "inet", "host": host, "port": port.to_string() }),
    };
    json!({ "driver": "nbd", "server": server, "export": target.export })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(name: &str) -> Value {
        NodeOptions::of_file_name(name).unwrap().to_value()
    }

    #[test]
    fn names_are_files_unless_they_begin_with_a_protocol() {
        assert_eq!(options("a/b:c"), json!({ "driver": "file", "filename": "a/b:c" }));
        assert_eq!(options("file:x:y"), json!({ "driver": "file", "filename": "x:y" }));
        assert_eq!(options("/dev/null")["driver"], "host_device");
        let unix = json!({ "driver": "nbd", "server": { "type": "unix", "path": "/s" }, "export": "e" });
        assert_eq!(options("nbd:unix:/s:exportname=e"), unix);
        assert_eq!(options("nbd+unix:///e?socket=/s"), unix);
        let nested = options(r#"json:{"driver":"raw","file.driver":"file","file.filename":"f"}"#);
        assert_eq!(nested, json!({ "driver": "raw", "file": { "driver": "file", "filename": "f" } }));
        for wrong in ["json:{", "json:[]", "other:x", "nbd:nowhere"] {
            assert!(NodeOptions::of_file_name(wrong).is_err(), "{wrong}");
        }
    }
}
