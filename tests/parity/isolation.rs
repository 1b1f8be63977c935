//! Namespaces and capabilities of a vassal, and emperors below emperors.

use crate::parity;
use crate::support::emperor::{Builder, Kind};
use crate::support::{self, Bed, root};

/// The kinds of namespaces in which a vassal of this emperor is not where the test is, and its own process id.
fn clone_flags(kind: Kind, flags: &str) -> (Vec<String>, bool) {
    let bed = Bed::new();
    bed.vassal("a.ini");
    let emperor = Builder::new(&bed, kind).opt("emperor-use-clone", flags).start();
    let given = bed.given("a.ini", 1);
    emperor.stop(&bed);
    let ours = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace");
    let own = |(kind, number): (&String, &String)| {
        !ours(kind).to_str().expect("plain text").ends_with(number.as_str())
    };
    let own = given.namespaces.iter().filter(|n| own(*n)).map(|(kind, _)| kind.clone()).collect();
    (own, given.number("pid") == 1)
}

parity!(
    /// Source: spec/emperor.md 2.1. With `pid` it sees itself as process 1.
    root_use_clone,
    |kind| {
        if !root() {
            return [EVERYTHING, NOTHING].map(str::to_owned);
        }
        ["pid,uts,ipc,net,fs", "sysvsem"].map(|flags| format!("{:?}", clone_flags(kind, flags)))
    },
    [EVERYTHING, NOTHING]
);

const EVERYTHING: &str = r#"(["ipc", "mnt", "net", "pid", "uts"], true)"#;
const NOTHING: &str = "([], false)";

parity!(
    an_unknown_clone_flag_is_fatal,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        Builder::new(&bed, kind).opt("emperor-use-clone", "pid,nonsense").start().end().code()
    },
    Some(1)
);

parity!(
    /// A reload and a stop reach the first process of a namespace, too.
    root_use_clone_and_orders,
    |kind| {
        if !root() {
            return "1 0".to_owned();
        }
        let bed = Bed::new();
        bed.vassal("a.ini");
        let emperor = Builder::new(&bed, kind).opt("emperor-use-clone", "pid,fs").start();
        bed.until("loyal", |log| log.said("a.ini", 17) == 1);
        crate::told::to_reload_and_to_stop(&bed, emperor)
    },
    "1 0"
);

parity!(
    /// All others but `setpcap` are gone from the bounding set.
    root_emperor_cap,
    |kind| {
        if !root() {
            return "0000000000002580 0000000000002580".to_owned();
        }
        let bed = Bed::new();
        bed.vassal("a.ini");
        let emperor = Builder::new(&bed, kind).opt("emperor-cap", "setuid,net_bind_service,13").start();
        let given = bed.given("a.ini", 1);
        emperor.stop(&bed);
        format!("{} {}", given.field("CapBnd"), given.field("CapEff"))
    },
    "0000000000002580 0000000000002580"
);

/// An emperor of ours whose vassal is an emperor of this kind, with a vassal `deep.ini`.
fn below(kind: Kind) -> Vec<String> {
    let bed = Bed::new();
    let Some(inner) = kind.program() else { return Vec::new() };
    for dir in ["w", "inner"] {
        std::fs::create_dir(bed.path(dir)).expect("a directory");
    }
    bed.write("w/deep.ini", "[uwsgi]\n");
    bed.set_age("w/deep.ini", 3600);
    bed.vassal("inner.ini");
    bed.set_age("v/inner.ini", 3600);
    let body = format!(
        "exec '{}' --emperor '{}' --emperor-freq 1 --emperor-wrapper '{}'",
        inner.display(),
        bed.path("w").display(),
        bed.witness().display()
    );
    let wrapper = bed.shell("wrapper", &body);
    let outer = Builder::bare(&bed, Kind::Ours).on(bed.v()).opt("emperor-wrapper", wrapper).stats().start();
    outer.wait_stats("a loyal emperor below", |_| outer.stats_of("inner.ini").filter(|v| v["loyal"] == 1));
    bed.until("its vassal", |log| log.said("deep.ini", 17) == 1);
    let first = bed.started("deep.ini", 1);
    bed.remove("v/inner.ini");
    outer.wait_stats("gone", |s| (s["vassals"] == serde_json::json!([])).then_some(()));
    let gone = || (!std::path::Path::new(&format!("/proc/{first}")).exists()).then_some(());
    support::poll(support::PATIENCE, gone).unwrap_or_else(|| panic!("{first} lives\n{}", bed.report()));
    let heard = bed.log().heard("deep.ini");
    outer.stop_politely(&bed);
    heard
}

parity!(
    /// Loyal as soon as it is up; told to stop, it stops its own vassals.
    an_emperor_below_an_emperor,
    below,
    real: ["0"],
    ours: ["0"]
);
