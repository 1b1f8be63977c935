//! Hooks: the small actions that uWSGI's `hook-*`, `exec-*`, `mount-*` and `umount-*` options run.
//!
//! The types here are data, part of a launch plan, and may be used from anywhere. Only two places run them
//! ([`run`]): the launcher, and `emperor::process` before the emperor's loop starts and after it has ended.
//! What needs a uWSGI around it (`call`, `rpc`, `alarm`, `unix_signal` …) is refused when it is read.

mod parse;
pub mod run;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use parse::BadHook;

use super::text::Text;

/// One action, as it was configured.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Hook {
    /// What to do.
    pub action: Action,
    /// The words of the configuration, for the log.
    pub text: Text,
    /// Written with a leading `!`: the log must not show the words.
    #[serde(default)]
    pub hidden: bool,
    /// Which option it came from, which decides how the log speaks of it.
    pub kind: Kind,
}

/// The family of options a hook came from.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `hook-…`
    Hook,
    /// `mount-…`
    Mount,
    /// `umount-…`
    Unmount,
    /// `exec-…`
    Exec,
}

/// What a hook does. Paths are relative to the current directory of the process that runs it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// `cd`, `chdir`
    ChangeDir(Text),
    /// `mkdir`, mode 0777 less the umask
    MakeDir(Text),
    /// `putenv:NAME=VALUE`; without `=` the variable is removed
    PutEnv(Text),
    /// `exec`, `safeexec`: a command for `/bin/sh -c`
    Shell {
        /// The command.
        command: Text,
        /// Whether a status other than 0 counts as success.
        safe: bool,
    },
    /// `create`, `write`, `writen`, `append`, `appendn`: opens the file and writes the text
    Write {
        /// The file, created with mode 0666 less the umask.
        path: Text,
        /// What goes into it.
        text: Text,
        /// Whether the old content stays.
        append: bool,
    },
    /// `writefifo`, `spinningfifo`
    WriteFifo {
        /// The fifo.
        path: Text,
        /// What goes into it.
        text: Text,
        /// Whether to wait for a reader; otherwise no reader is no error.
        wait: bool,
    },
    /// `unlink`
    Unlink(Text),
    /// `chmod:FILE OCTAL`
    Chmod {
        /// The file.
        path: Text,
        /// Its new permission bits.
        mode: u32,
    },
    /// `sticky`: adds the sticky bit
    Sticky(Text),
    /// `chown:FILE USER GROUP`, `chown2:FILE UID GID`
    Chown {
        /// The file.
        path: Text,
        /// Name of the user, or `#` and a number.
        user: Who,
        /// Name of the group, or `#` and a number.
        group: Who,
    },
    /// `mount:FS SOURCE TARGET [FLAG,FLAG [DATA]]`
    Mount(Mount),
    /// `umount:TARGET [FLAG,FLAG]`
    Unmount(Unmount),
    /// `hostname`
    HostName(Text),
    /// `wait_for_fs`, `wait_for_file`, `wait_for_dir`, `wait_for_socket`, for at most 60 seconds
    WaitFor {
        /// What it has to be.
        what: Awaited,
        /// Where.
        path: Text,
    },
    /// `exit`, `exit:STATUS`
    Exit(u8),
    /// `print`, `log`
    Print(Text),
}

/// A user or group as a hook names it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Who {
    /// By number.
    Id(u32),
    /// By a name, looked up when the hook runs.
    Name(String),
}

impl Who {
    /// Digits are an id, everything else is a name.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Id)
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A mount.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Mount {
    /// Type of the file system; `none` where the kernel needs none.
    pub fstype: Text,
    /// Device, or directory to bind.
    pub source: Text,
    /// Where it appears.
    pub target: Text,
    /// Words such as `bind` and `nosuid`, each known.
    pub flags: Vec<MountFlag>,
    /// Options for the file system.
    pub data: Option<Text>,
}

/// An unmount.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Unmount {
    /// What to unmount.
    pub target: Text,
    /// `force`
    pub force: bool,
    /// `detach`
    pub detach: bool,
    /// `rec`, `recursive`: everything below it first
    pub recursive: bool,
}

/// A word that changes a mount.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each is uWSGI's word for the kernel's flag of that name")]
pub enum MountFlag {
    Bind,
    DirSync,
    MandLock,
    Move,
    NoATime,
    NoDev,
    NoExec,
    NoSuid,
    Private,
    ReadOnly,
    Recursive,
    Remount,
    Shared,
    Sync,
}

/// What a `wait_for_…` hook waits for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Awaited {
    /// Anything of that name.
    Entry,
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A unix socket, or `host:port`, that accepts connections.
    Socket,
    /// A directory on which something is mounted. No hook has a word for it; `wait-for-mountpoint` does.
    MountPoint,
    /// A network interface, by its name; `wait-for-interface`.
    Interface,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.hidden { f.write_str("--- PRIVATE HOOK ---") } else { write!(f, "\"{}\"", self.text) }
    }
}
