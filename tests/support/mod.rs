//! What every test with real processes needs: a directory of its own, an emperor on it (uWSGI's or ours),
//! vassals that write down what they are given and told, and the certainty that nothing is left behind.
//!
//! A [`Bed`] is the directory. Its vassals are the program `witness.c`, which the emperor execs in place of an
//! application server; `usher.c` starts emperors with the attributes a test wants and cleans up, also after a
//! test that was killed. Nothing here waits a fixed time: every wait ends with the event, or fails at a deadline.

#![expect(dead_code, reason = "each test program uses its own part of this module")]

pub(crate) mod bed;
pub(crate) mod emperor;
pub(crate) mod empire;
pub(crate) mod events;
pub(crate) mod given;
pub(crate) mod load;
pub(crate) mod manager;
pub(crate) mod page;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
pub(crate) mod served;
pub(crate) mod systemd_box;
pub(crate) mod tools;

pub(crate) use bed::Bed;

use std::io::Write;
use std::time::{Duration, Instant};

/// How long a wait may take before the test fails: far more than it ever needs, for a machine under load.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Says on one line why a test does nothing here.
pub(crate) fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// Whether this process may change users; says that the test is skipped where it may not.
pub(crate) fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip("needs root");
    }
    root
}

/// Whether to leave out what cannot be passed yet, and says why; `EMPEROR_TEST_LATER=1` tries all the same.
pub(crate) fn later(why: &str) -> bool {
    let later = std::env::var_os("EMPEROR_TEST_LATER").is_none();
    if later {
        skip(&format!("not yet: {why}"));
    }
    later
}

/// Asks again and again until there is an answer; `None` at the deadline.
pub(crate) fn poll<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}
