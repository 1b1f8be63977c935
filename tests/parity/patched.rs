//! `privileged-binary-patch` and `unprivileged-binary-patch`: a uWSGI that becomes another program, before and after it has
//! become another user. Under ours it does so by itself, as under its own Emperor. Source: spec/config.md, spec/jail.md.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::parity;
use crate::support::emperor::{Builder, Kind};
use crate::support::tools::on_path;
use crate::support::{Bed, PATIENCE, poll, root, skip};

/// Words, user, group and directory of the program that a uWSGI with this line becomes; `None` where that cannot be seen.
fn patched(kind: Kind, option: &str, words: &str) -> Option<String> {
    if !root() || on_path("uwsgi").is_none() {
        skip("uWSGI is not installed, or this is not root");
        return None;
    }
    let bed = Bed::new();
    let open = |path: &std::path::Path| {
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("permissions");
    };
    let out = bed.path("out");
    fs::create_dir(&out).expect("a directory");
    fs::set_permissions(&out, PermissionsExt::from_mode(0o777)).expect("permissions");
    let script = format!(
        "#!/bin/sh\necho \"$0 $* | $(id -u):$(id -g) | $(pwd)\" > {0}/part && mv {0}/part {0}/seen\n",
        out.display()
    );
    let probe = bed.write("probe", script);
    open(&probe);
    open(bed.root());
    let value = words.replace("PROBE", &probe.display().to_string());
    let lines = format!("[uwsgi]\nuid = 33\ngid = 33\n{option} = {value}\n");
    bed.write("v/a.ini", lines);
    let emperor = Builder::bare(&bed, kind).on(bed.v()).start();
    let seen = poll(PATIENCE, || fs::read_to_string(out.join("seen")).ok());
    let seen = seen.unwrap_or_else(|| panic!("nothing was executed\n{}", bed.report()));
    bed.remove("v/a.ini");
    emperor.wait_log("a.ini");
    emperor.stop(&bed);
    Some(bed.anonymous(seen.trim()))
}

/// The same; where it cannot be seen, what it should be.
fn as_expected(kind: Kind, option: &str, words: &str, expected: &str) -> String {
    patched(kind, option, words).unwrap_or_else(|| expected.to_owned())
}

const AS_ROOT: &str = "@/probe --ini a.ini | 0:0 | @/v";
const AS_USER: &str = "@/probe --ini a.ini | 33:33 | @/v";
const AS_ROOT_WITH_WORDS: &str = "@/probe one two | 0:0 | @/v";
const AS_USER_WITH_WORDS: &str = "@/probe one two | 33:33 | @/v";

parity!(
    root_before_the_change_of_user_it_is_root,
    |kind| as_expected(kind, "privileged-binary-patch", "PROBE", AS_ROOT),
    AS_ROOT
);
parity!(
    root_after_it_it_is_the_user,
    |kind| as_expected(kind, "unprivileged-binary-patch", "PROBE", AS_USER),
    AS_USER
);
parity!(
    root_before_it_with_words,
    |kind| as_expected(kind, "privileged-binary-patch-arg", "PROBE one two", AS_ROOT_WITH_WORDS),
    AS_ROOT_WITH_WORDS
);
parity!(
    root_after_it_with_words,
    |kind| as_expected(kind, "unprivileged-binary-patch-arg", "PROBE one two", AS_USER_WITH_WORDS),
    AS_USER_WITH_WORDS
);
