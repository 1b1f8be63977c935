//! `emperor vassal`: one application without an emperor.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn run(dir: &Path, lines: &str) -> Output {
    std::fs::write(dir.join("a.ini"), format!("[uwsgi]\n{lines}")).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_emperor"));
    command.args(["vassal", "--ini", "a.ini"]).current_dir(dir).env("KEPT", "yes");
    command.output().expect("the program")
}

#[test]
fn a_command_gets_its_sockets_and_its_environment_and_no_link() {
    let dir = tempfile::tempdir().expect("a directory");
    let lines = "command = sh -c 'echo $$ $LISTEN_PID $LISTEN_FDS $LISTEN_FDNAMES $KEPT $MORE x$UWSGI_EMPEROR_FD; \
                 readlink /proc/self/fd/3'\nenv = MORE=too\nsocket = a.sock\n";
    let done = run(dir.path(), lines);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let words: Vec<_> = said.split_whitespace().collect();
    let [pid, listens, "1", "socket", "yes", "too", "x", socket] = words[..] else {
        panic!("{said}{}", String::from_utf8_lossy(&done.stderr))
    };
    assert!(pid == listens && socket.starts_with("socket:"), "{said}");
    assert!(dir.path().join("a.sock").exists());
}

#[test]
fn what_needs_an_emperor_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let said = |lines: &str| {
        let done = run(dir.path(), lines);
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let (status, line) = said("command = true\nmemory-max = 1G\n");
    assert!(status == Some(0) && line.contains("say MemoryMax="), "{line}");
    let (status, line) = said("command = true\ncron = 1 1 1 1 1 true\n");
    assert!(status == Some(1) && line.contains("a.ini:3: cron"), "{line}");
}

#[test]
fn root_process_ids_of_its_own_need_no_emperor() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: needs root");
    }
    // In its own namespace it is told signals and gives its status as any other.
    let dir = tempfile::tempdir().expect("a directory");
    for sandbox in ["private-pids = yes", "sandbox = standard", "sandbox = strict"] {
        let lines = format!(
            "[uwsgi]\n{sandbox}\ncommand = sh -c 'trap \"exit 7\" TERM; \
             echo $$ $LISTEN_PID $LISTEN_FDS $(ls /proc | grep -c ^[0-9]); sleep 100 & wait'\nsocket = a.sock\n"
        );
        std::fs::write(dir.path().join("a.ini"), lines).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_emperor"));
        command.args(["vassal", "--ini", "a.ini"]).current_dir(dir.path());
        let mut keeper = command.stdout(std::process::Stdio::piped()).spawn().expect("the program");
        let mut line = String::new();
        let out = keeper.stdout.take().expect("its output");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("a line");
        let words: Vec<_> = line.split_whitespace().collect();
        let [pid, listens, "1", seen] = words[..] else { panic!("{sandbox}: {line}") };
        assert!(pid == "2" && listens == pid, "{sandbox}: {line}");
        assert!(seen.parse::<u32>().expect("a number") < 6, "it sees nobody else: {line}");
        let name = || std::fs::read_to_string(format!("/proc/{}/comm", keeper.id())).expect("its name");
        let open =
            || std::fs::read_dir(format!("/proc/{}/fd", keeper.id())).expect("its descriptors").count();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while (name().as_str(), open()) != ("emperor-keeper\n", 0) {
            assert!(std::time::Instant::now() < deadline, "{}, {} descriptors", name(), open());
            std::thread::yield_now(); // it goes about its own life beside the program
        }
        // Whatever comes before the program can be told waits for it.
        let pid = nix::unistd::Pid::from_raw(keeper.id().try_into().expect("a process id"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("a process that lives");
        assert_eq!(keeper.wait().expect("its end").code(), Some(7), "{sandbox}");
    }
}

#[test]
fn without_a_command_the_uwsgi_in_the_path_is_executed_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let uwsgi = dir.path().join("uwsgi");
    let mut file = std::fs::File::create(&uwsgi).expect("a file");
    file.write_all(b"#!/bin/sh\necho \"$$ $*\"\n").expect("its text");
    file.set_permissions(std::fs::Permissions::from_mode(0o755)).expect("its mode");
    drop(file);
    std::fs::write(dir.path().join("a.ini"), "[uwsgi]\nmaster = true\n").expect("a file");
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_emperor"));
    command.args(["vassal", "--ini", "a.ini", "--threads", "2"]).current_dir(dir.path()).env("PATH", path);
    let child = command.stdout(std::process::Stdio::piped()).spawn().expect("the program");
    let pid = child.id();
    let done = child.wait_with_output().expect("its end");
    assert_eq!(String::from_utf8_lossy(&done.stdout), format!("{pid} --ini a.ini --threads 2\n"));
}
