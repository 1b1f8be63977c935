//! Which vassals are stopped by hand, in a file: they stay so under the next emperor.
//!
//! An ini file in the runtime directory, one line a vassal: the escaped name, and the version of its file. It is
//! replaced as a whole or not at all.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ini::{EscapePolicy, Ini, LineSeparator, ParseOption, WriteOption};

use super::{escape, unescape};
use crate::emperor::source::{Identity, VassalName};

/// The section.
const SECTION: &str = "stopped";
/// Most vassals that are kept.
const MOST: usize = 100_000;
/// The longest file that is read.
const MOST_BYTES: u64 = 64 << 20;

/// The file.
#[derive(Debug)]
pub struct StoppedFile(PathBuf);

impl StoppedFile {
    /// That of the emperor with this control socket, if it is not the usual one: two may share a directory.
    #[must_use]
    pub fn of(directory: &Path, socket: Option<&Path>) -> Self {
        Self(directory.join(match socket {
            None => "stopped.ini".into(),
            Some(socket) => format!("stopped.{:016x}.ini", fnv(socket.as_os_str().as_encoded_bytes())),
        }))
    }

    /// What was written last. Lines that mean nothing are left out.
    ///
    /// # Errors
    /// The file cannot be read; that it is not there is none.
    pub fn read(&self) -> io::Result<Vec<(VassalName, Identity)>> {
        let length = match fs::metadata(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            found => found?.len(),
        };
        if length > MOST_BYTES {
            return Err(io::Error::other("it is too long"));
        }
        let literally = ParseOption { enabled_quote: false, enabled_escape: false, ..ParseOption::default() };
        let file = Ini::load_from_file_opt(&self.0, literally).map_err(io::Error::other)?;
        let lines = file.section(Some(SECTION)).into_iter().flat_map(|section| section.iter());
        Ok(lines
            .filter_map(|(key, value)| Some((VassalName::new(&unescape(key)?), version(value)?)))
            .collect())
    }

    /// Replaces what was written.
    ///
    /// # Errors
    /// It cannot be written; what was there before still is.
    pub fn write<'a>(&self, stopped: impl Iterator<Item = (&'a VassalName, &'a Identity)>) -> io::Result<()> {
        let mut file = Ini::new();
        let mut any = false;
        for (name, identity) in stopped.take(MOST) {
            let Identity { mtime_ns, ctime_ns, device, inode, size, uid, gid } = identity;
            let value = format!("{mtime_ns} {ctime_ns} {device} {inode} {size} {uid} {gid}");
            file.with_section(Some(SECTION)).set(escape(name.as_bytes()), value);
            any = true;
        }
        if !any {
            return match fs::remove_file(&self.0) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let policy = WriteOption {
            escape_policy: EscapePolicy::Nothing,
            line_separator: LineSeparator::CR,
            kv_separator: " = ",
        };
        let mut text = Vec::from("# Vassals that were stopped by hand, and the versions of their files.\n");
        file.write_to_opt(&mut text, policy)?;
        let part = self.0.with_extension("ini.part");
        let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        out.set_permissions(Permissions::from_mode(0o600))?;
        out.write_all(&text)?;
        fs::rename(&part, &self.0)
    }
}

fn version(text: &str) -> Option<Identity> {
    let mut words = text.split(' ');
    let mut number = || words.next()?.parse::<i128>().ok();
    let identity = Identity {
        mtime_ns: number()?.try_into().ok()?,
        ctime_ns: number()?.try_into().ok()?,
        device: number()?.try_into().ok()?,
        inode: number()?.try_into().ok()?,
        size: number()?.try_into().ok()?,
        uid: number()?.try_into().ok()?,
        gid: number()?.try_into().ok()?,
    };
    words.next().is_none().then_some(identity)
}

/// A number for a path that is the same in each version of this program. Source: FNV-1a, 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn version_of(number: i64) -> Identity {
        let unsigned = number.unsigned_abs();
        Identity {
            mtime_ns: number,
            ctime_ns: -number,
            device: u64::MAX,
            inode: unsigned,
            size: unsigned,
            uid: u32::MAX,
            gid: 7,
        }
    }

    #[test]
    fn names_of_any_bytes_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = StoppedFile::of(dir.path(), None);
        assert!(file.read().unwrap().is_empty());
        let all: Vec<u8> = (0..=255).collect();
        let names: [&[u8]; 6] =
            [b"shop.ini", &all, b"[stopped]", b"a = b\\\n", b";#:\"'", "l\u{e4}den \u{2028}.ini".as_bytes()];
        let wanted: Vec<_> =
            names.iter().zip(1..).map(|(name, n)| (VassalName::new(name), version_of(n))).collect();
        file.write(wanted.iter().map(|(name, identity)| (name, identity))).unwrap();
        assert_eq!(file.read().unwrap(), wanted);
        assert_eq!(fs::metadata(&file.0).unwrap().mode() & 0o777, 0o600);
        file.write(std::iter::empty()).unwrap();
        assert!(!file.0.exists());
        file.write(std::iter::empty()).unwrap();
    }

    #[test]
    fn lines_that_mean_nothing_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = StoppedFile::of(dir.path(), Some(Path::new("/run/a.sock")));
        let text = "x = 1\n[other]\na = 1 1 1 1 1 1 1\n[stopped]\nb = 1 2 3\nc = 1 2 3 4 5 6 7 8\nd = x\n%zz = 1 1 1 1 \
                    1 1 1\ne = 1 2 3 4 5 6 99999999999\ng = 1 2 3 4 5 6 7\n";
        fs::write(&file.0, text).unwrap();
        let names: Vec<_> = file.read().unwrap().into_iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["g"]);
        assert_ne!(file.0, StoppedFile::of(dir.path(), Some(Path::new("/run/b.sock"))).0);
        assert_ne!(file.0, StoppedFile::of(dir.path(), None).0);
    }

    #[test]
    fn what_cannot_be_written_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = StoppedFile::of(dir.path(), None);
        let entry = (VassalName::new(b"a"), version_of(1));
        file.write(std::iter::once((&entry.0, &entry.1))).unwrap();
        fs::create_dir(file.0.with_extension("ini.part")).unwrap();
        assert!(file.write(std::iter::once((&VassalName::new(b"b"), &entry.1))).is_err());
        assert_eq!(file.read().unwrap(), [entry]);
    }
}
