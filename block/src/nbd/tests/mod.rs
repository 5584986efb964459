//! Real clients and servers on the other side.

mod server;
mod support;
