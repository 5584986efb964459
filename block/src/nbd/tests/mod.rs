//! Real clients and servers on the other side.

mod client;
mod flow;
mod hostile_clients;
mod hostile_servers;
mod server;
mod support;
mod tls;
