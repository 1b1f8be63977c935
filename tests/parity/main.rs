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
mod demand;
mod given;
mod hooks;
mod isolation;
mod life;
mod lines;
mod patched;
mod sources;
mod stats;
#[cfg(feature = "postgres")]
mod supplied;
mod told;
mod tyrant;

/// Two tests of one scenario: the first observation is the real emperor's, the second, if there is one, ours.
/// `later` says what is missing where ours cannot be held to it yet; `EMPEROR_TEST_LATER=1` tries all the same.
macro_rules! parity {
    ($(#[$doc:meta])* $name:ident, $observe:expr, real: $real:expr, ours: $ours:expr
     $(, because: $why:literal)? $(, later: $missing:literal)?) => {
        $(#[$doc])*
        mod $name {
            use super::*;
            #[test]
            fn real() {
                if crate::support::emperor::Kind::Real.program().is_some() {
                    assert_eq!($observe(crate::support::emperor::Kind::Real), $real);
                }
            }
            #[test]
            fn ours() {
                $(
                    if crate::support::later($missing) {
                        return;
                    }
                )?
                assert_eq!($observe(crate::support::emperor::Kind::Ours), $ours);
            }
        }
    };
    ($(#[$doc:meta])* $name:ident, $observe:expr, $expected:expr $(, later: $missing:literal)?) => {
        parity!($(#[$doc])* $name, $observe, real: $expected, ours: $expected $(, later: $missing)?);
    };
}
use parity;
