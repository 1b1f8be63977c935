//! What can go wrong while a configuration is read. A message names the place, the thing and the cause.

use super::model::{Origin, Output, lossy};
use std::io;

/// Why a configuration could not be read or applied, and where.
#[derive(Debug, thiserror::Error)]
#[error("{}{trouble}", prefix(.origin))]
pub struct ConfigError {
    /// The place to look at.
    pub origin: Origin,
    /// What is wrong there.
    pub trouble: Box<Trouble>,
    /// What was to be printed before it went wrong.
    pub output: Box<Output>,
}

impl ConfigError {
    pub(super) fn new(origin: &Origin, trouble: Trouble) -> Self {
        Self { origin: origin.clone(), trouble: Box::new(trouble), output: Box::default() }
    }
}

/// How the reading of a text ended early.
#[derive(Debug)]
pub(super) enum Failed<E> {
    /// The taker of pairs said so.
    Each(E),
    /// The text is not of this format; where, and why.
    Syntax(Option<usize>, String),
}

fn prefix(origin: &Origin) -> String {
    if origin.is_known() { format!("{origin}: ") } else { String::new() }
}

/// The kinds of trouble. Wording follows the old server's where people search for it.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The name does not lead to a file.
    #[error("realpath() of {} failed: {}", lossy(.name), plain(.error))]
    NoFile {
        /// The name as given.
        name: Vec<u8>,
        /// Why not.
        error: io::Error,
    },
    /// It is there but cannot be read.
    #[error("open(\"{}\"): {}", lossy(.name), plain(.error))]
    Unreadable {
        /// The name as given.
        name: Vec<u8>,
        /// Why not.
        error: io::Error,
    },
    /// A source that is switched off here: `exec://`, `http://`.
    #[error("{} is not read here: {reason}", lossy(.name))]
    Refused {
        /// The name as given.
        name: Vec<u8>,
        /// What would allow it.
        reason: &'static str,
    },
    /// No format belongs to this name.
    #[error("unable to load configuration from {}", lossy(.0))]
    UnknownFormat(Vec<u8>),
    /// A file is not well-formed.
    #[error("{0}")]
    Syntax(String),
    /// A limit of ours was reached. uWSGI has none.
    #[error("{0}")]
    TooMuch(String),
    /// Something leads to itself, and nobody comes to its end.
    #[error("{0}")]
    Endless(String),
    /// A key that is no option, in strict mode.
    #[error("[strict-mode] unknown config directive: {}", lossy(.0))]
    Strict(Vec<u8>),
    /// A key that the blacklist or whitelist forbids.
    #[error("uWSGI error: forbidden option \"{}\" (by {by})", lossy(.key))]
    Forbidden {
        /// The key.
        key: Vec<u8>,
        /// `blacklist` or `whitelist`.
        by: &'static str,
    },
    /// `set` without `=`.
    #[error("invalid placeholder/--set value")]
    BadSet,
    /// `set-ph` with the name of an option.
    #[error("you cannot use {} as a placeholder, it is already available as an option", lossy(.0))]
    PlaceholderIsOption(Vec<u8>),
    /// A block inside a block.
    #[error("recursive logic in options is not supported (option = {})", lossy(.0))]
    NestedBlock(Vec<u8>),
    /// Something about a block that cannot be carried out.
    #[error("{0}")]
    Block(String),
    /// A value that its option cannot take.
    #[error("{0}")]
    Value(String),
    /// The command line is wrong.
    #[error("{0}")]
    CommandLine(String),
    /// A plugin that must be there is not.
    #[error("unable to load plugin \"{}\"", lossy(.0))]
    NoPlugin(Vec<u8>),
    /// A host name that does not resolve.
    #[error("unable to resolve address {}", lossy(.0))]
    NoHost(Vec<u8>),
}

/// The text of an error number without Rust's `(os error N)`.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

/// Why reading stopped.
#[derive(Debug)]
pub(super) enum Halt {
    /// `exit`.
    Exit(u8),
    /// Something is wrong.
    Error(ConfigError),
}

impl From<ConfigError> for Halt {
    fn from(error: ConfigError) -> Self {
        Self::Error(error)
    }
}

/// Shorthand of the loader's rooms.
pub(super) type Step<T = ()> = Result<T, Halt>;

pub(super) fn halt<T>(origin: &Origin, trouble: Trouble) -> Step<T> {
    Err(Halt::Error(ConfigError::new(origin, trouble)))
}
