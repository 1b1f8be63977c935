//! Imperial monitors: where vassals come from, and how their changes are noticed.
//!
//! Caller: the emperor's main loop only. A source *reports*; it never decides. It hands out snapshots of
//! names with their identity, and the court compares them with what it knows. A change notification is a hint to
//! look, nothing more: what is reported was read afterwards. The content of files stays where it is; a source without
//! files supplies its vassals' texts beside the snapshot ([`Report::Supplies`]), and these are the hands' business.

#[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "no source of this build is without files"))]
mod carried;
mod name;
mod notice;
mod pattern;
#[cfg(feature = "postgres")]
mod pg;
mod resolve;
mod settle;
mod sources;
mod spec;
mod stat;
mod tree;
mod watch;

pub use carried::{Supplies, Supply};
pub use sources::{SourceOptions, Sources};
pub use spec::{SCHEMES, SourceError};

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
    /// Device that holds the file. Of a vassal without one, whose source names an on-demand socket, what tells that
    /// socket from others, with [`DEMAND`] set.
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

    /// What tells the on-demand socket that a source names from others; 0 for none, and for files.
    #[must_use]
    pub fn demand(&self) -> u64 {
        if self.device & DEMAND == 0 { 0 } else { self.device }
    }
}

/// A bit that no device's number has: these have 32 in Linux. An identity has no room for a field more.
pub const DEMAND: u64 = 1 << 63;

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
    /// Its source supplies no configuration for it.
    NoText,
    /// The configuration that its source supplies has so many bytes, more than fit through a config pipe.
    TextTooLong(usize),
    /// Tyrant mode, and its source does not say as whom it shall run.
    NoOwner,
    /// Its source has it more than once.
    Twice,
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
    /// What the source has of it cannot be used. It is there all the same: one that runs goes on as it is, and one
    /// that is new is none. Sent within a scan only.
    Unusable(SourceId, VassalName, Oddity),
    /// What a source without files supplies for all its vassals, from now on. Sent within a scan, before the names.
    Supplies(SourceId, Supplies),
    /// A name is no more.
    Gone(SourceId, VassalName),
    /// The scan is complete.
    ScanEnded(SourceId),
    /// The source cannot be read, or not be watched. A scan that breaks off ends with this instead of its
    /// `ScanEnded`: nothing is known of its vassals until the next scan, and they keep running.
    /// Sent once per change of the reason; the text names the object, the cause and the remedy.
    Trouble(SourceId, String),
    /// What there is to know of a source that is no trouble. Sent once per change.
    Remark(SourceId, String),
}

/// One `emperor` argument, and how it was understood.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SourceInfo {
    /// The argument as the stats show it: a directory's real path, a pattern as given, without its scheme.
    pub argument: String,
    /// The directory in which this source's vassals start: the directory itself, or the emperor's own.
    pub cwd: PathBuf,
    /// Whether it has no files, and supplies its vassals' texts instead.
    pub carries: bool,
}

/// Bytes as a path.
fn path_of(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}
