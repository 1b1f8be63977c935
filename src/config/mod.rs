//! uWSGI's configuration language: ini, yaml, json and xml become one ordered list of options, each with its file and line.
//!
//! Anybody may call it, in any process: it starts no thread, and touches the outside only through [`World`]. In tyrant
//! mode a tenant's file is read only after privileges are dropped; that is up to the caller.
//!
//! Order of work: every source feeds pairs into one list while options that act at once do so; three passes replace
//! `$(..)`, `@(..)`, `%(..)`; then the list is applied in order. Nothing is merged, the last application wins.
//! A [`ConfigError`] names the place; nothing here prints.
#![forbid(unsafe_code)]

mod answers;
mod blocks;
pub mod check;
mod declare;
mod door;
mod engine;
mod error;
mod expand;
mod getopt;
mod ini;
mod json;
mod load;
mod loader;
mod magic;
mod model;
pub mod options;
mod options_table;
mod perform;
pub mod report;
mod uwsgi;
mod validate;
pub mod values;
pub mod words;
mod xml;
mod yaml;

pub use answers::{Config, Got};
pub use door::{Found, Machine, PathKind, World};
pub use engine::Mode;
pub use error::{ConfigError, Trouble};
pub use loader::Loader;
pub use model::{How, Limits, Origin, Output, Pair, Place, SourceFile, Via, lossy};
pub use uwsgi::as_uwsgi;
pub use validate::{CAPABILITIES, HOOK_ACTIONS, HOOK_ACTIONS_OF_UWSGI};
