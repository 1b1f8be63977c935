//! `env`, `unenv`, `envdir`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::ProcessError;
use crate::sys::alone;

/// One change of the environment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// `env = NAME=VALUE`.
    Set(OsString, OsString),
    /// `unenv = NAME`, `env = NAME`.
    Unset(OsString),
}

impl Change {
    /// Reads the value of an `env` option.
    #[must_use]
    pub fn parse(entry: &OsStr) -> Self {
        let bytes = entry.as_bytes();
        match bytes.iter().position(|byte| *byte == b'=') {
            Some(at) => {
                let part = |bytes| OsStr::from_bytes(bytes).to_owned();
                Self::Set(part(&bytes[..at]), part(&bytes[at + 1..]))
            }
            None => Self::Unset(entry.to_owned()),
        }
    }
}

pub(super) fn change(changes: &[Change]) -> Result<(), ProcessError> {
    for change in changes {
        let (name, result) = match change {
            Change::Set(name, value) => (name, alone::set_variable(name, value)),
            Change::Unset(name) => (name, alone::remove_variable(name)),
        };
        let what = || name.to_string_lossy().into_owned();
        result.map_err(|source| ProcessError::Environment { what: what(), source })?;
    }
    Ok(())
}

/// One variable a file; its name is the file's, its value the first line. An empty file unsets it.
pub(super) fn read_dirs(dirs: &[PathBuf]) -> Result<(), ProcessError> {
    for dir in dirs {
        let failed = |source| ProcessError::Environment { what: dir.display().to_string(), source };
        change(&read_dir(dir).map_err(failed)?)?;
    }
    Ok(())
}

fn read_dir(dir: &Path) -> io::Result<Vec<Change>> {
    let mut changes = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_bytes().starts_with(b".") || !fs::metadata(entry.path())?.is_file() {
            continue;
        }
        let text = fs::read(entry.path())?;
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
        let value = OsString::from_vec(line.to_vec());
        changes.push(if text.is_empty() { Change::Unset(name) } else { Change::Set(name, value) });
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_without_value_unsets_the_variable() {
        assert_eq!(Change::parse(OsStr::new("A=b=c")), Change::Set("A".into(), "b=c".into()));
        assert_eq!(Change::parse(OsStr::new("A")), Change::Unset("A".into()));
    }

    #[test]
    fn a_directory_holds_one_variable_a_file() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("A", "one \nrest"), ("B", ""), (".hidden", "x")] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        fs::create_dir(dir.path().join("sub")).unwrap();
        let mut changes = read_dir(dir.path()).unwrap();
        changes.sort_by_key(|change| format!("{change:?}"));
        assert_eq!(changes, [Change::Set("A".into(), "one".into()), Change::Unset("B".into())]);
    }
}
