//! `limit-as`, `limit-nproc`, `max-fd`, `prio`.

use nix::sys::resource::{Resource, setrlimit};
use tracing::warn;

use crate::sys::priority;

/// Limits of this process, which vassals inherit.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// `limit-as`: bytes of address space.
    pub address_space_bytes: Option<u64>,
    /// `limit-nproc`: processes of the user.
    pub processes: Option<u64>,
    /// `max-fd`: descriptors.
    pub descriptors: Option<u64>,
    /// `prio`: the nice value, −20 to 19.
    pub priority: Option<i32>,
}

impl Limits {
    /// What cannot be set is only logged. Source: uWSGI.
    pub(super) fn set(&self) {
        let limits = [
            (Resource::RLIMIT_NPROC, self.processes, "limit-nproc"),
            (Resource::RLIMIT_AS, self.address_space_bytes, "limit-as"),
            (Resource::RLIMIT_NOFILE, self.descriptors, "max-fd"),
        ];
        for (resource, limit, option) in limits {
            if let Some(limit) = limit
                && let Err(errno) = setrlimit(resource, limit, limit)
            {
                warn!("cannot set {option} to {limit}: {}", errno.desc());
            }
        }
        if let Some(nice) = self.priority
            && let Err(error) = priority::set(nice)
        {
            warn!("cannot set prio to {nice}: {error}");
        }
    }
}
