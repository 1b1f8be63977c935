//! The launcher's side: what happens between the emperor's decision and the engine's first instruction.
#![forbid(unsafe_code)]

pub mod engine;
pub mod hook;
mod init;
mod jail;
pub mod keeper;
pub mod launch;
pub mod link;
pub mod passing;
pub mod plan;
pub mod probe;
mod reaper;
pub mod sent;
pub mod socket;
mod step;
pub mod terms;
mod text;
mod words;
