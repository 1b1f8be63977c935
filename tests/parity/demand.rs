//! Vassals that start on demand, and reinforcements.

use crate::parity;
use crate::support::emperor::{Builder, Emperor, Kind};
use crate::support::{self, Bed};
use std::io::Read;
use std::os::unix::net::UnixStream;

/// `a.ini`, which starts when somebody connects to `a.socket` in the bed.
fn sleeping(kind: Kind, options: impl Fn(Builder) -> Builder) -> (Bed, Emperor) {
    let bed = Bed::new();
    bed.vassal("a.ini");
    bed.set_age("v/a.ini", 3600);
    let directory = |e: Builder| e.opt("emperor-on-demand-directory", bed.root());
    let emperor = options(directory(Builder::new(&bed, kind).stats())).start();
    emperor.wait_stats("waiting", |_| emperor.stats_of("a.ini").filter(|v| v["pid"] == -1));
    (bed, emperor)
}

fn connect(bed: &Bed) -> UnixStream {
    let client = support::poll(support::PATIENCE, || UnixStream::connect(bed.path("a.socket")).ok());
    let client = client.unwrap_or_else(|| panic!("nobody listens\n{}", bed.report()));
    client.set_read_timeout(Some(support::PATIENCE)).expect("a timeout");
    client
}

/// What the vassal answers; empty if the connection is lost.
fn answer(mut client: UnixStream) -> String {
    let mut text = String::new();
    if client.read_to_string(&mut text).is_ok() { text } else { String::new() }
}

parity!(
    /// Source: spec/emperor.md 11.
    row_of_a_sleeping_vassal,
    |kind| {
        let (bed, emperor) = sleeping(kind, |e| e);
        let row = emperor.stats_of("a.ini").expect("a row");
        let keys = ["pid", "on_demand", "loyal", "ready", "accepting", "cursed", "respawns"];
        let line = keys.iter().map(|k| format!("{k}={} ", row[k])).collect::<String>();
        let starts = bed.log().execs("a.ini").len();
        emperor.stop(&bed);
        (bed.anonymous(line.trim_end()), starts)
    },
    (r#"pid=-1 on_demand="@/a.socket" loyal=0 ready=0 accepting=0 cursed=0 respawns=0"#.to_owned(), 0)
);

parity!(
    the_first_connection_starts_it_and_is_answered,
    |kind| {
        let (bed, emperor) = sleeping(kind, |e| e);
        let text = answer(connect(&bed));
        let given = bed.given("a.ini", 1);
        let socket = given.fd(0).expect("descriptor 0").clone();
        let others: Vec<_> = given
            .fds
            .iter()
            .map(|f| f.number)
            .filter(|n| Some(*n) != given.fd_in("UWSGI_EMPEROR_FD"))
            .collect();
        let again = answer(connect(&bed));
        let starts = bed.log().execs("a.ini").len();
        emperor.stop(&bed);
        // 04000 is O_NONBLOCK.
        (
            text + &again,
            given.argv[1..].join(" "),
            (socket.listening, socket.cloexec, socket.flags & 0o4000),
            others,
            starts,
        )
    },
    ("ok\nok\n".to_owned(), "--ini a.ini".to_owned(), (true, false, 0), vec![0, 1, 2], 1)
);

parity!(
    the_socket_is_open_to_everybody,
    |kind| {
        let (bed, emperor) = sleeping(kind, |e| e.usher("umask=077"));
        let mode = std::fs::metadata(bed.path("a.socket")).expect("the socket").permissions();
        emperor.stop(&bed);
        format!("{:o}", std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777)
    },
    "666"
);

parity!(
    /// Byte 22 of an on-demand vassal: stopped, and started again by the next connection.
    it_sleeps_again_when_it_is_idle,
    |kind| {
        let (bed, emperor) = sleeping(kind, |e| e);
        bed.script("a.ini", "say=1,5,17 after=100 say=22");
        let first = answer(connect(&bed));
        bed.until("its end", |log| !log.of("a.ini", "exit").is_empty());
        emperor.wait_stats("waiting", |_| emperor.stats_of("a.ini").filter(|v| v["pid"] == -1));
        let heard = bed.log().heard("a.ini").join(" ");
        let second = answer(connect(&bed));
        let starts = bed.log().execs("a.ini").len();
        emperor.stop(&bed);
        (first + &second, heard, starts)
    },
    ("ok\nok\n".to_owned(), "0".to_owned(), 2)
);

parity!(
    a_change_does_not_wake_it,
    |kind| {
        let (bed, emperor) = sleeping(kind, |e| e);
        bed.set_age("v/a.ini", 1800);
        emperor.nudge();
        emperor.wait_log("updated configuration for \"on demand\" instance a.ini");
        let row = emperor.stats_of("a.ini").expect("a row");
        emperor.stop(&bed);
        (row["pid"].clone(), bed.log().execs("a.ini").len())
    },
    (serde_json::json!(-1), 0)
);

parity!(
    a_removed_file_closes_its_socket,
    |kind| {
        let (bed, emperor) = sleeping(kind, |e| e);
        bed.remove("v/a.ini");
        emperor.nudge();
        emperor.wait_stats("gone", |s| (s["vassals"] == serde_json::json!([])).then_some(()));
        let closed = support::poll(support::PATIENCE, || {
            UnixStream::connect(bed.path("a.socket")).is_err().then_some(())
        });
        emperor.stop(&bed);
        (closed.is_some(), bed.log().execs("a.ini").len())
    },
    (true, 0)
);

parity!(
    a_companion_file_names_the_socket,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        bed.vassal("b.ini");
        bed.write("v/a.ini.demand", format!("{}\nmore\n", bed.path("a.socket").display()));
        let emperor = Builder::new(&bed, kind).stats().opt("emperor-on-demand-extension", ".demand").start();
        bed.started("b.ini", 1);
        let text = answer(connect(&bed));
        emperor.stop(&bed);
        text
    },
    "ok\n"
);

parity!(
    a_command_names_the_socket,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let command = bed.shell(
            "command",
            &format!("[ \"$#\" = 1 ] && echo '{}/'\"${{1%.ini}}\".socket", bed.root().display()),
        );
        let emperor = Builder::new(&bed, kind).opt("emperor-on-demand-exec", command).start();
        let text = answer(connect(&bed));
        emperor.stop(&bed);
        text
    },
    "ok\n"
);

/// The command lines of the reinforcements that were started for `a.ini`, with their number. It cries for them
/// once in more than a second: ours gives no more than one a second.
fn reinforcements(kind: Kind, limit: &str, cries: usize) -> Vec<String> {
    let bed = Bed::new();
    bed.vassal("a.ini");
    bed.script("a.ini", &format!("say=1,5,17{}", " after=1100 say=30".repeat(cries)));
    bed.script("a.ini:zerg", "say=1,5");
    let emperor = Builder::new(&bed, kind).stats().opt("emperor-broodlord", limit).start();
    bed.until("all cries", |log| log.said("a.ini", 30) == cries);
    // The last cry has been heard when what is said after it has been.
    bed.vassal("fence.ini");
    emperor.nudge();
    emperor.wait_stats("the fence", |_| emperor.stats_of("fence.ini").filter(|v| v["loyal"] == 1));
    let starts = bed.log().execs("a.ini:zerg").len();
    let line = |n: usize| {
        let given = bed.given("a.ini:zerg", n);
        format!(
            "{} number {}",
            given.argv[1..].join(" "),
            given.env.get("UWSGI_BROODLORD_NUM").map_or("none", |v| v)
        )
    };
    let mut lines: Vec<_> = (1..=starts).map(line).collect();
    lines.sort();
    let rows = emperor.stats()["vassals"].as_array().expect("rows").iter().filter(|v| v["zerg"] == 1).count();
    lines.push(format!("{rows} rows"));
    emperor.stop(&bed);
    lines
}

parity!(
    reinforcements_up_to_the_limit,
    |kind| reinforcements(kind, "2", 3),
    ["--ini a.ini:zerg number 1", "--ini a.ini:zerg number 2", "2 rows"]
);

parity!(no_reinforcements_without_a_limit, |kind| reinforcements(kind, "0", 2), ["0 rows"]);

parity!(
    a_reinforcement_that_ends_is_not_started_again,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        bed.script("a.ini", "say=1,5,17,30");
        bed.script("a.ini:zerg", "say=1,5 after=50 exit=0");
        let emperor = Builder::new(&bed, kind).stats().opt("emperor-broodlord", "2").start();
        bed.until("its end", |log| !log.of("a.ini:zerg", "exit").is_empty());
        emperor.wait_stats("one row", |s| (s["vassals"].as_array()?.len() == 1).then_some(()));
        bed.vassal("fence.ini");
        emperor.nudge();
        bed.started("fence.ini", 1);
        let starts = bed.log().execs("a.ini:zerg").len();
        emperor.stop(&bed);
        starts
    },
    1
);

parity!(
    reinforcements_end_with_their_vassal,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        bed.script("a.ini", "say=1,5,17,30");
        let emperor = Builder::new(&bed, kind).stats().opt("emperor-broodlord", "1").start();
        bed.until("a reinforcement", |log| log.said("a.ini:zerg", 5) == 1);
        bed.remove("v/a.ini");
        emperor.nudge();
        bed.until("both told", |log| log.got("a.ini", 0) == 1 && log.got("a.ini:zerg", 0) == 1);
        emperor.stop(&bed);
    },
    ()
);
