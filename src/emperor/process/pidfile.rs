//! A file that holds a process id, and that two processes cannot hold.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, open};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::emperor::survival::PidFileRecord;
use crate::sys::fds;
use crate::vassal::plan::Text;

/// Mode of a fresh pidfile, less the umask: who may write it decides which process a script kills.
const MODE: u32 = 0o644;

/// A pidfile of this process, locked for as long as the process lives.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    name: OsString,
    /// To remove it by after a change of the directory or of the root.
    directory: OwnedFd,
    file: Flock<File>,
}

/// Why a pidfile is not ours.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PidFileError {
    #[error("cannot write pidfile {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("pidfile {} is held by the running process {pid}", path.display())]
    Taken { path: PathBuf, pid: String },
}

impl PidFile {
    /// Writes this process's id, decimal and a newline, and locks the file.
    ///
    /// A reader finds a complete first line at any moment. A file that nobody has locked is taken over.
    ///
    /// # Errors
    /// [`PidFileError::Taken`] while another process holds it.
    pub fn claim(path: &Path) -> Result<Self, PidFileError> {
        let failed = |source| PidFileError::Write { path: path.to_owned(), source };
        let mut claimed = Self::lock(path).map_err(failed)?.ok_or_else(|| PidFileError::Taken {
            path: path.to_owned(),
            pid: fs::read_to_string(path).map_or_else(|_| "?".into(), |pid| first_line(&pid)),
        })?;
        claimed.write()?;
        Ok(claimed)
    }

    /// Writes the id again, after a fork.
    ///
    /// # Errors
    /// Such as a full disk.
    pub fn write(&mut self) -> Result<(), PidFileError> {
        let line = format!("{}\n", std::process::id());
        // One write over the old text, and only then the cut: the first line is always whole.
        let length = u64::try_from(line.len()).unwrap_or_default();
        let written = self.file.write_all_at(line.as_bytes(), 0).and_then(|()| self.file.set_len(length));
        written.map_err(|source| PidFileError::Write { path: self.path.clone(), source })
    }

    /// Removes the file, if it is still this one. Where we may not any more, it is left empty.
    pub fn remove(self) {
        let there = fstatat(&self.directory, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        let is_ours = there.is_ok_and(|stat| self.file.metadata().is_ok_and(|own| own.ino() == stat.st_ino));
        if is_ours && unlinkat(&self.directory, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir).is_err() {
            // A number that may become another process's must not stay.
            let _ = self.file.set_len(0);
        }
    }

    /// What it takes to go on holding it in a program that takes this one's place.
    #[must_use]
    pub fn record(&self, remove: bool) -> PidFileRecord {
        let path = Text::from(self.path.as_os_str());
        PidFileRecord { path, directory: self.directory.as_raw_fd(), file: self.file.as_raw_fd(), remove }
    }

    /// Goes on holding it. The process is the same, and so is its id.
    ///
    /// # Errors
    /// A descriptor is not open, or another process has the lock.
    pub fn of_record(record: &PidFileRecord) -> io::Result<Self> {
        let path = record.path.as_path().to_owned();
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let directory = fds::adopt(record.directory)?;
        let file = Flock::lock(File::from(fds::adopt(record.file)?), FlockArg::LockExclusiveNonblock);
        Ok(Self { path, name, directory, file: file.map_err(|(_, errno)| errno)? })
    }

    /// `None` while somebody else holds it.
    fn lock(path: &Path) -> io::Result<Option<Self>> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(parent, flags, Mode::empty())?;
        loop {
            // A link in its place would have us write over whatever it leads to.
            let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
            let file = match OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path) {
                Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => {
                    return Err(io::Error::other(
                        "it is a symbolic link; name the file itself, or remove it",
                    ));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => match create(path, &name) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                    file => file?,
                },
                file => file?,
            };
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                // Its former holder may have removed it between our two calls.
                Ok(file) if is_at(&file, path) => {
                    return Ok(Some(Self { path: path.to_owned(), name, directory, file }));
                }
                Ok(_) => {}
                Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
                Err((_, errno)) => return Err(errno.into()),
            }
        }
    }
}

/// Makes the file so that it appears under its name with its content.
fn create(path: &Path, name: &OsStr) -> io::Result<File> {
    let mut fresh = OsString::from(".");
    fresh.push(name);
    fresh.push(format!(".{}", std::process::id()));
    let fresh = path.with_file_name(fresh);
    let _ = fs::remove_file(&fresh); // of a former process with our id
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(MODE).open(&fresh)?;
    let linked = file.write_all(format!("{}\n", std::process::id()).as_bytes());
    let linked = linked.and_then(|()| fs::hard_link(&fresh, path));
    let _ = fs::remove_file(&fresh);
    linked.map(|()| file)
}

/// Whether a file is the one at this path.
pub(in crate::emperor) fn is_at(file: &File, path: &Path) -> bool {
    let same =
        |(one, other): (fs::Metadata, fs::Metadata)| (one.dev(), one.ino()) == (other.dev(), other.ino());
    file.metadata().ok().zip(fs::metadata(path).ok()).is_some_and(same)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("?").chars().filter(char::is_ascii_digit).take(10).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_pidfile_holds_the_id_and_a_newline_and_goes_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("emperor.pid");
        fs::write(&path, "123456789\nrest of an older file").unwrap();
        let file = PidFile::claim(&path).unwrap();
        assert_eq!(text(&path), format!("{}\n", std::process::id()));
        file.remove();
        assert!(!path.exists());
        let file = PidFile::claim(&path).unwrap();
        assert_eq!(text(&path), format!("{}\n", std::process::id()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left in the directory");
        drop(file);
        assert!(path.exists(), "only a clean end removes it");
    }

    #[test]
    fn a_pidfile_that_is_held_is_refused_with_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("emperor.pid");
        let first = PidFile::claim(&path).unwrap();
        let refused = PidFile::claim(&path).unwrap_err().to_string();
        assert!(
            refused.ends_with(&format!("is held by the running process {}", std::process::id())),
            "{refused}"
        );
        drop(first);
        PidFile::claim(&path).unwrap();
    }

    #[test]
    fn a_file_that_somebody_has_put_in_our_place_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("emperor.pid");
        let file = PidFile::claim(&path).unwrap();
        fs::rename(&path, dir.path().join("old")).unwrap();
        fs::write(&path, "1\n").unwrap();
        file.remove();
        assert_eq!(text(&path), "1\n");
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("precious"), "precious").unwrap();
        std::os::unix::fs::symlink("precious", dir.path().join("emperor.pid")).unwrap();
        PidFile::claim(&dir.path().join("emperor.pid")).unwrap_err();
        assert_eq!(text(&dir.path().join("precious")), "precious");
    }

    #[test]
    fn a_path_that_cannot_be_written_is_named() {
        let error = PidFile::claim(Path::new("/nowhere/emperor.pid")).unwrap_err();
        assert_eq!(error.to_string(), "cannot write pidfile /nowhere/emperor.pid");
    }
}
