//! Real clients and servers on the other side.

mod client;
mod server;
mod support;
