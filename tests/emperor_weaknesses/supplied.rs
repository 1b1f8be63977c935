//! Numbers 13.11 and 13.27: vassals whose configuration comes from a database, through the config pipe.

use crate::support::emperor::{Builder, Emperor, Kind};
use crate::support::postgres::{Postgres, has_plugin};
use crate::support::{self, Bed};
use crate::weakness;
use std::fs;

/// An emperor on a database, with the real uWSGI as its vassals; `None` where something is missing.
fn scene(kind: Kind, sql: &str) -> Option<(Postgres, Bed, Builder)> {
    if Kind::Real.program().is_none() || (kind == Kind::Real && !has_plugin()) {
        return None;
    }
    let postgres = Postgres::announcing()?;
    let bed = Bed::new();
    let emperor = Builder::bare(&bed, kind);
    let emperor = if kind == Kind::Real { emperor.opt("plugin", "emperor_pg") } else { emperor };
    let emperor = emperor.on(postgres.source(sql)).quick();
    Some((postgres, bed, emperor))
}

/// The query that uWSGI's documentation begins with.
const SHORT: &str = "SELECT name, config, EXTRACT(EPOCH FROM ts) FROM vassals";

/// A configuration that writes a word into a file each time it is read, with so many bytes before it.
fn says(bed: &Bed, word: &str, filler: usize) -> String {
    let file = bed.path("said");
    let filler = "x".repeat(filler);
    format!(
        "[uwsgi]\nmaster = true\nhttp-socket = 127.0.0.1:0\n; {filler}\nexec-asap = echo {word} >> {}\n",
        file.display()
    )
}

fn said(bed: &Bed) -> Vec<String> {
    let text = fs::read_to_string(bed.path("said")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn until_said(bed: &Bed, emperor: &Emperor, count: usize) -> Vec<String> {
    let found = support::poll(support::PATIENCE, || Some(said(bed)).filter(|said| said.len() >= count));
    found.unwrap_or_else(|| panic!("only {:?}\n{}", said(bed), emperor.log()))
}

weakness!(
    /// A text is sent when the vassal is told to reload and again when it asks: the second copy is read after the next
    /// reload, and so each reload but the first brings the version before.
    weakness_13_11_each_reload_reads_the_former_text,
    |kind| {
        let Some((postgres, bed, emperor)) = scene(kind, SHORT) else { return kind == Kind::Real };
        postgres.vassal("a.ini", &says(&bed, "one", 0));
        let emperor = emperor.start();
        for (count, word) in [(2, "two"), (3, "three")] {
            emperor.wait_log("vassal a.ini is ready to accept requests");
            until_said(&bed, &emperor, count - 1);
            let ready = || (emperor.lines("ready to accept").len() >= count - 1).then_some(());
            support::poll(support::PATIENCE, ready).expect("it comes back");
            postgres.vassal("a.ini", &says(&bed, word, 0));
            until_said(&bed, &emperor, count);
        }
        let said = said(&bed);
        emperor.stop(&bed);
        said != ["one", "two", "three"]
    }
);

weakness!(
    /// The length has two bytes: of a longer text only a piece comes, and nobody is told.
    weakness_13_11_a_long_text_is_cut_silently,
    |kind| {
        let Some((postgres, bed, emperor)) = scene(kind, SHORT) else { return kind == Kind::Real };
        postgres.vassal("b.ini", &says(&bed, "long", 80_000));
        postgres.vassal("c.ini", &says(&bed, "short", 0));
        let emperor = emperor.start();
        until_said(&bed, &emperor, 1);
        let told = || match kind {
            Kind::Real => emperor.lines("from emperor://b.ini").first().cloned(),
            Kind::Ours => emperor.lines("65535").first().filter(|line| line.contains("b.ini")).cloned(),
        };
        support::poll(support::PATIENCE, told).unwrap_or_else(|| panic!("{}", emperor.log()));
        let silent = emperor.lines("65535").is_empty();
        emperor.stop(&bed);
        assert_eq!(said(&bed), ["short"]);
        silent
    }
);

weakness!(
    /// A row without an on-demand socket, in a table that has a column for them, is a vassal that never starts.
    weakness_13_27_an_empty_socket_column_keeps_a_vassal_from_starting,
    |kind| {
        let all = "SELECT name, config, EXTRACT(EPOCH FROM ts), uid, gid, socket FROM vassals";
        let Some((postgres, bed, emperor)) = scene(kind, all) else { return kind == Kind::Real };
        for (name, socket) in [("null.ini", "NULL"), ("empty.ini", "''")] {
            postgres.vassal(name, &says(&bed, name, 0));
            postgres.sql(&format!("UPDATE vassals SET socket = {socket} WHERE name = '{name}'"));
        }
        let emperor = emperor.start();
        let fails = || {
            let both = said(&bed).len() == 2;
            // Each is tried, and fails to bind nothing.
            (both || emperor.lines("bind()").len() >= 2).then_some(!both)
        };
        let fails = support::poll(support::PATIENCE, fails).unwrap_or_else(|| panic!("{}", emperor.log()));
        emperor.stop(&bed);
        fails
    }
);
