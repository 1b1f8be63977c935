//! What `check` finds in files people write.

use emperor::config::check::{Checked, Severity, check};
use emperor::config::{Limits, Loader, Machine, Mode, report};
use std::ffi::OsString;

struct Desk(tempfile::TempDir);

impl Desk {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let desk = Self(tempfile::tempdir().expect("a directory"));
        std::fs::create_dir(desk.0.path().join("plugins")).expect("a directory");
        std::fs::write(desk.0.path().join("plugins/python3_plugin.so"), "").expect("a file");
        for (name, text) in files {
            std::fs::write(desk.0.path().join(name), text).expect("a file");
        }
        desk
    }

    fn check(&self, mode: Mode, arguments: &[&str], ids: (u32, u32)) -> Checked {
        let world = Machine::new()
            .in_directory(self.0.path())
            .as_ids(ids.0, ids.1)
            .with_plugins_in(self.0.path().join("plugins"));
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        check(&Loader::new(&world, Limits::default()), &arguments, &[], mode)
    }
}

/// The findings for one vassal's file, each as `LINE SEVERITY MESSAGE`.
fn findings(text: &[u8]) -> Vec<String> {
    let checked = Desk::new(&[("shop.ini", text)]).check(Mode::Uwsgi, &["--ini", "shop.ini"], (0, 0));
    shown(&checked)
}

fn shown(checked: &Checked) -> Vec<String> {
    let line = |p: &emperor::config::check::Problem| p.origin.file_line().map_or(0, |(_, line)| line);
    checked.problems.iter().map(|p| format!("{} {} {}", line(p), p.severity.word(), p.message)).collect()
}

#[track_caller]
fn has(text: &[u8], wanted: &str) {
    let found = findings(text);
    assert!(found.iter().any(|f| f.contains(wanted)), "wanted {wanted}, found {found:#?}");
}

#[test]
fn a_usual_file_has_nothing_wrong_with_it() {
    let text = b"[uwsgi]\n; a shop\nplugin = python3\nsocket = %d%n.sock\nchmod-socket = 660\nmaster = true\n\
        processes = 4\nname = shop\nprocname-prefix = %(name)-\nvacuum\nlog-format = %%(addr) %%(uri)\nenv = A=1 ; 2\n";
    assert_eq!(findings(text), Vec::<String>::new());
}

#[test]
fn a_comment_behind_a_value_is_found() {
    has(b"[uwsgi]\nmaster = false ; not yet\n", "2 warning there are no comments behind a value");
    has(b"[uwsgi]\nmaster = false ; not yet\n", "2 warning master = false ; not yet is read as true");
    has(b"[uwsgi]\nchdir = \"/srv\"\n", "2 warning quotes are part of the value");
}

#[test]
fn a_percent_sign_that_vanishes_is_found() {
    has(b"[uwsgi]\na = 50%\nb = 2\n", "2 warning the % at the end of this line swallows the newline");
    has(b"[uwsgi]\n# 50%\nb = 2\n", "2 warning the % at the end of this line swallows the newline");
    has(b"[uwsgi]\nlog-date = %Y-%m\n", "2 warning `%Y` has no meaning and vanishes");
}

#[test]
fn lines_are_right_behind_a_swallowed_newline() {
    has(b"[uwsgi]\na = 50%\nb = 2\nharakiri = -1\n", "4 error invalid value for option \"harakiri\"");
}

#[test]
fn unknown_keys_come_with_the_nearest_known_one() {
    let desk =
        Desk::new(&[("shop.ini", b"[uwsgi]\nproceses = 4\nmax_requests = 3\nname = x\nprint = %(name)\n")]);
    let checked = desk.check(Mode::Uwsgi, &["--ini", "shop.ini"], (0, 0));
    let remedies: Vec<_> = checked.problems.iter().map(|p| p.remedy.clone().unwrap()).collect();
    assert_eq!(remedies, ["processes is one", "max-requests is one"]);
}

#[test]
fn options_of_plugins_that_are_not_loaded_are_found() {
    has(b"[uwsgi]\nphp-docroot = /srv\n", "2 warning php-docroot is an option of the plugin php");
    has(b"[uwsgi]\nemperor-stop-timeout = 3\n", "2 warning emperor-stop-timeout is an option of the emperor");
}

#[test]
fn a_value_that_is_overridden_names_what_overrides_it() {
    has(
        b"[uwsgi]\nprocesses = 4\nworkers = 2\n",
        "2 warning processes does not count: 2 is given later as workers, at shop.ini:3",
    );
    let desk =
        Desk::new(&[("shop.ini", b"[uwsgi]\nharakiri = 30\n"), ("t.ini", b"[uwsgi]\nharakiri = 10\n")]);
    let checked = desk.check(Mode::Uwsgi, &["--inherit", "t.ini", "--ini", "shop.ini"], (0, 0));
    assert_eq!(shown(&checked), ["2 note harakiri does not count: 10 is given later, at t.ini:2"]);
}

#[test]
fn what_ends_uwsgi_is_fatal() {
    for (text, wanted) in [
        (&b"[uwsgi]\nchmod-socket = 0660\n"[..], "2 error invalid chmod value: 0660"),
        (b"[uwsgi]\nuid = 0\n", "2 error uid = 0 is looked up as a name"),
        (b"[uwsgi]\ncheaper = 4\nprocesses = 4\n", "2 error invalid cheaper value"),
        (b"[uwsgi]\nini = nope.ini\n", "2 error realpath() of nope.ini failed: No such file or directory"),
        (b"[uwsgi]\nhook-as-user = nope:x\n", "2 error hook action not found: nope"),
        (
            b"[uwsgi]\nstrict = true\n\nprocesess = 1\n",
            "4 error [strict-mode] unknown config directive: procesess",
        ),
        (b"[uwsgi]\nlisten = 2000000000\n", "2 error listen = 2000000000 is more than this kernel allows"),
    ] {
        has(text, wanted);
    }
}

#[test]
fn what_only_root_can_do_is_found() {
    let desk = Desk::new(&[(
        "shop.ini",
        b"[uwsgi]\nuid = 33\ngid = www-data\nchroot = /srv\nhook-as-root = print:x\n",
    )]);
    let checked = desk.check(Mode::Uwsgi, &["--ini", "shop.ini"], (1000, 1000));
    let found: Vec<_> =
        checked.problems.iter().map(|p| (p.origin.file_line().unwrap().1, p.severity)).collect();
    let wanted = [(2, Severity::Fatal), (3, Severity::Warning), (4, Severity::Fatal), (5, Severity::Warning)];
    assert_eq!(found, wanted);
}

#[test]
fn sections_that_are_not_read_are_found() {
    has(
        b"\xef\xbb\xbf[uwsgi]\nmaster = 1\n",
        "1 warning a byte order mark stands before the first section header",
    );
    has(
        b"[uwsgi]\nmaster = 1\n[app]\nprocesses = 2\n",
        "4 warning processes stands in [app], which is not read",
    );
    has(b"master = 1\n[uwsgi]\nprocesses = 2\n", "1 warning master stands above every section header");
    has(b"[uWSGI]\nmaster = 1\n", "1 warning the name of this section is `uWSGI`, not `uwsgi`");
    has(b"", "0 warning the file is empty");
    has(b"[uwsgi]\n", "0 warning nothing was read");
    has(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0>\0", "0 warning this looks like a binary file");
    assert_eq!(
        findings(b"[uwsgi]\nini = :two\n[two]\nmaster = 1\n[zerg]\nzerg = a.sock\n"),
        Vec::<String>::new()
    );
}

#[test]
fn blocks_and_references_that_lead_nowhere_are_found() {
    has(b"[uwsgi]\nif-env = HOME\nmaster = 1\n", "2 warning this block is never closed");
    has(b"[uwsgi]\nchdir = %(nope)/x\n", "2 warning %(nope) stays as it is: there is no key nope");
    has(b"[uwsgi]\nlisten = %(n)\nn = 5\n", "2 warning listen acts while it is read");
}

#[test]
fn a_source_that_is_not_allowed_here_is_only_a_note() {
    let checked = Desk::new(&[]).check(Mode::Uwsgi, &["--ini", "exec://true"], (0, 0));
    assert_eq!(checked.worst(), Some(Severity::Note));
}

#[test]
fn the_history_of_a_value_is_told_step_by_step() {
    let desk = Desk::new(&[
        ("shop.ini", b"[uwsgi]\nn = 4\nfor = a\nset = processes=%(n)\nendfor\ninclude = more.ini\n"),
        ("more.ini", b"[uwsgi]\nworkers = 8\n"),
    ]);
    let checked = desk.check(Mode::Uwsgi, &["--ini", "shop.ini"], (0, 0));
    let told = report::explanation("workers", &checked.config.explain(b"workers"));
    assert_eq!(
        told,
        "workers is another name of processes\n   processes = 4\n     at shop.ini:4\n     written as %(n)\n     \
         set at shop.ini:4\n     in the block opened at shop.ini:3\n     shop.ini was loaded by ini at command line, argument 1\n=> workers = 8\n     \
         at more.ini:2\n     more.ini was loaded by include at shop.ini:6\n     \
         shop.ini was loaded by ini at command line, argument 1\n"
    );
}

#[test]
fn findings_are_text_for_people_and_json_for_programs() {
    let desk = Desk::new(&[("shop.ini", b"[uwsgi]\nchmod-socket = 0660\n")]);
    let checked = desk.check(Mode::Uwsgi, &["--ini", "shop.ini"], (0, 0));
    assert!(
        report::text(&checked.problems)
            .starts_with("shop.ini:2: error: invalid chmod value: 0660\n    write exactly")
    );
    let json = report::json(&checked.problems);
    assert_eq!((json[0]["line"].as_u64(), json[0]["severity"].as_str()), (Some(2), Some("error")));
}

#[test]
fn the_emperor_is_told_what_belongs_into_vassals() {
    let desk = Desk::new(&[(
        "emperor.ini",
        b"[uwsgi]\nemperor = vassals\nsocket = :3031\nphp-docroot = /x\nemperor-settle = 5\n",
    )]);
    let checked = desk.check(Mode::Emperor, &["--ini", "emperor.ini"], (0, 0));
    assert_eq!(
        shown(&checked),
        [
            "3 note socket means something only in a vassal",
            "4 note php-docroot means something only in a vassal (php)"
        ]
    );
    assert_eq!(checked.config.int("emperor-settle").map(|got| got.value), Some(5));
}
