//! Vassals from a database: what they are given, and when they are told.

use crate::parity;
use crate::support::emperor::{Builder, Emperor, Kind};
use crate::support::postgres::{Postgres, has_plugin};
use crate::support::{self, Bed, poll};
use std::time::Duration;

const SHORT: &str = "SELECT name, config, EXTRACT(EPOCH FROM ts) FROM vassals";
const OWNED: &str = "SELECT name, config, EXTRACT(EPOCH FROM ts), uid, gid FROM vassals";

/// An emperor on a database, whose vassals are witnesses; `None` where something is missing.
fn scene(kind: Kind, sql: &str) -> Option<(Postgres, Bed, Builder)> {
    if kind == Kind::Real && !has_plugin() {
        return None;
    }
    let postgres = Postgres::announcing()?;
    let bed = Bed::new();
    let emperor = Builder::bare(&bed, kind);
    let emperor = if kind == Kind::Real { emperor.opt("plugin", "emperor_pg") } else { emperor };
    let emperor = emperor.on(postgres.source(sql)).quick().witnessed().stats();
    Some((postgres, bed, emperor))
}

/// What the scenario shows, or what it should, where it cannot be played.
fn observed<T: Clone>(
    kind: Kind,
    sql: &str,
    otherwise: &T,
    scenario: impl FnOnce(&Postgres, &Bed, Builder) -> (T, Emperor),
) -> T {
    let Some((postgres, bed, emperor)) = scene(kind, sql) else { return otherwise.clone() };
    let (seen, emperor) = scenario(&postgres, &bed, emperor);
    emperor.stop(&bed);
    seen
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

parity!(
    /// Source: spec/emperor.md 4.1, 4.2, 4.3.
    a_row_is_given_an_address_and_a_pipe_and_starts_where_the_emperor_did,
    |kind| {
        let expected = strings(&["@/witness --ini emperor://a.ini", "@", "a pipe"]);
        observed(kind, SHORT, &expected, |postgres, bed, emperor| {
            postgres.vassal("a.ini", "[uwsgi]\n");
            let emperor = emperor.start();
            let given = bed.given("a.ini", 1);
            let pipe = given.fd_in("UWSGI_EMPEROR_FD_CONFIG").and_then(|number| given.fd(number));
            let pipe = pipe.filter(|fd| fd.target.starts_with("socket:") && !fd.cloexec);
            let argv: Vec<_> = given.argv.iter().map(|a| bed.anonymous(a)).collect();
            let cwd = bed.anonymous(given.cwd.to_str().expect("a text"));
            (strings(&[&argv.join(" "), &cwd, if pipe.is_some() { "a pipe" } else { "none" }]), emperor)
        })
    },
    strings(&["@/witness --ini emperor://a.ini", "@", "a pipe"])
);

parity!(
    /// Magic does not change the address.
    the_address_wins_over_magic_exec,
    |kind| {
        let expected = strings(&["@/witness", "--yaml", "emperor://a.yml"]);
        observed(kind, SHORT, &expected, |postgres, bed, emperor| {
            postgres.vassal("a.yml", "uwsgi:\n");
            bed.shell("a.yml", "true");
            let emperor = emperor.flag("emperor-magic-exec").start();
            let argv = bed.given("a.yml", 1).argv;
            (argv.iter().map(|a| bed.anonymous(a)).collect(), emperor)
        })
    },
    strings(&["@/witness", "--yaml", "emperor://a.yml"])
);

parity!(
    /// Source: spec/emperor.md 3.3.
    a_younger_row_is_a_reload_and_a_row_that_goes_is_the_end,
    |kind| {
        observed(kind, SHORT, &strings(&["1", "0"]), |postgres, bed, emperor| {
            postgres.vassal("a.ini", "[uwsgi]\n");
            let emperor = emperor.start();
            bed.until("loyal", |log| log.said("a.ini", 17) == 1);
            postgres.vassal("a.ini", "[uwsgi]\nprocesses = 2\n");
            bed.until("told", |log| log.heard("a.ini") == ["1"]);
            postgres.sql("DELETE FROM vassals");
            bed.until("stopped", |log| log.heard("a.ini").len() == 2);
            (bed.log().heard("a.ini"), emperor)
        })
    },
    strings(&["1", "0"])
);

parity!(
    /// Another text under the same date: the real one looks at the date only.
    another_text_with_the_same_date_is_a_change,
    |kind| {
        observed(kind, SHORT, &(kind == Kind::Ours), |postgres, bed, emperor| {
            postgres.vassal("a.ini", "[uwsgi]\n");
            postgres.vassal("b.ini", "[uwsgi]\n");
            let emperor = emperor.start();
            bed.until("loyal", |log| log.said("a.ini", 17) == 1 && log.said("b.ini", 17) == 1);
            postgres.sql("UPDATE vassals SET config = '[uwsgi]\nprocesses = 2' WHERE name = 'a.ini'");
            // One look later.
            postgres.vassal("b.ini", "[uwsgi]\nprocesses = 2\n");
            bed.until("the other is told", |log| log.heard("b.ini") == ["1"]);
            // Two witnesses write their logs in any order.
            let told = poll(Duration::from_secs(1), || (bed.log().heard("a.ini") == ["1"]).then_some(()));
            (told.is_some(), emperor)
        })
    },
    real: false,
    ours: true,
    because: "an edit is never lost (13.6)"
);

parity!(
    /// Source: spec/emperor.md 3.3: whoever says nothing of his ids is passed over.
    root_a_tenant_is_who_his_row_says,
    |kind| {
        let expected = strings(&["4242 4242 4242 4242", "4343 4343 4343 4343"]);
        if !support::root() {
            return expected;
        }
        observed(kind, OWNED, &expected, |postgres, bed, emperor| {
            postgres.vassal("a.ini", "[uwsgi]\n");
            postgres.sql("UPDATE vassals SET uid = 4242, gid = 4343");
            let emperor = emperor.flag("emperor-tyrant").start();
            let given = bed.given("a.ini", 1);
            (vec![given.field("Uid"), given.field("Gid")], emperor)
        })
    },
    strings(&["4242 4242 4242 4242", "4343 4343 4343 4343"])
);

parity!(
    /// Each name is judged as a file's would be.
    names_without_a_known_end_are_no_vassals,
    |kind| {
        observed(kind, SHORT, &strings(&["a.ini"]), |postgres, bed, emperor| {
            for name in ["x.txt", "noend", "b.INI", "a.ini"] {
                postgres.vassal(name, "[uwsgi]\n");
            }
            let emperor = emperor.start();
            bed.started("a.ini", 1);
            let stats = emperor.stats();
            let ids = stats["vassals"].as_array().expect("vassals").iter();
            (ids.filter_map(|v| v["id"].as_str().map(str::to_owned)).collect(), emperor)
        })
    },
    strings(&["a.ini"])
);

parity!(
    /// The database goes away: nobody notices.
    a_database_that_goes_away_stops_nobody,
    |kind| {
        let Some((mut postgres, bed, emperor)) = scene(kind, SHORT) else { return 0 };
        postgres.vassal("a.ini", "[uwsgi]\n");
        let emperor = emperor.start();
        bed.until("loyal", |log| log.said("a.ini", 17) == 1);
        postgres.stop();
        let line = if kind == Kind::Real { "refused" } else { "no connection" };
        emperor.wait_log(line);
        let heard = bed.log().heard("a.ini").len();
        emperor.stop(&bed);
        heard
    },
    0
);
