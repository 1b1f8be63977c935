//! `emperor`: a multi-tenant vassal orchestrator, the successor of uWSGI's Emperor.
//!
//! The rooms of the house, and who may import whom, are described in `docs/architecture.md`;
//! `tests/house_rules.rs` keeps them.

pub mod cli;
pub mod config;
pub mod emperor;
pub mod sys;
pub mod vassal;
pub mod zerg;
