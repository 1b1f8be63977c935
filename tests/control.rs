//! The control socket and its client, with a real emperor: what can be asked, by whom, and what nobody can do to the
//! emperor with it.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, lchown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::emperor::{Builder, Kind};
use support::{Bed, PATIENCE, poll};

const ALICE: u32 = 61_414;
const BOB: u32 = 61_515;

fn socket(bed: &Bed) -> PathBuf {
    bed.path("control.sock")
}

fn emperor(bed: &Bed) -> Builder {
    let runtime = bed.path("run");
    Builder::new(bed, Kind::Ours).opt("emperor-control", socket(bed)).opt("emperor-runtime-dir", runtime)
}

/// The client, as somebody.
fn client(bed: &Bed, uid: Option<u32>, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emperor"));
    command.args(words).env_clear().env("EMPEROR_CONTROL", socket(bed)).stdin(Stdio::null());
    if let Some(uid) = uid {
        command.uid(uid).gid(uid).current_dir("/");
    }
    command.output().expect("the client")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit status")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The document of one vassal.
fn row(bed: &Bed, name: &str) -> Value {
    let output = client(bed, None, &["status", "--json", name]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}\n{}", bed.report()))
}

fn until(bed: &Bed, name: &str, state: &str) {
    let there = poll(PATIENCE, || (row(bed, name)["state"] == state).then_some(()));
    assert!(there.is_some(), "{name} never was {state}: {}\n{}", row(bed, name), bed.report());
}

/// One request as it stands; all that comes back.
fn raw(bed: &Bed, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket(bed)).expect("the control socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let _ = stream.write_all(request); // it may be refused before it is whole
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_vassal_is_stopped_started_and_restarted_and_others_go_on() {
    let bed = Bed::new();
    for name in ["a b.ini", "b.ini"] {
        bed.vassal(name);
    }
    let emperor = emperor(&bed).start();
    let (first, other) = (bed.started("a%20b.ini", 1), bed.started("b.ini", 1));
    assert_eq!(code(&client(&bed, None, &["stop", "a b.ini"])), 0);
    until(&bed, "a b.ini", "stopped");
    assert_eq!(row(&bed, "a b.ini")["pid"], Value::Null);
    let status = client(&bed, None, &["status"]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(code(&status), 0, "what is stopped by hand is well: {text}");
    assert!(
        text.lines().any(|line| line.starts_with("a b.ini ") && line.contains("stopped by hand")),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "{text}");
    let refused = client(&bed, None, &["reload", "a b.ini"]);
    assert_eq!((code(&refused), stderr(&refused).contains("start it instead")), (1, true), "{refused:?}");
    assert_eq!(code(&client(&bed, None, &["start", "--all"])), 0);
    assert_ne!(bed.started("a%20b.ini", 2), first);
    assert_eq!(code(&client(&bed, None, &["restart", "a b.ini"])), 0);
    bed.started("a%20b.ini", 3);
    assert_eq!(row(&bed, "b.ini")["pid"], other, "nothing was done to it");
    let unknown = client(&bed, None, &["stop", "nobody.ini"]);
    assert_eq!((code(&unknown), stderr(&unknown).contains("there is no vassal nobody.ini")), (1, true));
    assert_eq!(code(&client(&bed, None, &["stop"])), 2);
    emperor.stop(&bed);
    assert!(!socket(&bed).exists());
    assert_eq!(code(&client(&bed, None, &["status"])), 3);
}

/// A uwsgi packet to `emperor-command-socket`, as somebody.
fn command(bed: &Bed, uid: u32, pairs: &[(&str, &str)]) {
    let mut body = Vec::new();
    for text in pairs.iter().flat_map(|(key, value)| [key, value]) {
        body.extend(u16::try_from(text.len()).expect("a short text").to_le_bytes());
        body.extend(text.as_bytes());
    }
    let [low, high] = u16::try_from(body.len()).expect("a short packet").to_le_bytes();
    let escaped: String =
        [&[0, low, high, 0], &body[..]].concat().iter().map(|byte| format!("\\x{byte:02x}")).collect();
    let script = format!(
        "import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'{escaped}', '{}')",
        bed.path("commands.sock").display()
    );
    let sent = Command::new("python3").args(["-c", &script]).uid(uid).gid(uid).current_dir("/").output();
    let sent = sent.expect("python3");
    assert!(sent.status.success(), "{sent:?}");
}

#[test]
fn the_command_socket_of_the_old_line_obeys_those_who_may_operate() {
    let bed = Bed::new();
    bed.vassal("a.ini");
    let emperor = emperor(&bed).opt("emperor-command-socket", bed.path("commands.sock")).start();
    bed.started("a.ini", 1);
    let own = nix::unistd::geteuid().as_raw();
    command(&bed, own, &[("cmd", "stop"), ("vassal", "a.ini")]);
    until(&bed, "a.ini", "stopped");
    command(&bed, own, &[("command", "spawn"), ("vassal", "a.ini")]);
    bed.started("a.ini", 2);
    command(&bed, own, &[("cmd", "stop"), ("vassal", "nobody.ini")]);
    emperor.wait_log("stop of \"nobody.ini\" was wanted over emperor-command-socket, and is refused");
    command(&bed, own, &[("cmd", "log"), ("msg", "deployed\n42")]);
    emperor.wait_log("somebody says over emperor-command-socket: deployed42");
    emperor.stop(&bed);
    assert!(!bed.path("commands.sock").exists());
}

#[test]
fn root_a_tenant_commands_his_own_vassals_alone() {
    if !support::root() {
        return;
    }
    let bed = Bed::new();
    for (name, owner) in [("alice.ini", ALICE), ("bob.ini", BOB)] {
        bed.vassal(name);
        lchown(bed.path("v").join(name), Some(owner), Some(owner)).expect("an owner");
    }
    let builder = emperor(&bed).opt("emperor-command-socket", bed.path("commands.sock"));
    let emperor = builder.flag("emperor-tyrant").start();
    bed.started("alice.ini", 1);
    let pid = bed.started("bob.ini", 1);
    command(&bed, ALICE, &[("cmd", "stop"), ("vassal", "bob.ini")]);
    command(&bed, ALICE, &[("cmd", "log"), ("msg", "a lie")]);
    command(&bed, ALICE, &[("cmd", "stop"), ("vassal", "alice.ini")]);
    until(&bed, "alice.ini", "stopped");
    assert_eq!(row(&bed, "bob.ini")["pid"], pid, "nothing was done to it");
    assert!(!emperor.log().contains("a lie"), "{}", emperor.log());
    emperor.stop(&bed);
}

#[test]
fn what_is_stopped_stays_so_under_the_next_program_and_the_next_emperor_until_its_file_changes() {
    let bed = Bed::new();
    for name in ["a.ini", "b.ini", "c.ini"] {
        bed.vassal(name);
    }
    let first = emperor(&bed).start();
    for name in ["a.ini", "b.ini", "c.ini"] {
        bed.started(name, 1);
    }
    assert_eq!(code(&client(&bed, None, &["stop", "a.ini", "b.ini"])), 0);
    ["a.ini", "b.ini"].iter().for_each(|name| until(&bed, name, "stopped"));
    first.renew(&bed);
    assert_eq!(row(&bed, "a.ini")["state"], "stopped");
    first.stop(&bed);
    let kept = fs::read_dir(bed.path("run")).expect("the runtime directory");
    let kept: Vec<_> = kept.map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(fs::metadata(&kept[0]).expect("the file").mode() & 0o777, 0o600);
    bed.vassal("b.ini");
    bed.set_age("v/b.ini", -5);
    let second = emperor(&bed).start();
    bed.started("b.ini", 2);
    bed.started("c.ini", 2);
    assert_eq!(row(&bed, "a.ini")["state"], "stopped");
    assert_eq!(code(&client(&bed, None, &["start", "a.ini"])), 0);
    bed.started("a.ini", 2);
    second.stop(&bed);
}

#[test]
fn a_second_emperor_on_the_same_socket_is_refused() {
    let bed = Bed::new();
    bed.vassal("a.ini");
    let first = emperor(&bed).start();
    bed.started("a.ini", 1);
    let mut second =
        Builder::bare(&bed, Kind::Ours).on(bed.path("script")).opt("emperor-control", socket(&bed)).start();
    assert_eq!(second.end().code(), Some(1));
    assert!(second.log().contains("another process serves this socket"), "{}", second.log());
    until(&bed, "a.ini", "running");
    first.stop(&bed);
}

#[test]
fn what_is_no_request_is_refused_and_what_is_too_long_is_not_read() {
    let bed = Bed::new();
    bed.vassal("a.ini");
    let emperor = emperor(&bed).start();
    bed.started("a.ini", 1);
    let long = format!("GET /v1/vassals/{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(1 << 20));
    let header = format!("GET /v1/emperor HTTP/1.1\r\nHost: x\r\nx: {}\r\n\r\n", "a".repeat(1 << 20));
    let body = "POST /v1/vassals/a.ini/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n";
    let rows: [(&[u8], &[&str]); 8] = [
        (b"GET /v1/emperor HTTP/1.1\r\nHost: x\r\n\r\n", &["200"]),
        (b"\x16\x03\x01\x02\x00\x01\x00\xff\r\n\r\n", &["400", ""]),
        (b"GET /v2/vassals HTTP/1.1\r\nHost: x\r\n\r\n", &["404"]),
        (b"DELETE /v1/vassals HTTP/1.1\r\nHost: x\r\n\r\n", &["405"]),
        (b"GET /v1/vassals/%zz HTTP/1.1\r\nHost: x\r\n\r\n", &["400"]),
        // Closed while bytes are still on their way, so that an answer may be lost.
        (long.as_bytes(), &["414", "431", "400", ""]),
        (header.as_bytes(), &["431", ""]),
        (body.as_bytes(), &["413"]),
    ];
    for (request, wanted) in rows {
        let answer = raw(&bed, request);
        let status = answer.get(9..12).unwrap_or_default();
        let start = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        assert!(wanted.contains(&status), "{start:?}: {answer}");
        if status == "404" || status == "405" {
            assert!(answer.contains("application/problem+json") && answer.contains("\"detail\""), "{answer}");
        }
    }
    assert_eq!(row(&bed, "a.ini")["state"], "running");
    emperor.stop(&bed);
}

#[test]
fn clients_that_say_nothing_delay_no_supervision_and_lose_their_place() {
    let bed = Bed::new();
    bed.vassal("a.ini");
    let emperor = emperor(&bed).start();
    let first = bed.started("a.ini", 1);
    let slow: Vec<UnixStream> = (0..100)
        .map(|number| {
            let mut stream = UnixStream::connect(socket(&bed)).expect("a place, or one in the backlog");
            let _ = stream.write_all(&b"GET /v1/emperor HTTP/1.1\r\n"[..number % 20]);
            stream
        })
        .collect();
    let begin = Instant::now();
    kill(Pid::from_raw(first), Signal::SIGKILL).expect("a running vassal");
    bed.started("a.ini", 2);
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(3), "its successor took {took:?}");
    let status = client(&bed, None, &["status"]);
    assert_eq!(code(&status), 0, "a place is free after a while: {status:?}\n{}", bed.report());
    drop(slow);
    emperor.stop(&bed);
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    let bed = Bed::new();
    bed.vassal("a.ini");
    let emperor = emperor(&bed).start();
    bed.started("a.ini", 1);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_emperor"));
    let status =
        command.arg("status").arg("--control").arg(socket(&bed)).stdout(writer).output().expect("the client");
    assert_eq!((code(&status), stderr(&status)), (0, String::new()));
    emperor.stop(&bed);
}

#[test]
fn root_other_users_are_refused() {
    if !support::root() {
        return;
    }
    let bed = Bed::new();
    bed.vassal("a.ini");
    let emperor = emperor(&bed).opt("emperor-control-mode", "666").start();
    let pid = bed.started("a.ini", 1);
    for words in [&["status"][..], &["stop", "a.ini"], &["stop", "--all"], &["status", "nobody"]] {
        let refused = client(&bed, Some(ALICE), words);
        assert_eq!(code(&refused), 1, "{refused:?}");
        assert!(stderr(&refused).contains("uid 61414 may not operate this emperor"), "{refused:?}");
        assert!(refused.stdout.is_empty());
    }
    assert_eq!(row(&bed, "a.ini")["pid"], pid);
    emperor.stop(&bed);
    let emperor = self::emperor(&bed).start();
    bed.started("a.ini", 2);
    assert_eq!(fs::metadata(socket(&bed)).expect("the socket").mode() & 0o777, 0o600);
    assert_eq!(code(&client(&bed, Some(ALICE), &["status"])), 3, "it cannot even be opened");
    emperor.stop(&bed);
}

#[test]
fn root_members_of_the_group_may_do_all() {
    if !support::root() {
        return;
    }
    let bed = Bed::new();
    bed.vassal("a.ini");
    let emperor = emperor(&bed).opt("emperor-control-group", BOB.to_string()).start();
    bed.started("a.ini", 1);
    assert_eq!(code(&client(&bed, Some(ALICE), &["status"])), 3);
    assert_eq!(code(&client(&bed, Some(BOB), &["restart", "a.ini"])), 0);
    bed.started("a.ini", 2);
    // By a supplementary group.
    let mut command = Command::new("setpriv");
    let ids = [format!("--reuid={ALICE}"), format!("--regid={ALICE}"), format!("--groups={BOB}")];
    command.args(ids).arg(env!("CARGO_BIN_EXE_emperor")).arg("status").arg("--control").arg(socket(&bed));
    assert_eq!(code(&command.current_dir("/").output().expect("setpriv")), 0);
    emperor.stop(&bed);
}

#[test]
fn root_a_tenant_sees_and_operates_his_own_vassals_alone() {
    if !support::root() {
        return;
    }
    let bed = Bed::new();
    for (name, uid) in [("alice.ini", ALICE), ("bob.ini", BOB)] {
        let part = bed.write(".new", "[uwsgi]\n");
        lchown(&part, Some(uid), Some(uid)).expect("its owner");
        fs::rename(part, bed.path(format!("v/{name}"))).expect("a vassal's file");
    }
    let emperor = emperor(&bed).flag("emperor-tyrant").start();
    let (_, bob) = (bed.started("alice.ini", 1), bed.started("bob.ini", 1));
    let all = client(&bed, Some(ALICE), &["status", "--json"]);
    let all: Value = serde_json::from_slice(&all.stdout).unwrap_or_else(|e| panic!("{e}: {all:?}"));
    let names: Vec<_> = all["vassals"].as_array().expect("rows").iter().map(|row| &row["name"]).collect();
    assert_eq!(names, ["alice.ini"]);
    for words in [["stop", "bob.ini"], ["restart", "bob.ini"], ["status", "bob.ini"]] {
        let refused = client(&bed, Some(ALICE), &words);
        assert_eq!(code(&refused), 1);
        assert_eq!(stderr(&refused), "emperor: there is no vassal bob.ini\n", "as if there were none");
    }
    assert_eq!(code(&client(&bed, Some(ALICE), &["stop", "--all"])), 0);
    until(&bed, "alice.ini", "stopped");
    assert_eq!(row(&bed, "bob.ini")["pid"], bob);
    let text = raw(&bed, b"GET /v1/emperor HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(text.contains("\"vassals\":2") && text.contains("monitors"), "{text}");
    emperor.stop(&bed);
}
