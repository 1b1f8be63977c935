//! `emperor check --plan`: the launch of a vassal, drawn from its file.

use std::process::Command;

/// What is printed for a vassal of these lines, without its long view and the environment of this process.
fn plan(lines: &str, arguments: &[&str]) -> (String, bool) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("a.ini");
    std::fs::write(&file, format!("[uwsgi]\n{lines}")).expect("a file");
    let done = Command::new(env!("CARGO_BIN_EXE_emperor"))
        .args(["check", "--plan"])
        .args(arguments)
        .arg(&file)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .output()
        .expect("the program runs");
    let text =
        String::from_utf8(done.stdout).expect("text").replace(dir.path().to_str().expect("text"), "DIR");
    let short = |line: &str| match line.split_once(": ") {
        Some((head, _)) if head.contains("view of the host") => head.to_owned(),
        _ => line.to_owned(),
    };
    (text.lines().map(|line| short(line) + "\n").collect(), done.status.success())
}

#[test]
fn a_command_in_a_sandbox_is_shut_in_before_it_becomes_its_user_and_filtered_last() {
    let lines = "command = gunicorn -b fd://%(socket.0) app\nsocket = 127.0.0.1:8091\nuid = 1000\ngid = 1000\n\
        env = A=1\nsandbox = standard\nlisten-fds = no\nlimit-nproc = 20\n";
    let (text, _) = plan(lines, &[]);
    let order = [
        "a launcher performs",
        "session of its own",
        "pid-namespace",
        "namespaces of its own: mount,ipc,uts,cgroup",
        "view of the host",
        "init stays as process 1",
        "limits nproc 20, core 0",
        "capabilities keep none in the bounding set",
        "become user 1000, group 1000",
        "emperor die with it",
        "no-new-privileges",
        "A=1",
        "descriptors 3 is socket 127.0.0.1:8091, no LISTEN_FDS",
        "system-calls refused",
        "exec gunicorn",
        "fd://3",
    ];
    let mut rest = text.as_str();
    for wanted in order {
        let at = rest.find(wanted).unwrap_or_else(|| panic!("no `{wanted}` here:\n{rest}\nin\n{text}"));
        rest = &rest[at + wanted.len()..];
    }
}

#[test]
fn an_ordinary_file_needs_no_launcher() {
    let (text, _) = plan("http-socket = 127.0.0.1:8092\n", &[]);
    assert!(text.starts_with("DIR/a.ini: the emperor itself performs\n"), "{text}");
}

#[test]
fn the_policy_of_an_emperor_counts_and_a_refusal_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let emperor = dir.path().join("emperor.ini");
    std::fs::write(
        &emperor,
        "[uwsgi]\nemperor = /nowhere\nemperor-tyrant = true\nvassal-sandbox = standard\n",
    )
    .expect("a file");
    let emperor = emperor.to_str().expect("text");
    let (text, _) =
        plan("http-socket = :8093\nsandbox = none\n", &["--emperor", emperor, "--uid", "1000:1000"]);
    assert!(text.contains("view of the host") && text.contains("user 1000\n"), "{text}");
    let (text, fine) = plan("http-socket = :8093\n", &["--emperor", emperor, "--uid", "0:0"]);
    assert!(text.contains("cannot be started: tyrant mode refuses a file of uid 0") && !fine, "{text}");
}
