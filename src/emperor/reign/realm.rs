//! What an emperor governs, no other of the same user does: a second one, started by mistake, would start every vassal
//! once more.
//!
//! For each source there is a locked file with the emperor's process id, in a directory of its runtime directory that
//! nobody else can look into: whoever may open a file may lock it.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use tracing::{info, warn};

use crate::emperor::hands::RuntimeDir;
use crate::emperor::process::pidfile::{PidFile, PidFileError, is_at};
use crate::emperor::source::SourceInfo;

/// The sources that are held.
#[derive(Debug, Default)]
pub(super) struct Realm {
    directory: PathBuf,
    files: Vec<PidFile>,
}

/// Another emperor governs a source.
#[derive(Debug, thiserror::Error)]
#[error(
    "{source_name} is governed by another emperor already, process {pid}: `emperor status` shows its vassals; stop it, or \
     give this one other directories"
)]
pub struct Governed {
    source_name: String,
    pid: String,
}

/// Its name in the runtime directory.
const DIRECTORY: &str = "realms";
/// So many files of emperors that were killed are removed at a start.
const MOST_STALE: usize = 1000;

impl Realm {
    /// Claims sources. Where there is no place for the files nobody is kept from anything.
    ///
    /// # Errors
    /// [`Governed`].
    pub(super) fn claim<'s>(
        runtime: &mut RuntimeDir,
        sources: impl Iterator<Item = &'s SourceInfo>,
    ) -> Result<Self, Governed> {
        let mut realm = Self::default();
        if !runtime.is_known() {
            return Ok(realm);
        }
        let Ok(directory) = runtime.open().map(|directory| directory.join(DIRECTORY)) else {
            return Ok(realm); // whoever needs the directory says what is wrong with it
        };
        // Until all are claimed: who sweeps holds what it looks at, and would be taken for another emperor.
        let _alone = match enter(&directory) {
            Ok(held) => held,
            Err(error) => {
                warn!("[emperor] a second emperor would not be noticed: {}: {error}", directory.display());
                return Ok(realm);
            }
        };
        sweep(&directory);
        realm.directory = directory;
        let mut seen = BTreeSet::new();
        for source in sources {
            let name = name_of(source);
            if !seen.insert(name.clone()) {
                continue;
            }
            match PidFile::claim(&realm.directory.join(name)) {
                Ok(file) => realm.files.push(file),
                Err(PidFileError::Taken { pid, .. }) => {
                    return Err(Governed { source_name: source.argument.clone(), pid });
                }
                Err(error) => info!("[emperor] a second emperor would not be noticed: {error}"),
            }
        }
        Ok(realm)
    }

    /// It is governed no longer.
    pub(super) fn leave(self) {
        if self.files.is_empty() {
            return;
        }
        let _alone = enter(&self.directory); // without it, whoever comes now may not be noticed
        self.files.into_iter().for_each(PidFile::remove);
        // Others may have theirs in it.
        let _ = fs::remove_dir(self.directory);
    }
}

/// The directory, made if it is not there, and held by nobody else until this is dropped.
fn enter(directory: &Path) -> io::Result<Flock<File>> {
    loop {
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let opened = match File::open(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // who was the last has removed it
            opened => opened?,
        };
        let held = Flock::lock(opened, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
        if is_at(&held, directory) {
            return Ok(held);
        }
    }
}

/// What is the same for all paths that lead to a directory, and for all who give the same pattern.
fn name_of(source: &SourceInfo) -> String {
    let found = fs::metadata(&source.argument).or_else(|_| fs::metadata("/"));
    let (device, inode) = found.map(|found| (found.dev(), found.ino())).unwrap_or_default();
    if Path::new(&source.argument).exists() {
        return format!("{device:x}-{inode:x}");
    }
    let mut hasher = DefaultHasher::new();
    (device, inode, &source.cwd, &source.argument).hash(&mut hasher);
    format!("{:x}", hasher.finish())
}

/// Removes files that nobody holds.
fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.take(MOST_STALE).flatten() {
        if let Ok(file) = PidFile::claim(&entry.path()) {
            file.remove();
        }
    }
}
