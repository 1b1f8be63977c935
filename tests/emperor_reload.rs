//! The emperor's own configuration changes while it reigns: what can be followed is followed, vassals that it touches
//! start again and no others, the rest is named; and a mistake changes nothing.

#[path = "support/mod.rs"]
mod support;

use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use support::emperor::{Builder, Emperor, Kind};
use support::manager::Manager;
use support::{Bed, PATIENCE, poll};

/// An emperor with a file of its own, and that file.
struct Reign<'b> {
    bed: &'b Bed,
    emperor: Emperor,
    manager: Manager,
}

impl<'b> Reign<'b> {
    fn new(bed: &'b Bed, lines: &str) -> Self {
        write(bed, lines);
        let manager = Manager::new(bed.root(), 0);
        let emperor = Builder::bare(bed, Kind::Ours)
            .opt("ini", bed.path("emperor.ini"))
            .opt("emperor-control", socket(bed))
            .opt("emperor-runtime-dir", bed.path("run"))
            .env("NOTIFY_SOCKET", manager.socket())
            .start();
        Self { bed, emperor, manager }
    }

    /// `emperor renew`, with these lines in the file.
    fn renew(&self, lines: &str) -> Output {
        write(self.bed, lines);
        client(self.bed, &["renew"])
    }

    fn renewed(&self, lines: &str) -> String {
        let output = self.renew(lines);
        assert!(output.status.success(), "{output:?}\n{}", self.bed.report());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn row(&self, name: &str) -> Value {
        let output = client(self.bed, &["status", "--json", name]);
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// The processes of vassals, once all run.
    fn pids<const N: usize>(&self, names: [&str; N]) -> [i64; N] {
        names.map(|name| {
            let runs = || {
                let row = self.row(name);
                (row["state"] == "running").then(|| row["pid"].as_i64())?
            };
            poll(PATIENCE, runs).unwrap_or_else(|| panic!("{name} does not run\n{}", self.bed.report()))
        })
    }

    fn until_status(&self, status: &str) {
        let line = format!("STATUS={status}");
        let told = poll(PATIENCE, || (self.manager.heard(&line) > 0).then_some(()));
        assert!(told.is_some(), "{line}\n{}", self.bed.report());
    }
}

fn socket(bed: &Bed) -> PathBuf {
    bed.path("control.sock")
}

fn write(bed: &Bed, lines: &str) {
    let witness = bed.witness();
    let text = format!(
        "[uwsgi]\nemperor = {}\nemperor-wrapper = {}\n{lines}\n",
        bed.v().display(),
        witness.display()
    );
    bed.write("emperor.ini", text);
}

fn client(bed: &Bed, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emperor"));
    command.args(words).env_clear().env("EMPEROR_CONTROL", socket(bed)).stdin(Stdio::null());
    command.output().expect("the client")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const ENGINE: &str = "engine.ini";
const COMMAND: &str = "command.ini";

fn two_vassals(bed: &Bed) {
    bed.vassal(ENGINE);
    bed.write(format!("v/{COMMAND}"), "[uwsgi]\ncommand = sleep 7777\n");
}

#[test]
fn a_changed_option_starts_those_again_that_it_touches_and_no_others() {
    let bed = Bed::new();
    two_vassals(&bed);
    let reign = Reign::new(&bed, "");
    let [engine, command] = reign.pids([ENGINE, COMMAND]);

    // What is the emperor's own concern touches nobody.
    let mut lines =
        "emperor-throttle = 2000\nemperor-log-level = debug\nhook-as-emperor = write:/dev/null x\n\
        emperor-rescan = 30"
            .to_owned();
    reign.renewed(&lines);
    assert_eq!(reign.pids([ENGINE, COMMAND]), [engine, command]);
    let told = reign.emperor.wait_log("changed: ");
    assert!(told.contains("emperor-throttle (") && told.contains("emperor.ini:4)"), "{told}");

    // The engine is not what runs a command.
    let other = bed.install(&bed.witness(), "other-witness");
    lines += &format!("\nemperor-wrapper-override = {}", other.display());
    reign.renewed(&lines);
    reign.emperor.wait_log("1 of 2 vassals start again");
    bed.started(ENGINE, 2);
    let [second, same] = reign.pids([ENGINE, COMMAND]);
    assert!(second != engine && same == command, "{}", bed.report());
    let program = fs::read_link(format!("/proc/{second}/exe")).expect("its program");
    assert_eq!(program, other);

    // What stands before every file concerns both.
    lines += "\nvassal-set = a=b";
    reign.renewed(&lines);
    reign.emperor.wait_log("2 of 2 vassals start again");
    bed.started(ENGINE, 3);
    let [third, fresh] = reign.pids([ENGINE, COMMAND]);
    assert!(third != second && fresh != command, "{}", bed.report());
    assert!(bed.given(ENGINE, 3).argv.windows(2).any(|two| two == ["--set", "a=b"]));

    // Nothing has changed.
    reign.renewed(&lines);
    assert_eq!(reign.pids([ENGINE, COMMAND]), [third, fresh]);
    reign.emperor.stop(&bed);
}

#[test]
fn a_policy_touches_those_for_whom_something_else_comes_of_it() {
    let bed = Bed::new();
    bed.vassal("a.ini");
    bed.vassal("b.ini");
    let policy = |text: &str| bed.write("policy", text);
    let path = policy("[vassal a*]\nno-new-privileges = true\n");
    let lines = format!("emperor-policy = {}", path.display());
    let reign = Reign::new(&bed, &lines);
    let before = reign.pids(["a.ini", "b.ini"]);
    // A comment is nothing.
    policy("# said\n[vassal a*]\nno-new-privileges = true\n");
    reign.emperor.wait_log("is read again");
    reign.renewed(&lines);
    assert_eq!(reign.pids(["a.ini", "b.ini"]), before);
    policy("[vassal a*]\nno-new-privileges = true\n[vassal b*]\nlimit-nofile = 333\n");
    reign.renewed(&lines);
    bed.started("b.ini", 2);
    let after = reign.pids(["a.ini", "b.ini"]);
    assert!(after[0] == before[0] && after[1] != before[1], "{}", bed.report());
    let limits = fs::read_to_string(format!("/proc/{}/limits", after[1])).expect("its limits");
    assert!(
        limits.lines().any(|line| line.starts_with("Max open files") && line.contains("333")),
        "{limits}"
    );
    // Without the policy both are free again.
    reign.renewed("");
    bed.started("a.ini", 2);
    bed.started("b.ini", 3);
    reign.emperor.stop(&bed);
}

#[test]
fn an_option_about_demand_touches_those_whose_socket_it_names() {
    let bed = Bed::new();
    bed.vassal("asleep.ini");
    bed.vassal("awake.ini");
    let socket = bed.path("asleep.sock");
    bed.write("v/asleep.ini.at", socket.to_str().expect("plain text"));
    let reign = Reign::new(&bed, "");
    let [_, awake] = reign.pids(["asleep.ini", "awake.ini"]);
    let lines = "emperor-on-demand-extension = .at";
    reign.renewed(lines);
    let sleeps = || (reign.row("asleep.ini")["state"] == "on-demand").then_some(());
    assert!(poll(PATIENCE, sleeps).is_some(), "{}", bed.report());
    assert!(socket.exists());
    assert_eq!(reign.pids(["awake.ini"]), [awake]);
    reign.renewed(lines);
    assert!(sleeps().is_some(), "it sleeps on\n{}", bed.report());
    assert_eq!(bed.log().execs("asleep.ini").len(), 1);
    // Each has a socket of the directory now.
    fs::create_dir(bed.path("sockets")).expect("a directory");
    reign.renewed(&format!("emperor-on-demand-directory = {}", bed.path("sockets").display()));
    for name in ["asleep", "awake"] {
        let there = || bed.path(format!("sockets/{name}.socket")).exists().then_some(());
        assert!(poll(PATIENCE, there).is_some(), "{name}: {}", bed.report());
    }
    assert!(!socket.exists(), "nobody waits there any more");
    // And none any more.
    reign.renewed("");
    reign.pids(["asleep.ini", "awake.ini"]);
    assert!(!bed.path("sockets/awake.socket").exists());
    reign.emperor.stop(&bed);
}

#[test]
fn what_needs_a_restart_is_named_with_both_values_until_there_is_one() {
    let bed = Bed::new();
    bed.vassal(ENGINE);
    let reign = Reign::new(&bed, "");
    let before = reign.pids([ENGINE]);
    let lines = "safe-pidfile = emperor.pid\nexec-as-root = true";
    for _ in 0..2 {
        let said = reign.renewed(lines);
        let file = bed.path("emperor.ini").display().to_string();
        let wanted =
            format!("needs a restart of the emperor: safe-pidfile: nothing → `emperor.pid` ({file}:4)");
        assert!(said.contains(&wanted), "{said}");
        assert!(said.contains("exec-as-root: nothing → `true`"), "{said}");
    }
    assert_eq!(reign.emperor.lines("needs a restart of the emperor: safe-pidfile").len(), 2);
    reign.until_status("The Emperor is governing 1 vassals; needs a restart: safe-pidfile, exec-as-root");
    assert!(!bed.path("emperor.pid").exists(), "it does need one");
    assert!(!reign.renewed("").contains("restart"), "the file says again what the process has done");
    assert_eq!(reign.pids([ENGINE]), before);
    reign.emperor.stop(&bed);
}

#[test]
fn a_mistake_is_told_to_all_who_ask_and_changes_nothing() {
    let bed = Bed::new();
    two_vassals(&bed);
    let reign = Reign::new(&bed, "");
    let before = reign.pids([ENGINE, COMMAND]);
    let file = bed.path("emperor.ini").display().to_string();
    let mistakes = [
        (
            "vassal-set = a=b\nvassal-sandbox = tight",
            format!("{file}:5: vassal-sandbox: `none`, `standard` or `strict` is wanted"),
        ),
        ("emperor-settle = often", format!("{file}:4")),
        ("strict = true\nemperor-trottle = 5", "emperor-trottle".to_owned()),
        ("ini = /nonexistent.ini", "/nonexistent.ini".to_owned()),
    ];
    for (lines, why) in &mistakes {
        let output = reign.renew(lines);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(stderr(&output).contains(why), "{why}: {output:?}");
        let lines = reign.emperor.lines("everything goes on as before");
        assert!(lines.last().is_some_and(|line| line.contains(why)), "{lines:?}");
    }
    reign.until_status(&format!(
        "The Emperor is governing 2 vassals; the last reload was refused: {file}:5: vassal-sandbox: `none`, \
         `standard` or `strict` is wanted; this is `tight`"
    ));
    assert_eq!(reign.pids([ENGINE, COMMAND]), before);

    // It cannot even be read.
    bed.remove("emperor.ini");
    let output = client(&bed, &["renew"]);
    assert_eq!(
        (output.status.code(), stderr(&output).contains("emperor.ini")),
        (Some(1), true),
        "{output:?}"
    );

    // Nor does it matter to an old line that nobody takes up: a later file that is right counts.
    let said = reign.renewed("emperor-throttle = 5");
    assert!(said.contains("goes on with 2 vassals"), "{said}");
    assert_eq!(reign.pids([ENGINE, COMMAND]), before);
    reign.until_status("The Emperor is governing 2 vassals");
    reign.emperor.stop(&bed);
}

#[test]
fn an_emperor_without_a_control_socket_is_told_by_a_signal() {
    let bed = Bed::new();
    bed.vassal(ENGINE);
    write(&bed, "");
    let emperor = Builder::bare(&bed, Kind::Ours).opt("ini", bed.path("emperor.ini")).start();
    bed.started(ENGINE, 1);
    assert_eq!(client(&bed, &["renew"]).status.code(), Some(3));
    let output = client(&bed, &["renew", &emperor.pid().to_string()]);
    assert!(output.status.success() && stderr(&output).contains("SIGUSR2"), "{output:?}");
    emperor.wait_log("1 vassals taken over");
    emperor.stop(&bed);
}

#[test]
fn what_a_crash_leaves_follows_the_configuration_of_the_next_emperor() {
    let bed = Bed::new();
    two_vassals(&bed);
    write(&bed, "");
    let manager = Manager::new(bed.root(), 100);
    let builder = || {
        let builder = Builder::bare(&bed, Kind::Ours).opt("ini", bed.path("emperor.ini"));
        builder.flag("emperor-fd-store").env("NOTIFY_SOCKET", manager.socket())
    };
    let first = builder().start();
    bed.until("it is loyal", |log| log.said(ENGINE, 17) == 1);
    first.wait_log("command.ini has been spawned");
    let before = bed.started(ENGINE, 1);
    manager.hear_all();
    drop(first);
    write(&bed, "exec-as-root = true\nvassal-set = a=b");
    let second = builder().usher(manager.pass()).start();
    second.wait_log("2 of 2 vassals start again");
    assert_ne!(bed.started(ENGINE, 2), before);
    assert_eq!(second.lines("needs a restart").len(), 0, "it was one");
    second.stop(&bed);
}
