//! What a launcher does to itself so that the vassal has a place of its own: one file, and one family of
//! operations, each.
//!
//! Caller: the launcher only, with a single thread.

pub(super) mod become_user;
pub(super) mod capabilities;
pub(super) mod cgroup;
pub(super) mod identity;
pub(super) mod landlock;
pub(super) mod limits;
pub(super) mod namespaces;
mod path;
pub(super) mod root;
pub mod scene;
pub(super) mod seccomp;
pub(super) mod view;
