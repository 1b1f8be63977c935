//! Performs hooks, blocking.
//!
//! Caller: the launcher, and `emperor::process` before its loop and after it; both have a single thread. Every
//! descriptor from 3 on is close-on-exec there, so that commands get 0, 1 and 2 only.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Group, User};

use super::{Action, Awaited, Hook, Kind, Text, Who};
use crate::sys::alone;

mod mounts;

/// How long a `wait_for_…` hook waits. Source: uWSGI's default for `wait-for-*-timeout`.
pub const WAIT_LIMIT: Duration = Duration::from_secs(60);
/// How often a thing that was waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often a fifo that is not there yet is looked at. Source: uWSGI.
const FIFO_EVERY: Duration = Duration::from_secs(1);

/// How a hook ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ran {
    /// It did what it says.
    Done,
    /// It asks this process to end with that status.
    Exit(u8),
}

/// Performs one hook and writes the lines that uWSGI writes to `log`.
///
/// # Errors
/// What the system says; a command's status other than 0; a name that is no user or group.
pub fn run(hook: &Hook, phase: &str, log: &mut dyn Write) -> io::Result<Ran> {
    let verb = match hook.kind {
        Kind::Hook | Kind::Exec => "running",
        Kind::Mount => "mounting",
        Kind::Unmount => "un-mounting",
    };
    tell(log, &format!("{verb} {hook} ({phase})..."));
    perform(&hook.action, hook.hidden, log)
}

/// Runs a program with one argument and waits for it (`vassals-start-hook`, `vassals-stop-hook`).
///
/// # Errors
/// It cannot be executed. Its status is no error.
pub fn program(program: &Text, argument: &Text) -> io::Result<ExitStatus> {
    finish(Command::new(program).arg(argument))
}

/// One line for the log, whole even when other processes write to it as well, and one line whatever is in it.
pub fn tell(log: &mut dyn Write, line: &str) {
    let mut visible = String::with_capacity(line.len() + 1);
    for c in line.chars() {
        if c.is_control() { visible.extend(c.escape_default()) } else { visible.push(c) }
    }
    visible.push('\n');
    // A log that cannot be written to is no reason to stop.
    let _ = log.write_all(visible.as_bytes());
}

fn perform(action: &Action, hidden: bool, log: &mut dyn Write) -> io::Result<Ran> {
    match action {
        Action::ChangeDir(path) => std::env::set_current_dir(path)?,
        Action::MakeDir(path) => fs::create_dir(path)?,
        Action::PutEnv(entry) => put_env(entry)?,
        Action::Shell { command, safe } => shell(command, *safe, hidden, log)?,
        Action::Write { path, text, append } => write(path, text, *append)?,
        Action::WriteFifo { path, text, wait } => write_fifo(path, text, *wait)?,
        Action::Unlink(path) => fs::remove_file(path)?,
        Action::Chmod { path, mode } => fs::set_permissions(path, PermissionsExt::from_mode(*mode))?,
        Action::Sticky(path) => {
            let mode = fs::metadata(path)?.permissions().mode();
            fs::set_permissions(path, PermissionsExt::from_mode(mode & 0o7777 | libc::S_ISVTX))?;
        }
        Action::Chown { path, user, group } => {
            std::os::unix::fs::chown(path, Some(uid(user)?), Some(gid(group)?))?
        }
        Action::Mount(mount) => mounts::mount(mount)?,
        Action::Unmount(unmount) => mounts::unmount(unmount)?,
        Action::HostName(name) => nix::unistd::sethostname(name)?,
        Action::WaitFor { what, path } => wait_for(*what, path, WAIT_LIMIT)?,
        Action::Exit(status) => return Ok(Ran::Exit(*status)),
        Action::Print(text) => tell(log, &text.to_string()),
    }
    Ok(Ran::Done)
}

fn put_env(entry: &Text) -> io::Result<()> {
    let bytes = entry.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => alone::set_variable(OsStr::from_bytes(&bytes[..at]), OsStr::from_bytes(&bytes[at + 1..])),
        None => alone::remove_variable(entry.as_ref()),
    }
}

fn shell(command: &Text, safe: bool, hidden: bool, log: &mut dyn Write) -> io::Result<()> {
    let status = finish(Command::new("/bin/sh").arg("-c").arg(command))?;
    if status.success() {
        return Ok(());
    }
    let shown = if hidden { "--- PRIVATE HOOK ---".to_owned() } else { format!("\"{command}\"") };
    if let Some(code) = status.code() {
        tell(log, &format!("command {shown} exited with non-zero code: {code}"));
    }
    if safe { Ok(()) } else { Err(io::Error::other(format!("the command ended with {status}"))) }
}

fn finish(command: &mut Command) -> io::Result<ExitStatus> {
    alone::die_with_parent(command);
    command.status()
}

fn write(path: &Text, text: &Text, append: bool) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).write(true).append(append).truncate(!append).open(path)?;
    file.write_all(text.as_bytes())
}

fn write_fifo(path: &Text, text: &Text, wait: bool) -> io::Result<()> {
    loop {
        // Without O_NONBLOCK the open itself waits for a reader.
        let flags = if wait { 0 } else { libc::O_NONBLOCK };
        match OpenOptions::new().write(true).custom_flags(flags).open(path) {
            Ok(mut fifo) => return fifo.write_all(text.as_bytes()),
            Err(error) if !wait && error.raw_os_error() == Some(libc::ENXIO) => return Ok(()),
            Err(error) if wait && error.kind() == io::ErrorKind::NotFound => std::thread::sleep(FIFO_EVERY),
            Err(error) => return Err(error),
        }
    }
}

fn uid(user: &Who) -> io::Result<u32> {
    match user {
        Who::Id(number) => Ok(*number),
        Who::Name(name) => match User::from_name(name)? {
            Some(user) => Ok(user.uid.as_raw()),
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("user {name} not found"))),
        },
    }
}

fn gid(group: &Who) -> io::Result<u32> {
    match group {
        Who::Id(number) => Ok(*number),
        Who::Name(name) => match Group::from_name(name)? {
            Some(group) => Ok(group.gid.as_raw()),
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("group {name} not found"))),
        },
    }
}

/// Waits until the thing is there.
///
/// # Errors
/// `TimedOut` after `limit`.
pub fn wait_for(what: Awaited, path: &Text, limit: Duration) -> io::Result<()> {
    let end = Instant::now() + limit;
    while !is_there(what, path) {
        if Instant::now() >= end {
            return Err(Errno::ETIMEDOUT.into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

fn is_there(what: Awaited, path: &Text) -> bool {
    let kind = || fs::metadata(path).map(|meta| meta.file_type());
    match what {
        Awaited::Entry => kind().is_ok(),
        Awaited::File => kind().is_ok_and(|kind| kind.is_file()),
        Awaited::Dir => kind().is_ok_and(|kind| kind.is_dir()),
        Awaited::Interface => {
            path.as_path().components().count() == 1 && Path::new("/sys/class/net").join(path).exists()
        }
        Awaited::MountPoint => {
            let above = path.as_path().join("..");
            let mounted = |here: fs::Metadata, above: fs::Metadata| {
                here.dev() != above.dev() || here.ino() == above.ino()
            };
            fs::metadata(path)
                .and_then(|here| fs::metadata(above).map(|above| mounted(here, above)))
                .unwrap_or(false)
        }
        Awaited::Socket => match path.to_string() {
            address if address.contains(':') && !address.contains('/') => TcpStream::connect(address).is_ok(),
            _ => kind().is_ok_and(|kind| kind.is_socket()) && UnixStream::connect(path).is_ok(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(text: &str) -> (io::Result<Ran>, String) {
        let mut log = Vec::new();
        let ran = run(&Hook::parse(OsStr::new(text)).unwrap(), "as-vassal", &mut log);
        (ran, String::from_utf8(log).unwrap())
    }

    #[test]
    fn files_are_written_appended_to_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let path = file.display();
        for text in
            [format!("writen:{path} one two"), format!("append:{path} three"), format!("appendn:{path}")]
        {
            done(&text).0.unwrap();
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "one two\nthree\n");
        done(&format!("create:{path}")).0.unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "");
        done(&format!("chmod:{path} 600")).0.unwrap();
        done(&format!("sticky:{path}")).0.unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o1600);
        done(&format!("unlink:{path}")).0.unwrap();
        assert_eq!(done(&format!("unlink:{path}")).0.unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn a_fifo_without_reader_is_no_error_unless_it_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        done(&format!("writefifo:{} x", fifo.display())).0.unwrap();
        let path = fifo.clone();
        let reader = std::thread::spawn(move || fs::read_to_string(path).unwrap());
        done(&format!("spinningfifo:{} hello", fifo.display())).0.unwrap();
        assert_eq!(reader.join().unwrap(), "hello");
    }

    #[test]
    fn a_commands_status_counts_unless_it_is_safe() {
        let (ran, log) = done("exec:exit 3");
        assert_eq!(ran.unwrap_err().to_string(), "the command ended with exit status: 3");
        let lines =
            "running \"exec:exit 3\" (as-vassal)...\ncommand \"exit 3\" exited with non-zero code: 3\n";
        assert_eq!(log, lines);
        assert_eq!(done("safeexec:exit 3").0.unwrap(), Ran::Done);
        assert_eq!(done("exit:7").0.unwrap(), Ran::Exit(7));
    }

    #[test]
    fn a_hidden_hook_leaves_no_word_of_it_in_the_log() {
        let (ran, log) = done("!exec:: SECRET; exit 1");
        assert!(!log.contains("SECRET") && !ran.unwrap_err().to_string().contains("SECRET"), "{log}");
    }

    #[test]
    fn what_is_waited_for_has_to_be_of_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let text = Text::from(path.as_os_str());
        let soon = Duration::from_millis(1);
        assert!(wait_for(Awaited::Entry, &text, soon).is_err());
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(
            wait_for(Awaited::Socket, &text, soon).is_ok() && wait_for(Awaited::Entry, &text, soon).is_ok()
        );
        assert!(
            wait_for(Awaited::File, &text, soon).is_err() && wait_for(Awaited::Dir, &text, soon).is_err()
        );
        drop(listener);
        assert!(wait_for(Awaited::Socket, &text, soon).is_err(), "nobody listens any more");
    }

    #[test]
    fn an_unknown_user_is_named() {
        let error = done("chown:/dev/null no-such-user root").0.unwrap_err();
        assert_eq!(error.to_string(), "user no-such-user not found");
    }
}
