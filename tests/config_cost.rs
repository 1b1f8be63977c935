//! Reading must cost as much as there is to read, not the square of it.

use emperor::config::{Limits, Loader, Machine, Mode};
use nix::time::{ClockId, clock_gettime};
use std::ffi::OsString;
use std::time::Duration;

/// The best of three readings of a text, in processor time: other load does not count.
fn cost(name: &str, text: &str) -> Duration {
    let desk = tempfile::tempdir().expect("a directory");
    std::fs::write(desk.path().join(name), text).expect("a file");
    let world = Machine::new().in_directory(desk.path());
    let limits = Limits { expansions: 1 << 20, ..Limits::default() };
    (0..3)
        .map(|_| {
            let started = used();
            let config = Loader::new(&world, limits).load(&[OsString::from(name)], &[], Mode::Uwsgi);
            assert!(config.is_ok(), "{:?}", config.err());
            used() - started
        })
        .min()
        .unwrap_or_default()
}

/// Processor time of this thread so far.
fn used() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the clock").into()
}

#[test]
fn eight_times_the_text_costs_about_eight_times_as_much() {
    let ini = |lines: usize, line: &dyn Fn(usize) -> String| {
        (0..lines).fold("[uwsgi]\na = 1\n".to_owned(), |t, n| t + &line(n))
    };
    let small = 2_000;
    for (what, name, make) in [
        (
            "placeholders",
            "a.ini",
            &(|n| ini(n, &|n| format!("k{n} = x%(a)%n\n"))) as &dyn Fn(usize) -> String,
        ),
        ("references to the line above", "a.ini", &|n| {
            ini(n, &|n| format!("k{n} = 1\nk{} = %(k{n})\n", n + 1))
        }),
        ("one long value", "a.ini", &|n| format!("[uwsgi]\na = 1\nb = {}\n", "x%(a)".repeat(n))),
        ("swallowed newlines", "a.ini", &|n| ini(n, &|n| format!("k{n} = %\nb\n"))),
        ("sections", "a.ini", &|n| ini(n, &|n| format!("[s{n}]\nk = 1\n[uwsgi]\nk = 1\n"))),
        ("a loop", "a.ini", &|n| format!("[uwsgi]\nfor-times = {n}\nx = %(_)\nendfor =\n")),
        ("yaml", "a.yml", &|n| {
            (0..n).fold("uwsgi:\n".to_owned(), |t, n| t + &format!("  k{n}: [1, \"x\"]\n"))
        }),
        ("json", "a.json", &|n| format!("{{\"uwsgi\":{{\"k\":[{}1]}}}}", "\"x\",\n".repeat(n))),
        ("xml", "a.xml", &|n| format!("<uwsgi>{}</uwsgi>", "<k>x &amp; y</k>\n".repeat(n))),
    ] {
        let (few, many) = (cost(name, &make(small)), cost(name, &make(small * 8)));
        assert!(many < few * 30 + Duration::from_millis(20), "{what}: {few:?} and {many:?}");
    }
}
