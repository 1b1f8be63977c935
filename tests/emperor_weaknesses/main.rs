//! The weaknesses of uWSGI's Emperor, by their numbers in the list that this project began with: one test for
//! each, which would show it, and which ours must not show.
//!
//! Where it can be done quickly and safely the same scenario is run on the real one, to prove that it can show.
//! 13.10 is shown with a real application in `apps_behind_nginx.rs`; more about 13.11 is in `emperor_postgres`, about
//! 13.12 and 13.18 in `emperor_on_demand`.

#[path = "../support/mod.rs"]
mod support;

mod from_14;
#[cfg(feature = "postgres")]
mod supplied;
mod until_13;

/// A function that tells whether an emperor shows the weakness: the real one must, ours must not.
macro_rules! weakness {
    ($(#[$doc:meta])* $name:ident, $shows:expr $(, later: $missing:literal)?) => {
        $(#[$doc])*
        mod $name {
            use super::*;
            #[test]
            fn real() {
                if crate::support::emperor::Kind::Real.program().is_some() {
                    assert!($shows(crate::support::emperor::Kind::Real), "the real one does not show it: the scenario is wrong");
                }
            }
            #[test]
            fn ours() {
                $(
                    if crate::support::later($missing) {
                        return;
                    }
                )?
                assert!(!$shows(crate::support::emperor::Kind::Ours), "ours shows it");
            }
        }
    };
}
use weakness;
