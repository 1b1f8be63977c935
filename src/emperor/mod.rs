//! The emperor: decides which vassals run, and supervises them.
#![forbid(unsafe_code)]

pub mod cgroup;
pub mod control;
pub mod court;
pub mod edicts;
pub mod forward;
pub mod hands;
pub mod jail_policy;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod process;
pub mod reign;
pub mod settings;
pub mod signals;
pub mod source;
pub mod stats;
pub mod story;
pub mod superior;
pub mod survival;
pub mod systemd;
pub mod tyranny;
