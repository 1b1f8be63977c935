//! The command line of a vassal: its elements and their order.

use crate::parity;
use crate::support::Bed;
use crate::support::emperor::{Builder, Kind};

/// Starts an emperor, waits for one vassal, gives its command line with the bed's path as `@`.
fn command_line(bed: &Bed, emperor: Builder, name: &str) -> Vec<String> {
    let emperor = emperor.start();
    let argv = bed.given(name, 1).argv;
    emperor.stop(bed);
    argv.iter().map(|a| bed.anonymous(a)).collect()
}

/// One word for the command line of the only vassal, `a.ini`.
fn joined(kind: Kind, options: impl Fn(Builder) -> Builder) -> String {
    let bed = Bed::new();
    bed.vassal("a.ini");
    command_line(&bed, options(Builder::new(&bed, kind)), "a.ini").join(" ")
}

parity!(
    /// Source: spec/emperor.md 4.1.
    plain, |kind| joined(kind, |e| e), "@/witness --ini a.ini");

parity!(
    every_option_has_its_place,
    |kind| joined(kind, |e| {
        e.opt("vassals-inherit", "/d.ini")
            .opt("vassals-include", "/e.ini")
            .opt("vassals-set", "a=b")
            .opt("vassals-include-before", "/c.ini")
            .opt("vassals-inherit-before", "/b.ini")
    }),
    "@/witness --inherit /b.ini --include /c.ini --set a=b --ini a.ini --inherit /d.ini --include /e.ini"
);

parity!(
    lists_keep_their_order,
    |kind| joined(kind, |e| {
        e.opt("vassals-include", "/i1")
            .opt("vassals-inherit", "/h1")
            .opt("vassal-set", "z=1")
            .opt("vassals-inherit", "/h2")
            .opt("vassals-set", "a=2")
            .opt("vassals-include", "/i2")
            .opt("vassals-include-before", "/ib2")
            .opt("vassals-include-before", "/ib1")
    }),
    "@/witness --include /ib2 --include /ib1 --set z=1 --set a=2 --ini a.ini \
     --inherit /h1 --inherit /h2 --include /i1 --include /i2"
);

parity!(
    values_with_blanks_and_nothing_are_one_argument,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let emperor = Builder::new(&bed, kind)
            .opt("vassals-set", "a=b c")
            .opt("vassal-set", "d='e'")
            .opt("vassals-set", "f=");
        command_line(&bed, emperor, "a.ini")[1..].to_vec()
    },
    ["--set", "a=b c", "--set", "d='e'", "--set", "f=", "--ini", "a.ini"]
);

/// The option each suffix is given with.
fn types(kind: Kind, extra: &[&str], names: &[&str]) -> Vec<String> {
    let bed = Bed::new();
    names.iter().for_each(|name| drop(bed.vassal(name)));
    let emperor = extra.iter().fold(Builder::new(&bed, kind), |e, x| e.opt("emperor-extra-extension", x));
    let emperor = emperor.start();
    let lines = names.iter().map(|name| bed.given(name, 1).argv[1..].join(" ")).collect();
    emperor.stop(&bed);
    lines
}

parity!(
    types_by_suffix,
    |kind| types(
        kind,
        &[],
        &["a.ini", "b.xml", "c.yml", "d.yaml", "e.js", "f.json", ".hidden.ini", ".ini", "g.json.ini"]
    ),
    [
        "--ini a.ini",
        "--xml b.xml",
        "--yaml c.yml",
        "--yaml d.yaml",
        "--json e.js",
        "--json f.json",
        "--ini .hidden.ini",
        "--ini .ini",
        "--ini g.json.ini",
    ]
);

parity!(
    extra_extensions_are_suffixes_and_win,
    |kind| types(kind, &[".conf", "rc", "l.ini"], &["a.conf", "b.ini", "vassalrc", "well.ini", ".conf"]),
    ["--config a.conf", "--ini b.ini", "--config vassalrc", "--config well.ini", "--config .conf"]
);

parity!(
    glob_gives_the_path_as_it_matched,
    |kind| {
        let bed = Bed::new();
        for app in ["b", "a"] {
            std::fs::create_dir(bed.path("v").join(app)).expect("a directory");
            bed.vassal(format!("{app}/u.ini"));
        }
        let emperor = Builder::bare(&bed, kind).on("glob://v/*/u.ini").quick().witnessed().start();
        let lines = ["v/a/u.ini", "v/b/u.ini"].map(|name| bed.given(name, 1).argv[1..].join(" "));
        emperor.stop(&bed);
        lines
    },
    ["--ini v/a/u.ini", "--ini v/b/u.ini"]
);

parity!(
    one_file_is_a_glob,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let emperor = Builder::bare(&bed, kind).on("v/a.ini").quick().witnessed();
        command_line(&bed, emperor, "v/a.ini").join(" ")
    },
    "@/witness --ini v/a.ini"
);

parity!(
    binary_path_without_wrapper,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let emperor = Builder::bare(&bed, kind).on(bed.v()).quick().opt("binary-path", bed.witness());
        command_line(&bed, emperor, "a.ini").join(" ")
    },
    "@/witness --ini a.ini"
);

parity!(
    wrapper_wins_over_binary_path,
    |kind| joined(kind, |e| e.opt("binary-path", "/nonexistent/uwsgi")),
    "@/witness --ini a.ini"
);

parity!(
    wrapper_is_looked_for_in_the_path,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let path = format!("/nonexistent:{}", bed.root().display());
        let emperor =
            Builder::bare(&bed, kind).on(bed.v()).quick().opt("emperor-wrapper", "witness").env("PATH", path);
        command_line(&bed, emperor, "a.ini").join(" ")
    },
    "witness --ini a.ini"
);

parity!(
    the_first_override_that_can_be_executed_wins,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let second = bed.install(&bed.witness(), "second");
        let third = bed.install(&bed.witness(), "third");
        let emperor = Builder::new(&bed, kind)
            .opt("emperor-wrapper-override", "/nonexistent/first")
            .opt("emperor-wrapper-override", second)
            .opt("emperor-wrapper-override", third);
        command_line(&bed, emperor, "a.ini").join(" ")
    },
    "@/second --ini a.ini"
);

parity!(
    a_fallback_is_taken_when_the_wrapper_fails,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let emperor = Builder::bare(&bed, kind)
            .on(bed.v())
            .quick()
            .opt("emperor-wrapper", "/nonexistent/wrapper")
            .opt("emperor-wrapper-fallback", "/nonexistent/first")
            .opt("emperor-wrapper-fallback", bed.witness());
        command_line(&bed, emperor, "a.ini").join(" ")
    },
    "@/witness --ini a.ini"
);

parity!(
    magic_exec_where_the_file_can_be_executed,
    |kind| {
        let bed = Bed::new();
        bed.vassal("plain.ini");
        bed.shell("v/program.ini", "echo '[uwsgi]'");
        let emperor = Builder::new(&bed, kind).flag("emperor-magic-exec").start();
        let lines = ["plain.ini", "program.ini"].map(|name| bed.given(name, 1).argv[1..].join(" "));
        emperor.stop(&bed);
        lines
    },
    ["--ini plain.ini", "--ini exec://program.ini"]
);

parity!(
    names_that_a_shell_would_take_apart,
    |kind| {
        let bed = Bed::new();
        bed.vassal("with blank.ini");
        bed.vassal("$(quoted) \"'.ini");
        bed.vassal("new\nline.ini");
        bed.vassal(nonutf8());
        let emperor = Builder::new(&bed, kind).start();
        let names = ["with%20blank.ini", "$(quoted)%20\"'.ini", "new%0aline.ini", "caf%e9.ini"];
        let lines = names.map(|name| bed.given(name, 1).argv[1..].join("|"));
        emperor.stop(&bed);
        lines
    },
    ["--ini|with blank.ini", "--ini|$(quoted) \"'.ini", "--ini|new\nline.ini", "--ini|caf\u{fffd}.ini"]
);

fn nonutf8() -> &'static std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(b"caf\xe9.ini")
}

parity!(
    backups_and_other_names_are_not_vassals,
    |kind| {
        let bed = Bed::new();
        let longest = format!("{}.ini", "l".repeat(250));
        let longer = format!("{}.ini", "m".repeat(251));
        for name in ["x.ini~", "a.ini.swp", "h.INI", "g.txt", "#n.ini#", "plain", "ini", &longer, &longest] {
            bed.vassal(name);
        }
        bed.vassal("zz.ini");
        let emperor = Builder::new(&bed, kind).start();
        bed.started("zz.ini", 1);
        bed.started(&longest, 1);
        // A scan after the first one: had the others been late, they would be here now.
        bed.vassal("fence.ini");
        bed.started("fence.ini", 1);
        let names = bed.log().names();
        emperor.stop(&bed);
        names
            .into_iter()
            .map(|n| n.replace(&longest, "LONGEST").replace(&longer, "LONGER"))
            .collect::<Vec<_>>()
    },
    ["fence.ini", "LONGEST", "zz.ini"]
);
