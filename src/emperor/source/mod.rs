//! Imperial monitors: where vassals come from, and how their changes are noticed.
//!
//! Caller: the emperor's main loop only. A source *reports*; it never decides. It hands out snapshots of
//! names with their identity, never contents, and the court compares them with what it knows. A change
//! notification is a hint to look, nothing more: what is reported was read with `stat` afterwards.

mod name;
mod notice;
mod pattern;
mod resolve;
mod settle;
mod sources;
mod spec;
mod stat;
mod tree;
mod watch;

pub use sources::{SourceOptions, Sources};
pub use spec::SourceError;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Index of a source, in the order in which the `emperor` options were given.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SourceId(pub u16);

/// Name of a vassal: a file's bare name (`dir`), or the path as the pattern gave it (`glob`).
///
/// Any bytes but NUL; it may hold blanks, quotes, newlines and invalid UTF-8. Display escapes what would
/// break a log line. Cheap to clone.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct VassalName(std::rc::Rc<[u8]>);

impl VassalName {
    /// Takes the bytes of a directory entry or of a matched path.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The bytes as they stand in the directory.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name as a path, relative to the directory its vassal starts in.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        path_of(&self.0)
    }
}

impl std::fmt::Display for VassalName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use std::fmt::Write;
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// What tells one version of a vassal's file from another. Source: stat(2), or lstat(2) with `emperor-nofollow`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Identity {
    /// Last change of the content, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Last change of the inode, nanoseconds since the epoch.
    pub ctime_ns: i64,
    /// Device that holds the file.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Identity {
    /// Whether a running vassal has to be told: anything but the inode's own change time differs.
    #[must_use]
    pub fn differs(&self, other: &Self) -> bool {
        Self { ctime_ns: 0, ..*self } != Self { ctime_ns: 0, ..*other }
    }
}

/// Why a name that looks like a vassal's cannot be one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Oddity {
    /// A directory, fifo, socket or device; the word says which.
    NotAFile(&'static str),
    /// A symbolic link to nothing.
    DanglingLink,
    /// Symbolic links in a circle, or more than the kernel follows.
    LinkLoop,
    /// More than 254 bytes.
    NameTooLong,
    /// The name holds a `:`, which uWSGI reads as the start of a section's name.
    Colon,
    /// `stat` failed otherwise; the number is the errno.
    Unreadable(i32),
}

/// What a source says of the world.
#[derive(Clone, Debug)]
pub enum Report {
    /// A full scan of the source begins. What is not `Seen` until its `ScanEnded` is gone.
    ScanBegan(SourceId),
    /// A file that can be a vassal, as it is now. Within a scan: in the order of the names.
    Seen(SourceId, VassalName, Identity),
    /// A file that can be a vassal and is being written: it is there, and as it was as far as anybody knows. Sent
    /// within a scan only; its `Seen` follows when it is complete.
    Writing(SourceId, VassalName),
    /// An entry with a vassal's name that cannot be one. Counts as not there.
    Odd(SourceId, VassalName, Oddity),
    /// A name is no more.
    Gone(SourceId, VassalName),
    /// The scan is complete.
    ScanEnded(SourceId),
    /// The source cannot be read, or not be watched. A scan that breaks off ends with this instead of its
    /// `ScanEnded`: nothing is known of its vassals until the next scan, and they keep running.
    /// Sent once per change of the reason; the text names the object, the cause and the remedy.
    Trouble(SourceId, String),
}

/// One `emperor` argument, and how it was understood.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SourceInfo {
    /// The argument as the stats show it: a directory's real path, a pattern as given, without its scheme.
    pub argument: String,
    /// The directory in which this source's vassals start: the directory itself, or the emperor's own.
    pub cwd: PathBuf,
}

/// Bytes as a path.
fn path_of(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}
