//! What is left of root's powers.

use std::fmt;
use std::io;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::super::plan::Capabilities;
use crate::sys::caps;

/// One step of giving up powers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Privilege {
    /// Leave exactly these in the bounding set. Where this process holds no capability and none can come back
    /// (`no_new_privs` follows), not being allowed to is no failure.
    Bound {
        /// What may ever be had.
        keep: Capabilities,
        /// Whether a `no_new_privs` follows.
        sealed: bool,
    },
    /// Neither being root nor becoming another user means anything for capabilities any more, irrevocably.
    LockSecureBits,
    /// Hold exactly these, also after an exec.
    Keep(Capabilities),
    /// No exec ever gives more than there is: set-id bits and file capabilities mean nothing.
    NoNewPrivileges,
}

impl Privilege {
    /// Does it.
    ///
    /// # Errors
    /// `EPERM` without CAP_SETPCAP, or for a capability that is not permitted.
    pub(in super::super) fn perform(&self) -> io::Result<()> {
        match self {
            Self::Bound { keep, sealed } => excused(caps::bound(keep.bits()), *sealed),
            // Whoever holds nothing gains nothing by being root of anything, once no_new_privs is set.
            Self::LockSecureBits => excused(caps::lock_secure_bits(), true),
            Self::Keep(these) => keep(*these),
            Self::NoNewPrivileges => Ok(nix::sys::prctl::set_no_new_privs()?),
        }
    }
}

/// Permitted, effective, inheritable and ambient: exactly these.
pub(super) fn keep(these: Capabilities) -> io::Result<()> {
    caps::set_ambient(0)?;
    caps::limit_to(these.bits())?;
    caps::set_ambient(these.bits())
}

fn excused(done: io::Result<()>, excusable: bool) -> io::Result<()> {
    match done {
        Err(error)
            if excusable && error.raw_os_error() == Some(Errno::EPERM as i32) && caps::permitted()? == 0 =>
        {
            Ok(())
        }
        done => done,
    }
}

impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |set: &Capabilities| if set.bits() == 0 { "none".into() } else { set.to_string() };
        match self {
            Self::Bound { keep, .. } => write!(f, "capabilities keep {} in the bounding set", set(keep)),
            Self::LockSecureBits => f.write_str("secure-bits root is nobody special, locked"),
            Self::Keep(these) => write!(f, "capabilities hold {}, also after an exec", set(these)),
            Self::NoNewPrivileges => f.write_str("no-new-privileges"),
        }
    }
}
