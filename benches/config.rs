//! What reading a configuration costs: `cargo bench --bench config`.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use emperor::config::check::check;
use emperor::config::{Limits, Loader, Machine, Mode};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

fn main() {
    let desk = tempfile::tempdir().expect("a directory");
    let world = Machine::new().in_directory(desk.path());
    let loader = Loader::new(&world, Limits::default());
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    for (name, text, most) in [
        ("usual.ini", usual(), Duration::from_micros(100)),
        ("usual.yml", yaml(30), Duration::from_micros(100)),
        ("usual.json", json(30), Duration::from_micros(100)),
        ("usual.xml", xml(30), Duration::from_micros(100)),
        ("long.ini", ini(20_000), Duration::from_millis(50)),
        ("long.yml", yaml(20_000), Duration::from_millis(50)),
        ("long.json", json(20_000), Duration::from_millis(50)),
        ("long.xml", xml(20_000), Duration::from_millis(50)),
    ] {
        std::fs::write(desk.path().join(name), text).expect("a file");
        let option = format!("--{}", name.rsplit('.').next().unwrap_or_default()).replace("yml", "yaml");
        let arguments = [OsString::from(option), OsString::from(name)];
        let best = best_of(|| {
            let config = loader.load(&arguments, &environment, Mode::Uwsgi);
            assert!(config.is_ok_and(|config| config.pairs().len() > 20), "{name}");
        });
        let checked =
            best_of(|| assert!(check(&loader, &arguments, &environment, Mode::Uwsgi).fatal().is_none()));
        let verdict = if best <= most { "" } else { "  <- above its budget" };
        println!(
            "{name:10}  read {best:>10.1?}  of {most:>6.0?}   read and checked {checked:>10.1?}{verdict}"
        );
    }
}

/// The best of as many runs as fit into a second.
fn best_of(mut run: impl FnMut()) -> Duration {
    let started = Instant::now();
    let mut best = Duration::MAX;
    while started.elapsed() < Duration::from_secs(1) {
        let before = Instant::now();
        run();
        best = best.min(before.elapsed());
    }
    best
}

/// Thirty lines as people write them.
fn usual() -> String {
    let mut text = String::from("[uwsgi]\n; a shop\nname = shop\nbase = /srv/%(name)\nsocket = %d%n.sock\n");
    text.push_str(
        "chmod-socket = 660\nmaster = true\nprocesses = 4\nthreads = 2\nharakiri = 30\nvacuum = true\n",
    );
    for n in 0..19 {
        let _ = writeln!(text, "env = VARIABLE_{n}=%(base)/$(HOME)/{n}");
    }
    text
}

fn ini(lines: usize) -> String {
    let mut text = String::from("[uwsgi]\nbase = /srv\n");
    for n in 0..lines {
        let _ = writeln!(text, "key-{n} = %(base)/value/%n/{n}");
    }
    text
}

fn yaml(lines: usize) -> String {
    let mut text = String::from("uwsgi:\n  base: /srv\n");
    for n in 0..lines {
        let _ = writeln!(text, "  key-{n}: x%(base)/value/%n/{n}");
    }
    text
}

fn json(lines: usize) -> String {
    let mut text = String::from("{\"uwsgi\": {\"base\": \"/srv\"");
    for n in 0..lines {
        let _ = write!(text, ",\n\"key-{n}\": \"%(base)/value/%n/{n}\"");
    }
    text + "}}\n"
}

fn xml(lines: usize) -> String {
    let mut text = String::from("<uwsgi><base>/srv</base>");
    for n in 0..lines {
        let _ = write!(text, "\n<key-{n}>%(base)/value/%n/{n}</key-{n}>");
    }
    text + "</uwsgi>\n"
}
