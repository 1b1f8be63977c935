//! Scenarios that run against uWSGI's Emperor (2.0.21) and against ours, and compare what a vassal was given
//! and told.
//!
//! A scenario is a function from the kind of emperor to an observation; `parity!` makes two tests of it, `real`
//! and `ours`, which must both observe what is written beside it. So the expectation is known to be right
//! wherever uWSGI is installed, and ours is held to it everywhere. Where ours differs on purpose, both
//! observations are written down, with the reason; `docs/migration.md` lists them for people.
//!
//! Real and ours run the same command line, but for the program's name.

#[path = "../support/mod.rs"]
mod support;

mod argv;
mod command;
mod given;
mod hooks;
mod life;
mod lines;
mod sources;
mod stats;
mod told;
mod tyrant;

/// Two tests of one scenario: the first observation is the real emperor's, the second, if there is one, ours.
macro_rules! parity {
    ($(#[$doc:meta])* $name:ident, $observe:expr, $expected:expr) => {
        parity!($(#[$doc])* $name, $observe, real: $expected, ours: $expected);
    };
    ($(#[$doc:meta])* $name:ident, $observe:expr, real: $real:expr, ours: $ours:expr $(, because: $why:literal)?) => {
        $(#[$doc])*
        mod $name {
            use super::*;
            #[test]
            fn real() {
                if crate::support::Kind::Real.program().is_some() {
                    assert_eq!($observe(crate::support::Kind::Real), $real);
                }
            }
            #[test]
            fn ours() {
                if crate::OURS {
                    assert_eq!($observe(crate::support::Kind::Ours), $ours);
                }
            }
        }
    };
}
use parity;

/// Whether ours can run vassals.
const OURS: bool = false;
