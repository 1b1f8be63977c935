//! How an emperor is started, and how it ends where it cannot begin.

use crate::parity;
use crate::support::emperor::{Builder, Kind};
use crate::support::{self, Bed};

/// The status of an emperor that ends by itself.
fn status(bed: &Bed, emperor: Builder) -> Option<i32> {
    let code = emperor.start().end().code();
    bed.nothing_left();
    code
}

parity!(
    a_directory_that_is_not_there,
    |kind| {
        let bed = Bed::new();
        let mut emperor = Builder::bare(&bed, kind).on(format!("dir://{}", bed.path("w").display())).witnessed().start();
        match kind {
            Kind::Real => emperor.end().code(),
            Kind::Ours => {
                emperor.wait_log("does not exist");
                std::fs::create_dir(bed.path("w")).expect("a directory");
                bed.write("w/a.ini", "[uwsgi]\n");
                bed.started("a.ini", 1);
                emperor.end_within(std::time::Duration::ZERO).and_then(|status| status.code())
            }
        }
    },
    real: Some(1),
    ours: None,
    because: "it may come; what comes later is looked at, as with a pattern"
);

parity!(
    a_stats_address_that_cannot_be_bound,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let mut emperor = Builder::new(&bed, kind).opt("emperor-stats", "/nonexistent/stats").start();
        let ended = || emperor.end_within(std::time::Duration::ZERO).and_then(|status| status.code());
        let mut ended = ended;
        let started = || (!bed.log().execs("a.ini").is_empty()).then_some(None);
        support::poll(support::PATIENCE, || ended().map(Some).or_else(started)).expect("an end, or a start")
    },
    real: None,
    ours: Some(1),
    because: "an option that cannot be followed is an error at the start, not a line in the log"
);

parity!(
    an_unknown_option,
    |kind| {
        let bed = Bed::new();
        status(&bed, Builder::new(&bed, kind).flag("emperror"))
    },
    real: Some(1),
    ours: Some(1)
);

parity!(
    an_unknown_option_in_a_file_without_strict,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        bed.write("emperor.ini", "[uwsgi]\nemperror = x\n");
        let emperor = Builder::new(&bed, kind).opt("ini", bed.path("emperor.ini")).start();
        bed.started("a.ini", 1);
        emperor.stop(&bed);
    },
    ()
);

parity!(
    an_unknown_option_in_a_file_with_strict,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        bed.write("emperor.ini", "[uwsgi]\nstrict = true\nemperror = x\n");
        status(&bed, Builder::new(&bed, kind).opt("ini", bed.path("emperor.ini")))
    },
    Some(1)
);

parity!(
    a_number_below_nought,
    |kind| {
        let bed = Bed::new();
        status(&bed, Builder::new(&bed, kind).opt("emperor-freq", "-1"))
    },
    Some(1)
);

/// The only vassal's command line behind its program, of an emperor whose options stand in a file.
fn by_file(kind: Kind, name: &str, content: &str, how: impl Fn(Builder) -> Builder) -> String {
    let bed = Bed::new();
    bed.vassal("a.ini");
    let root = bed.root().display().to_string();
    bed.write(name, content.replace('@', &root));
    let emperor = how(Builder::bare(&bed, kind)).start();
    let argv = bed.given("a.ini", 1).argv[1..].join(" ");
    emperor.stop(&bed);
    argv
}

const INI: &str =
    "[uwsgi]\nemperor = @/v\nemperor-wrapper = @/witness\nvassals-set = a=b\nvassals-inherit = /d\n";

parity!(
    options_in_an_ini_file,
    |kind| by_file(kind, "emperor.ini", INI, |e| e.opt("ini", "emperor.ini")),
    "--set a=b --ini a.ini --inherit /d"
);
parity!(
    options_in_an_ini_file_named_alone,
    |kind| by_file(kind, "emperor.ini", INI, |e| e.arg("emperor.ini")),
    "--set a=b --ini a.ini --inherit /d"
);
parity!(
    options_in_a_yaml_file,
    |kind| {
        let yaml = "uwsgi:\n  emperor: '@/v'\n  emperor-wrapper: '@/witness'\n  vassals-set: a=b\n  vassals-inherit: /d\n";
        by_file(kind, "emperor.yaml", yaml, |e| e.opt("yaml", "emperor.yaml"))
    },
    "--set a=b --ini a.ini --inherit /d"
);
parity!(
    options_in_a_json_file,
    |kind| {
        let json =
            r#"{"uwsgi": {"emperor": "@/v", "emperor-wrapper": "@/witness", "vassals-set": ["a=b", "c=d"]}}"#;
        by_file(kind, "emperor.json", json, |e| e.opt("json", "emperor.json"))
    },
    "--set a=b --set c=d --ini a.ini"
);
parity!(
    options_in_an_xml_file,
    |kind| {
        let xml = "<uwsgi><emperor>@/v</emperor><emperor-wrapper>@/witness</emperor-wrapper>\
                   <vassals-set>a=b</vassals-set></uwsgi>";
        by_file(kind, "emperor.xml", xml, |e| e.opt("xml", "emperor.xml"))
    },
    "--set a=b --ini a.ini"
);
parity!(
    /// A file's options stand where the file is named; what may be repeated adds up in that order.
    a_file_and_the_command_line,
    |kind| by_file(kind, "emperor.ini", INI, |e| e.opt("vassals-set", "first=1").opt("ini", "emperor.ini").opt("vassals-set", "c=d")),
    "--set first=1 --set a=b --set c=d --ini a.ini --inherit /d"
);
