//! The emperor: decides which vassals run, and supervises them.
#![forbid(unsafe_code)]

pub mod court;
pub mod source;
