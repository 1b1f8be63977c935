//! The built-in engine as a process: what it serves, and how it behaves as a vassal.

mod life;
mod parity;
mod place;
mod start;
