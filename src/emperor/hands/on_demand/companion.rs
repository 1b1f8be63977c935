//! The file beside a vassal's that names its socket (`emperor-on-demand-extension`).

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::{MOST, Owner};
use crate::emperor::source::Identity;
use crate::sys::fs_identity::acting_for;

/// How long a new vassal's file waits for the one beside it, which is often copied after it. uWSGI's Emperor, which
/// looks every three seconds, mostly finds both.
const PATIENCE: Duration = Duration::from_millis(200);

/// How much longer a missing file may still be on its way.
pub(super) fn may_come(vassal: &Identity) -> Option<Duration> {
    let since = Duration::from_nanos(u64::try_from(vassal.ctime_ns).ok()?);
    let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.checked_sub(since)?;
    PATIENCE.checked_sub(age).filter(|rest| !rest.is_zero())
}

/// The first line of the file; empty if there is none. A fifo or a device does not hold us up.
///
/// For a tenant it is opened with his rights, and must be his own or root's, as must be a link to it: beside his
/// vassal's file there may be room for others' files.
pub(super) fn first_line_of(path: &Path, tenant: Option<Owner>) -> io::Result<Vec<u8>> {
    let read = || {
        if let Some(tenant) = tenant {
            admissible(&fs::symlink_metadata(path)?, tenant)?;
        }
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = File::options().read(true).custom_flags(flags.bits()).open(path)?;
        let there = file.metadata()?;
        if let Some(tenant) = tenant {
            admissible(&there, tenant)?;
        }
        if !there.is_file() {
            return Err(io::Error::other("it is no file; the file that names a socket is meant"));
        }
        let mut bytes = Vec::new();
        file.take(MOST as u64).read_to_end(&mut bytes)?;
        Ok(first_line(&bytes).to_vec())
    };
    match acting_for(tenant, read) {
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        line => line,
    }
}

/// No file has that name, or none can have it.
fn is_absent(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG))
}

fn admissible(file: &Metadata, (uid, _): Owner) -> io::Result<()> {
    match file.uid() {
        0 => Ok(()),
        owner if owner == uid => Ok(()),
        owner => {
            Err(io::Error::other(format!("it belongs to uid {owner}, neither to root nor to uid {uid}")))
        }
    }
}

/// Up to the first byte below the blank, as uWSGI cuts it.
pub(super) fn first_line(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte < b' ').unwrap_or(bytes.len());
    &bytes[..end]
}
