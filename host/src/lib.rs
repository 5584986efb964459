//! Host-side ends of guest devices.
//!
//! Here live character devices ([`chardev`]) and the host's randomness ([`random`]); networks, displays and TPMs will
//! join them. No guest-visible register lives here: a device of `hw` talks to a trait of this crate and never learns
//! what is behind it.
//!
//! Read first: [`chardev::CharBackend`], [`chardev::CharFrontend`].

pub mod chardev;
pub mod random;
