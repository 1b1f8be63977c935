//! The emperor: decides which vassals run, and supervises them.
#![forbid(unsafe_code)]

pub mod court;
pub mod hands;
pub mod log;
pub mod source;
