#![no_main]

use emperor::config::{Machine, as_uwsgi};
use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

// What uWSGI makes of a file, we make of it: status, standard output and dump. The bytes choose from these pieces,
// of which nothing can be put together that runs, opens or removes anything. Does nothing where uWSGI is missing.
const PIECES: [&str; 48] = [
    "a",
    "b",
    "kk",
    "1",
    "20",
    " ",
    "\t",
    "=",
    " = ",
    "\n",
    "\n",
    "\n",
    "\r\n",
    ";",
    "#",
    "[uwsgi]\n",
    "[other]\n",
    "[uwsgi",
    "]",
    "%",
    "%%",
    "%(a)",
    "%(b)",
    "%(kk)",
    "%(a + 1)",
    "%(b * 20 kk)",
    "%(",
    ")",
    "$(E)",
    "$(NONE)",
    "$(",
    "%n",
    "%s",
    "%e",
    "%x",
    "%Y",
    "%(_)",
    "set = a=",
    "set-ph = kk=",
    "if-env = E\n",
    "if-opt = a\n",
    "endif =\n",
    "for = a b 20\n",
    "for-times = 2\n",
    "endfor =\n",
    "print = ",
    "strict = true\n",
    "é",
];

const ARGUMENTS: [&str; 4] = ["--show-config", "--no-server", "--ini", "input.ini"];
const VARIABLES: [(&str, &str); 2] = [("HOME", "/home/demo"), ("E", "x%(a)")];

type Told = (bool, Vec<u8>, Option<Vec<u8>>);

fn uwsgi() -> Option<&'static str> {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let there = || Command::new("uwsgi").arg("--version").stdout(Stdio::null()).status().is_ok();
    FOUND.get_or_init(there).then_some("uwsgi")
}

fn dump(log: &[u8]) -> Option<Vec<u8>> {
    let at = |mark: &[u8]| log.windows(mark.len()).position(|window| window == mark);
    Some(log[at(b";uWSGI instance configuration\n")?..at(b";end of configuration\n")?].to_vec())
}

fn theirs(program: &str, desk: &std::path::Path) -> Option<Told> {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "5", program]).args(ARGUMENTS).current_dir(desk).stdin(Stdio::null());
    let output = command.env_clear().envs(VARIABLES).env("PATH", "/usr/sbin:/usr/bin:/bin").output().ok()?;
    // A crash, or all memory taken, is no verdict.
    let status = output.status.code().filter(|code| *code < 128)?;
    Some((status == 0, output.stdout, dump(&output.stderr)))
}

fn ours(desk: &std::path::Path) -> Told {
    let world = Machine::new().in_directory(desk).as_program("/usr/bin/uwsgi-core");
    let environment: Vec<(OsString, OsString)> =
        VARIABLES.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let (mut out, mut log) = (Vec::new(), Vec::new());
    let status = as_uwsgi(&ARGUMENTS.map(OsString::from), &environment, &world, &mut out, &mut log);
    (status == 0, out, dump(&log))
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some(program) = uwsgi().filter(|_| bytes.len() <= 64) else { return };
    let text: String = bytes.iter().map(|byte| PIECES[usize::from(*byte) % PIECES.len()]).collect();
    let desk = tempfile::tempdir().expect("a directory");
    std::fs::write(desk.path().join("input.ini"), format!("[uwsgi]\n{text}")).expect("a file");
    if let Some(theirs) = theirs(program, desk.path()) {
        let ours = ours(desk.path());
        let readable = |told: &Told| {
            (
                told.0,
                String::from_utf8_lossy(&told.1).into_owned(),
                told.2.as_deref().map(String::from_utf8_lossy).map(String::from),
            )
        };
        assert_eq!(readable(&ours), readable(&theirs), "{text:?}");
    }
});
