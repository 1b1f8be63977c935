//! Sharing listening sockets: a server offers them at a unix socket, and whoever connects and may have them is sent the
//! descriptors in one message. Afterwards neither knows the other.
//!
//! [`wire`] is the message, [`server`] hands it out, [`client`] takes it, [`pool`] reads what is to be offered. Nothing
//! here binds an address or knows a vassal. Source: measured behaviour of uWSGI 2.0.21.
#![forbid(unsafe_code)]

pub mod client;
pub mod pool;
pub mod server;
pub mod wire;
