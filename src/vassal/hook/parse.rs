//! From the words of an option to a [`Hook`].

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::config::HOOK_ACTIONS;

use super::{Action, Awaited, Hook, Kind, Mount, MountFlag, Text, Unmount, Who};

/// Why the words of a hook are none.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadHook {
    /// There is no `:`.
    #[error("invalid hook {0:?}: write it as action:argument")]
    NoColon(String),
    /// There is no such action.
    #[error("hook action not found: {} (did you mean {nearest}?)", action.escape_debug())]
    Unknown {
        /// What was written.
        action: String,
        /// The known one that looks most like it.
        nearest: &'static str,
    },
    /// The action runs code inside a uWSGI process, and this is none.
    #[error("hook action {} needs uWSGI inside the process: {instead}", action.escape_debug())]
    NeedsUwsgi {
        /// What was written.
        action: String,
        /// What to do in its place.
        instead: &'static str,
    },
    /// The argument does not fit the action.
    #[error("invalid argument {argument:?} of {action}: it takes {wants}")]
    Argument {
        /// What was written before the colon.
        action: &'static str,
        /// What was written after it.
        argument: String,
        /// What the action takes.
        wants: &'static str,
    },
    /// A mount or unmount has no such flag.
    #[error("unknown flag {0:?} of a mount")]
    Flag(String),
}

impl Hook {
    /// Reads the value of a `hook-…` option: `action:argument`, or `!action:argument` to keep it out of the log.
    ///
    /// # Errors
    /// [`BadHook`] says what is wrong with the words.
    pub fn parse(text: &OsStr) -> Result<Self, BadHook> {
        let bytes = text.as_bytes();
        let (hidden, bytes) = bytes.strip_prefix(b"!").map_or((false, bytes), |rest| (true, rest));
        let colon =
            bytes.iter().position(|byte| *byte == b':').ok_or_else(|| BadHook::NoColon(lossy(bytes)))?;
        let action = action(&lossy(&bytes[..colon]), &bytes[colon + 1..])?;
        Ok(Self { action, text: to_text(bytes), hidden, kind: Kind::Hook })
    }

    /// Reads the value of a `mount-…` option.
    ///
    /// # Errors
    /// [`BadHook`] for too few words or an unknown flag.
    pub fn mount(text: &OsStr) -> Result<Self, BadHook> {
        Ok(Self {
            action: action("mount", text.as_bytes())?,
            text: text.into(),
            hidden: false,
            kind: Kind::Mount,
        })
    }

    /// Reads the value of an `umount-…` option.
    ///
    /// # Errors
    /// [`BadHook`] for no word or an unknown flag.
    pub fn unmount(text: &OsStr) -> Result<Self, BadHook> {
        Ok(Self {
            action: action("umount", text.as_bytes())?,
            text: text.into(),
            hidden: false,
            kind: Kind::Unmount,
        })
    }

    /// Takes the value of an `exec-…` option.
    #[must_use]
    pub fn exec(command: &OsStr) -> Self {
        let action = Action::Shell { command: command.into(), safe: false };
        Self { action, text: command.into(), hidden: false, kind: Kind::Exec }
    }
}

fn action(name: &str, argument: &[u8]) -> Result<Action, BadHook> {
    let all = || to_text(argument);
    Ok(match name {
        "cd" | "chdir" => Action::ChangeDir(all()),
        "mkdir" => Action::MakeDir(all()),
        "putenv" => Action::PutEnv(all()),
        "exec" => Action::Shell { command: all(), safe: false },
        "safeexec" => Action::Shell { command: all(), safe: true },
        "create" | "creat" => Action::Write { path: all(), text: Text::default(), append: false },
        "write" => write("write", argument, false, false)?,
        "writen" => write("writen", argument, false, true)?,
        "append" => write("append", argument, true, false)?,
        "appendn" => write("appendn", argument, true, true)?,
        "writefifo" => fifo("writefifo", argument, false)?,
        "spinningfifo" => fifo("spinningfifo", argument, true)?,
        "unlink" => Action::Unlink(all()),
        "chmod" => chmod(argument)?,
        "sticky" => Action::Sticky(all()),
        "chown" => chown(argument)?,
        "chown2" => chown2(argument)?,
        "mount" => Action::Mount(mount(argument)?),
        "umount" => Action::Unmount(unmount(argument)?),
        "hostname" => Action::HostName(all()),
        "wait_for_fs" => Action::WaitFor { what: Awaited::Entry, path: all() },
        "wait_for_file" => Action::WaitFor { what: Awaited::File, path: all() },
        "wait_for_dir" => Action::WaitFor { what: Awaited::Dir, path: all() },
        "wait_for_socket" => Action::WaitFor { what: Awaited::Socket, path: all() },
        "exit" => exit(argument)?,
        "print" | "log" => Action::Print(all()),
        _ => return Err(unknown(name)),
    })
}

fn unknown(name: &str) -> BadHook {
    let instead = match name {
        "call" | "callret" | "callint" | "callintret" | "ffi" | "tcc" | "perl" => {
            "use exec with a program of its own"
        }
        "rpc" | "retryrpc" => "use exec with a client of that service",
        "alarm" => "use exec with the command that raises it",
        "unix_signal" => "install the handler in the vassal itself",
        "setprocname" => "set procname in the vassal's own file",
        _ => {
            let nearest =
                HOOK_ACTIONS.into_iter().min_by_key(|known| distance(name, known)).unwrap_or("exec");
            return BadHook::Unknown { action: name.to_owned(), nearest };
        }
    };
    BadHook::NeedsUwsgi { action: name.to_owned(), instead }
}

fn write(action: &'static str, argument: &[u8], append: bool, newline: bool) -> Result<Action, BadHook> {
    let (path, text) = match split_word(argument) {
        Some(both) => both,
        None if newline => (argument, &b""[..]), // `appendn FILE` writes a bare newline
        None => return Err(bad(action, argument, "FILE TEXT")),
    };
    let mut text = text.to_vec();
    text.extend(newline.then_some(b'\n'));
    Ok(Action::Write { path: to_text(path), text: to_text(&text), append })
}

fn fifo(action: &'static str, argument: &[u8], wait: bool) -> Result<Action, BadHook> {
    let (path, text) = split_word(argument).ok_or_else(|| bad(action, argument, "FIFO TEXT"))?;
    Ok(Action::WriteFifo { path: to_text(path), text: to_text(text), wait })
}

fn chmod(argument: &[u8]) -> Result<Action, BadHook> {
    let wrong = || bad("chmod", argument, "FILE and an octal mode");
    let (path, mode) = split_word(argument).ok_or_else(wrong)?;
    let mode = str::from_utf8(mode).ok().and_then(|mode| u32::from_str_radix(mode.trim(), 8).ok());
    let mode = mode.filter(|mode| *mode <= 0o7777).ok_or_else(wrong)?;
    Ok(Action::Chmod { path: to_text(path), mode })
}

fn chown(argument: &[u8]) -> Result<Action, BadHook> {
    let [path, user, group] = three(argument).ok_or_else(|| bad("chown", argument, "FILE USER GROUP"))?;
    Ok(Action::Chown { path: to_text(path), user: Who::Name(lossy(user)), group: Who::Name(lossy(group)) })
}

fn chown2(argument: &[u8]) -> Result<Action, BadHook> {
    let wrong = || bad("chown2", argument, "FILE UID GID");
    let [path, user, group] = three(argument).ok_or_else(wrong)?;
    let id = |word: &[u8]| lossy(word).parse().map(Who::Id).map_err(|_| wrong());
    Ok(Action::Chown { path: to_text(path), user: id(user)?, group: id(group)? })
}

fn mount(argument: &[u8]) -> Result<Mount, BadHook> {
    let mut words = argument.splitn(5, |byte| *byte == b' ');
    let mut word = || words.next().filter(|word| !word.is_empty());
    let (Some(fstype), Some(source), Some(target)) = (word(), word(), word()) else {
        return Err(bad("mount", argument, "FSTYPE SOURCE TARGET [FLAG,FLAG [DATA]]"));
    };
    let flags = word().map(|list| flags(list, mount_flag)).transpose()?.unwrap_or_default();
    let data = word().map(to_text);
    Ok(Mount { fstype: to_text(fstype), source: to_text(source), target: to_text(target), flags, data })
}

fn unmount(argument: &[u8]) -> Result<Unmount, BadHook> {
    let (target, words) = split_word(argument).unwrap_or((argument, b""));
    if target.is_empty() {
        return Err(bad("umount", argument, "TARGET [FLAG,FLAG]"));
    }
    let words = flags(words, |word| {
        matches!(word, "force" | "detach" | "rec" | "recursive").then(|| word.to_owned())
    })?;
    let given = |names: &[&str]| words.iter().any(|word| names.contains(&word.as_str()));
    let recursive = given(&["rec", "recursive"]);
    Ok(Unmount { target: to_text(target), force: given(&["force"]), detach: given(&["detach"]), recursive })
}

fn exit(argument: &[u8]) -> Result<Action, BadHook> {
    if argument.is_empty() {
        return Ok(Action::Exit(0));
    }
    let status =
        lossy(argument).trim().parse().map_err(|_| bad("exit", argument, "a status from 0 to 255"))?;
    Ok(Action::Exit(status))
}

fn mount_flag(word: &str) -> Option<MountFlag> {
    Some(match word {
        "bind" => MountFlag::Bind,
        "dirsync" => MountFlag::DirSync,
        "mandlock" => MountFlag::MandLock,
        "move" => MountFlag::Move,
        "noatime" => MountFlag::NoATime,
        "nodev" => MountFlag::NoDev,
        "noexec" => MountFlag::NoExec,
        "nosuid" => MountFlag::NoSuid,
        "private" => MountFlag::Private,
        "ro" | "readonly" | "rdonly" => MountFlag::ReadOnly,
        "rec" | "recursive" => MountFlag::Recursive,
        "remount" => MountFlag::Remount,
        "shared" => MountFlag::Shared,
        "sync" => MountFlag::Sync,
        _ => return None,
    })
}

fn flags<T>(list: &[u8], known: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, BadHook> {
    let list = lossy(list);
    let words = list.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.map(|word| known(word).ok_or_else(|| BadHook::Flag(word.to_owned()))).collect()
}

fn split_word(argument: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = argument.iter().position(|byte| *byte == b' ')?;
    Some((&argument[..blank], &argument[blank + 1..]))
}

fn three(argument: &[u8]) -> Option<[&[u8]; 3]> {
    let words: Vec<&[u8]> = argument.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).collect();
    words.try_into().ok()
}

fn bad(action: &'static str, argument: &[u8], wants: &'static str) -> BadHook {
    BadHook::Argument { action, argument: lossy(argument), wants }
}

fn to_text(bytes: &[u8]) -> Text {
    Text::from(OsStr::from_bytes(bytes))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Levenshtein's distance: how many letters have to change.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HOOK_ACTIONS_OF_UWSGI;

    fn parsed(text: &str) -> Action {
        Hook::parse(OsStr::new(text)).unwrap().action
    }

    fn refused(text: &str) -> String {
        Hook::parse(OsStr::new(text)).unwrap_err().to_string()
    }

    #[test]
    fn actions_take_their_arguments_apart() {
        assert_eq!(parsed("cd:/srv/a b"), Action::ChangeDir("/srv/a b".into()));
        let write = |text: &str, append| Action::Write { path: "/f".into(), text: text.into(), append };
        assert_eq!(parsed("write:/f a b"), write("a b", false));
        assert_eq!(parsed("appendn:/f a"), write("a\n", true));
        assert_eq!(parsed("appendn:/f"), write("\n", true));
        assert_eq!(parsed("creat:/f"), write("", false));
        assert_eq!(parsed("chmod:/f 1755"), Action::Chmod { path: "/f".into(), mode: 0o1755 });
        let user = Who::Name("www-data".into());
        assert_eq!(
            parsed("chown:/f www-data adm"),
            Action::Chown { path: "/f".into(), user, group: Who::Name("adm".into()) }
        );
        assert_eq!(
            parsed("chown2:/f 33 4"),
            Action::Chown { path: "/f".into(), user: Who::Id(33), group: Who::Id(4) }
        );
        assert_eq!(parsed("exit:"), Action::Exit(0));
        assert_eq!(parsed("exit:7"), Action::Exit(7));
    }

    #[test]
    fn a_mount_has_three_to_five_words_and_known_flags() {
        let Action::Mount(mount) = parsed("mount:tmpfs none /tmp/x nosuid,ro size=1m,mode=0755") else {
            panic!()
        };
        assert_eq!(mount.flags, [MountFlag::NoSuid, MountFlag::ReadOnly]);
        assert_eq!(mount.data, Some("size=1m,mode=0755".into()));
        assert!(refused("mount:tmpfs none").contains("FSTYPE SOURCE TARGET"));
        assert_eq!(refused("mount:tmpfs none /x bund"), "unknown flag \"bund\" of a mount");
        let Action::Unmount(unmount) = parsed("umount:/old rec,detach") else { panic!() };
        assert_eq!((unmount.force, unmount.detach, unmount.recursive), (false, true, true));
        assert_eq!(Hook::unmount(OsStr::new("/old")).unwrap().kind, Kind::Unmount);
        assert_eq!(Hook::mount(OsStr::new("proc none /proc")).unwrap().kind, Kind::Mount);
    }

    #[test]
    fn an_exclamation_mark_keeps_the_words_out_of_the_log() {
        let hook = Hook::parse(OsStr::new("!putenv:SECRET=1")).unwrap();
        assert_eq!(hook.to_string(), "--- PRIVATE HOOK ---");
        assert_eq!(hook.action, Action::PutEnv("SECRET=1".into()));
    }

    #[test]
    fn a_misspelt_action_is_answered_with_the_nearest() {
        assert_eq!(refused("mkdri:/x"), "hook action not found: mkdri (did you mean mkdir?)");
        assert_eq!(refused("nonsense"), "invalid hook \"nonsense\": write it as action:argument");
    }

    #[test]
    fn what_needs_uwsgi_says_so_and_names_another_way() {
        for action in HOOK_ACTIONS_OF_UWSGI.into_iter().chain(["ffi"]) {
            let text = refused(&format!("{action}:x"));
            assert!(text.contains("needs uWSGI inside the process: "), "{text}");
        }
    }

    #[test]
    fn every_other_action_that_a_configuration_may_name_is_one_here() {
        for action in HOOK_ACTIONS {
            match Hook::parse(OsStr::new(&format!("{action}:1 2 3"))) {
                Ok(_) | Err(BadHook::Argument { .. } | BadHook::Flag(_)) => {}
                Err(other) => panic!("{action}: {other}"),
            }
        }
    }
}
