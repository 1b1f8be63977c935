//! Sources on real directories, with the kernel's own notifications.
#![expect(clippy::unwrap_used, reason = "what a test cannot set up ends it")]

mod changes;
mod converge;
mod directory;
mod glob;
mod hostile;
mod limits;
mod links;
mod names;
mod world;
