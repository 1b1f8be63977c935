//! The last operation: finding a program that can be executed, and becoming it.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, execve};

use super::super::link::Failure;
use super::super::plan::{Exec, Step, Text};

/// Where programs are searched without a PATH. Source: execvp(3), glibc.
const DEFAULT_PATH: &str = "/bin:/usr/bin";
/// Runs a script that does not name its interpreter. Source: execvp(3).
const SHELL: &str = "/bin/sh";
/// Errors after which the next directory is searched. Source: execvp(3), glibc.
const NOT_HERE: [Errno; 5] = [Errno::ENOENT, Errno::ENOTDIR, Errno::ESTALE, Errno::ENODEV, Errno::ETIMEDOUT];
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";

/// An engine whose arguments are final.
pub(super) struct Prepared {
    programs: Vec<Text>,
    args: Vec<OsString>,
    path: OsString,
    environment: Vec<OsString>,
}

impl Prepared {
    /// Settles the arguments, as the vassal that we are now.
    pub(super) fn new(wanted: Exec) -> Self {
        let mut args: Vec<OsString> =
            wanted.args.iter().map(|arg| AsRef::<OsStr>::as_ref(arg).into()).collect();
        if let Some(magic) = wanted.magic
            && access(magic.file.as_path(), AccessFlags::R_OK | AccessFlags::X_OK).is_ok()
            && let Some(arg) = args.get_mut(magic.argument)
        {
            *arg = joined(OsStr::new("exec://"), magic.file.as_ref());
        }
        let environment = std::env::vars_os().map(|(mut entry, value)| {
            entry.push("=");
            entry.push(value);
            entry
        });
        let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        Self { programs: wanted.programs, args, path, environment: environment.collect() }
    }

    /// Tries one program after the other. What comes back names them all, with the error of the first that
    /// exists.
    pub(super) fn exec(self) -> Failure {
        let mut telling = io::Error::from(Errno::ENOENT);
        for program in &self.programs {
            let Err(error) = self.try_program(program);
            if is(&telling, Errno::ENOENT) {
                telling = error;
            }
        }
        let names: Vec<String> = self.programs.iter().map(ToString::to_string).collect();
        Failure::new(Step::Exec, &names.join(", "), &telling)
    }

    /// execvp(3), except that a program for another kind of machine is not given to the shell.
    fn try_program(&self, program: &Text) -> io::Result<Infallible> {
        if program.as_bytes().contains(&b'/') {
            return self.try_file(program, program.as_path());
        }
        let mut telling = io::Error::from(Errno::ENOENT);
        for directory in std::env::split_paths(&self.path) {
            let file = if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory };
            let Err(error) = self.try_file(program, &file.join(program));
            if is(&error, Errno::EACCES) {
                telling = error;
            } else if !NOT_HERE.iter().any(|errno| is(&error, *errno)) {
                return Err(error);
            }
        }
        Err(telling)
    }

    fn try_file(&self, name: &Text, file: &Path) -> io::Result<Infallible> {
        let Err(error) = self.exec_file(file, &[name.as_ref()]);
        if is(&error, Errno::ENOEXEC) && !is_binary(file) {
            return self.exec_file(Path::new(SHELL), &[OsStr::new(SHELL), file.as_os_str()]);
        }
        if is(&error, Errno::ENOENT) && file.exists() {
            return Err(io::Error::other("it is there, but the interpreter or loader that it names is not"));
        }
        Err(error)
    }

    fn exec_file(&self, file: &Path, first: &[&OsStr]) -> io::Result<Infallible> {
        let args = first.iter().copied().chain(self.args.iter().map(OsString::as_os_str));
        let args = args.map(c_string).collect::<Result<Vec<_>, _>>()?;
        let environment = self.environment.iter().map(|entry| c_string(entry));
        let environment = environment.collect::<Result<Vec<_>, _>>()?;
        Ok(execve(&c_string(file.as_os_str())?, &args, &environment)?)
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

fn c_string(text: &OsStr) -> Result<CString, Errno> {
    CString::new(text.as_bytes()).map_err(|_| Errno::EINVAL)
}

fn joined(one: &OsStr, other: &OsStr) -> OsString {
    OsString::from_vec([one.as_bytes(), other.as_bytes()].concat())
}

fn is_binary(file: &Path) -> bool {
    let mut start = [0; ELF_MAGIC.len()];
    let read = std::fs::File::open(file).and_then(|mut file| file.read_exact(&mut start));
    read.is_err() || start == ELF_MAGIC || start.contains(&0)
}
