//! How this process was started, so that it can be started so again in its own place.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{REHEARSAL_VARIABLE, STATE_VARIABLE};

/// What the service manager says of the descriptors that it passes, sd_listen_fds(3).
pub(super) const LISTEN_VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The program, what it was told, and where.
#[derive(Clone, Debug)]
pub struct Origin {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: PathBuf,
}

impl Origin {
    /// That of this process. Call before anything of it changes.
    ///
    /// # Errors
    /// The current directory is gone, or `/proc` is not there.
    pub fn of_this_process() -> io::Result<Self> {
        let ours = std::env::current_exe()?;
        let directory = std::env::current_dir()?;
        let arguments: Vec<OsString> = std::env::args_os().collect();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let typed = arguments.first().and_then(|name| find(name, &directory, &path));
        // A link that is pointed at the next version is what is to be followed; a name that only looks like ours is not.
        let program = typed.filter(|typed| same_file(typed, &ours)).unwrap_or(ours);
        let environment = std::env::vars_os()
            .filter(|(name, _)| LISTEN_VARIABLES.iter().all(|it| name != it))
            .filter(|(name, _)| name != STATE_VARIABLE && name != REHEARSAL_VARIABLE);
        Ok(Self { program, arguments, environment: environment.collect(), directory })
    }

    /// The program's path, as it was started.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The directory it was started in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its arguments, the program's name first; `role` comes as the first of the others, if there is one.
    #[must_use]
    pub fn arguments(&self, role: Option<&str>) -> Vec<CString> {
        let name = self.arguments.first().map_or(OsStr::new("emperor"), OsString::as_os_str);
        let words = role.map(OsStr::new).into_iter();
        let words = words.chain(self.arguments.iter().skip(1).map(OsString::as_os_str));
        std::iter::once(name).chain(words).filter_map(|word| CString::new(word.as_bytes()).ok()).collect()
    }

    /// Its environment, with these variables set.
    #[must_use]
    pub fn environment(&self, set: &[(&str, String)]) -> Vec<CString> {
        let kept = self.environment.iter().filter(|(name, _)| set.iter().all(|(other, _)| name != other));
        let kept = kept.map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        let set = set.iter().map(|(name, value)| format!("{name}={value}").into_bytes());
        kept.chain(set).filter_map(|entry| CString::new(entry).ok()).collect()
    }
}

/// Where a program of this name is, as a shell finds it.
fn find(name: &OsStr, directory: &Path, path: &OsStr) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(directory.join(name));
    }
    std::env::split_paths(path).map(|dir| directory.join(dir).join(name)).find(|file| file.is_file())
}

fn same_file(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    id(one).is_some_and(|one| Some(one) == id(other))
}
