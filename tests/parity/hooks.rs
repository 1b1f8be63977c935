//! What is run around a vassal, by whom, with which arguments and environment.

use crate::parity;
use crate::support::emperor::{Builder, Kind};
use crate::support::{Bed, PATIENCE, poll};
use std::path::PathBuf;

/// A program that writes down how it was called: arguments, directory, parent (behind the shell that ran it,
/// if one did), and some variables.
fn scribe(bed: &Bed, name: &str) -> PathBuf {
    let to = bed.path(format!("{name}.called"));
    let variables =
        "UWSGI_VASSALS_DIR UWSGI_VASSAL_CONFIG UWSGI_VASSAL_PID UWSGI_VASSAL_UID UWSGI_VASSAL_GID";
    let body = format!(
        "parent=$PPID; [ \"$(cat /proc/$PPID/comm)\" != sh ] || parent=$(cut -d ' ' -f 4 /proc/$PPID/stat)\n\
         {{ echo \"args $# $*\"; echo \"cwd $(pwd)\"; echo \"parent $parent\"; echo \"link ${{UWSGI_EMPEROR_FD:+yes}}\"\n\
         for v in {variables}; do eval \"echo $v=\\$$v\"; done; echo end; }} >> '{}'",
        to.display()
    );
    bed.shell(name, &body)
}

/// What it wrote at its first call, with the known processes named.
fn called(bed: &Bed, name: &str) -> Vec<String> {
    let path = bed.path(format!("{name}.called"));
    let text = poll(PATIENCE, || std::fs::read_to_string(&path).ok().filter(|t| t.contains("end\n")));
    let text = text.unwrap_or_else(|| panic!("{name} was not called\n{}", bed.report()));
    let vassal = bed.started("a.ini", 1).to_string();
    let known = |line: &str| {
        let line = bed.anonymous(line);
        match line.split_once([' ', '=']) {
            // Either the emperor itself, or another process, so that it need not wait.
            Some(("parent", pid)) => {
                if pid == vassal { "of the vassal" } else { "not the vassal" }.to_owned()
            }
            Some(("UWSGI_VASSAL_PID", pid)) if pid == vassal => "UWSGI_VASSAL_PID=vassal".to_owned(),
            _ => line,
        }
    };
    let first = text.lines().take_while(|l| *l != "end");
    first.filter(|l| !l.ends_with('=') && *l != "link ").map(known).collect()
}

/// The first call of a program that is named by one option, with something before its path.
fn hook(kind: Kind, option: &str, before: &str) -> Vec<String> {
    let bed = Bed::new();
    bed.vassal("a.ini");
    let program = scribe(&bed, "hook");
    let emperor = Builder::new(&bed, kind).opt(option, format!("{before}{}", program.display())).start();
    bed.until("loyal", |log| log.said("a.ini", 17) == 1);
    let called = called(&bed, "hook");
    emperor.stop(&bed);
    called
}

parity!(
    /// Source: spec/emperor.md 10.1. The program's parent is the process that becomes the vassal.
    vassals_start_hook,
    |kind| hook(kind, "vassals-start-hook", ""),
    ["args 1 a.ini", "cwd @/v", "of the vassal", "link yes", "UWSGI_VASSALS_DIR=@/v"]
);

parity!(
    a_start_hook_that_fails_is_ignored,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let emperor = Builder::new(&bed, kind).opt("vassals-start-hook", "/bin/false").start();
        bed.until("loyal", |log| log.said("a.ini", 17) == 1);
        emperor.stop(&bed);
    },
    ()
);

parity!(
    vassals_stop_hook,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let program = scribe(&bed, "hook");
        let emperor = Builder::new(&bed, kind).opt("vassals-stop-hook", program).start();
        bed.until("loyal", |log| log.said("a.ini", 17) == 1);
        bed.remove("v/a.ini");
        emperor.nudge();
        let called = called(&bed, "hook");
        emperor.stop(&bed);
        called
    },
    ["args 1 a.ini", "cwd @/v", "not the vassal", "UWSGI_VASSALS_DIR=@/v"]
);

parity!(
    hook_as_vassal_exec,
    |kind| hook(kind, "hook-as-vassal", "exec:"),
    ["args 0 ", "cwd @/v", "of the vassal", "link yes"]
);

parity!(
    exec_as_vassal,
    |kind| hook(kind, "exec-as-vassal", ""),
    ["args 0 ", "cwd @/v", "of the vassal", "link yes"]
);

parity!(
    /// Ours knows the vassal here, too.
    hook_as_emperor_exec,
    |kind| {
        let mut called = hook(kind, "hook-as-emperor", "exec:");
        called.retain(|line| !line.starts_with("UWSGI_VASSAL_"));
        called
    },
    ["args 0 ", "cwd @/v", "not the vassal"]
);

parity!(
    exec_as_emperor,
    |kind| hook(kind, "exec-as-emperor", ""),
    [
        "args 0 ",
        "cwd @/v",
        "not the vassal",
        "UWSGI_VASSAL_CONFIG=a.ini",
        "UWSGI_VASSAL_PID=vassal",
        "UWSGI_VASSAL_UID=0",
        "UWSGI_VASSAL_GID=0",
    ]
);

parity!(
    hook_emperor_start,
    |kind| hook(kind, "hook-emperor-start", "exec:"),
    ["args 0 ", "cwd @/v", "not the vassal"]
);

/// How an emperor ends whose vassal is there, with one option.
fn exit_status(kind: Kind, option: &str, value: &str) -> (Option<i32>, usize) {
    let bed = Bed::new();
    bed.vassal("a.ini");
    let mut emperor = Builder::new(&bed, kind).opt(option, value).start();
    let code = emperor.end().code();
    (code, bed.log().execs("a.ini").len())
}

parity!(
    an_emperor_start_hook_that_fails_is_fatal,
    |kind| exit_status(kind, "hook-emperor-start", "exec:/bin/false"),
    (Some(1), 0)
);

parity!(
    a_safeexec_that_fails_is_not,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let emperor = Builder::new(&bed, kind).opt("hook-emperor-start", "safeexec:/bin/false").start();
        bed.started("a.ini", 1);
        emperor.stop(&bed);
    },
    ()
);

parity!(
    an_unknown_action_is_fatal,
    |kind| exit_status(kind, "hook-emperor-start", "nosuchaction:x").0,
    Some(1)
);

parity!(
    /// In order, around one start; the vassal's own before it is exec'ed.
    order_of_hooks,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let log = bed.path("order");
        let write = |word: &str| format!("echo {word} >> {}", log.display());
        let script = bed.shell("start", &write("start-hook"));
        let emperor = Builder::new(&bed, kind)
            .opt("hook-emperor-start", format!("exec:{}", write("emperor-start")))
            .opt("exec-as-vassal", write("exec-as-vassal"))
            .opt("hook-as-vassal", format!("exec:{}", write("hook-as-vassal-1")))
            .opt("hook-as-vassal", format!("exec:{}", write("hook-as-vassal-2")))
            .opt("vassals-start-hook", script)
            .start();
        bed.started("a.ini", 1);
        let order = std::fs::read_to_string(&log).expect("what the hooks wrote");
        emperor.stop(&bed);
        order.lines().map(str::to_owned).collect::<Vec<_>>()
    },
    ["emperor-start", "start-hook", "hook-as-vassal-1", "hook-as-vassal-2", "exec-as-vassal"]
);

parity!(
    a_hook_as_vassal_that_fails_is_a_death,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let emperor = Builder::new(&bed, kind).stats().opt("hook-as-vassal", "exec:/bin/false").start();
        emperor.wait_stats("a penalty", |s| s["blacklist"][0]["attempt"].as_u64().filter(|&a| a > 0));
        let starts = bed.log().execs("a.ini").len();
        emperor.stop(&bed);
        starts
    },
    0
);

parity!(
    actions_of_hooks,
    |kind| {
        let bed = Bed::new();
        bed.vassal("a.ini");
        let at = |name: &str| bed.path(name).display().to_string();
        bed.write("gone", "");
        bed.write("mode", "");
        let emperor = Builder::new(&bed, kind)
            .opt("hook-as-vassal", format!("mkdir:{}", at("made")))
            .opt("hook-as-vassal", format!("create:{}", at("created")))
            .opt("hook-as-vassal", format!("write:{} one two", at("written")))
            .opt("hook-as-vassal", format!("appendn:{} three", at("written")))
            .opt("hook-as-vassal", format!("unlink:{}", at("gone")))
            .opt("hook-as-vassal", format!("chmod:{} 0640", at("mode")))
            .opt("hook-as-vassal", "putenv:TENANT=of the hook")
            .opt("hook-as-vassal", format!("cd:{}", at("made")))
            .start();
        let given = bed.given("a.ini", 1);
        emperor.stop(&bed);
        let mode = std::fs::metadata(bed.path("mode")).expect("a file").permissions();
        let mode = std::os::unix::fs::PermissionsExt::mode(&mode) & 0o7777;
        let written = std::fs::read_to_string(bed.path("written")).expect("what was written");
        vec![
            format!("{} {}", bed.path("created").is_file(), bed.path("gone").exists()),
            format!("{mode:o} {written:?}"),
            bed.anonymous(&given.cwd.display().to_string()),
            given.env.get("TENANT").cloned().unwrap_or_default(),
        ]
    },
    ["true false", "640 \"one twothree\\n\"", "@/made", "of the hook"]
);
