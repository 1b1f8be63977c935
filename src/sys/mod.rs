//! Every `unsafe` block and every raw system call of the program. Imports nothing of ours.

pub mod alone;
pub mod calls;
pub mod caps;
pub mod cgroup;
pub mod clock;
pub mod datagrams;
pub mod fds;
pub mod fs_identity;
pub mod loopback;
pub mod memory;
pub mod mounts;
pub mod peer;
pub mod priority;
pub mod process;
pub mod queue;
pub mod sock_diag;
pub mod spawn;
pub mod terminal;
pub mod title;
pub mod wait;
