//! What must hold for any bytes: reading ends, soon and without a panic, and every pair knows a line that is there.
//!
//! Run by libFuzzer (`cargo +nightly fuzz run config_ini`) and, with random bytes, by `tests/config_any_bytes.rs`.
#![allow(dead_code, reason = "each target uses one of these")]

use emperor::config::check::check;
use emperor::config::{Found, Limits, Loader, Mode, PathKind, World, as_uwsgi, report};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) fn ini(bytes: &[u8]) {
    file("--ini", "input.ini", bytes);
}

pub(crate) fn yaml(bytes: &[u8]) {
    file("--yaml", "input.yml", bytes);
}

pub(crate) fn json(bytes: &[u8]) {
    file("--json", "input.json", bytes);
}

pub(crate) fn xml(bytes: &[u8]) {
    file("--xml", "input.xml", bytes);
}

/// Arguments, one a line; those above an empty line are environment variables.
pub(crate) fn arguments(bytes: &[u8]) {
    let text: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
    let at = text.iter().position(|line| line.is_empty()).unwrap_or(0);
    let words: Vec<OsString> = text[at..].iter().map(|line| OsStr::from_bytes(line).to_owned()).collect();
    let environment: Vec<(OsString, OsString)> = text[..at]
        .iter()
        .filter_map(|line| line.iter().position(|b| *b == b'=').map(|at| line.split_at(at)))
        .map(|(name, value)| (OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(&value[1..]).to_owned()))
        .collect();
    look(&words, &environment, b"[uwsgi]\na = %(b)\nb = $(HOME)\n");
}

fn file(option: &str, name: &str, bytes: &[u8]) {
    look(&[option.into(), name.into()], &[("HOME".into(), "/home/%(a)".into())], bytes);
}

fn look(arguments: &[OsString], environment: &[(OsString, OsString)], input: &[u8]) {
    let lines = input.iter().filter(|b| **b == b'\n').count() + 1;
    let world = Island { input: input.to_vec() };
    let limits = Limits {
        depth: 8,
        reads: 64,
        value_bytes: 1 << 14,
        total_bytes: 1 << 20,
        pairs: 1 << 12,
        expansions: 256,
        work: 1 << 20,
        ..Limits::default()
    };
    for mode in [Mode::Uwsgi, Mode::Emperor] {
        let checked = check(&Loader::new(&world, limits), arguments, environment, mode);
        for pair in checked.config.pairs() {
            if let Some((file, line)) = pair.origin().file_line() {
                let most = if file.given.starts_with(b"input.") { lines } else { 4 };
                assert!(line as usize <= most, "line {line} of {most}");
            }
            let _ = checked.config.explain(pair.key());
        }
        let _ = (
            report::text(&checked.problems),
            report::json(&checked.problems).to_string(),
            checked.config.show(),
        );
    }
    let small = Loader::new(&world, limits);
    let (once, again) =
        (small.load(arguments, environment, Mode::Uwsgi), small.load(arguments, environment, Mode::Uwsgi));
    assert_eq!(once.map(|c| c.show()).ok(), again.map(|c| c.show()).ok(), "the same input, another result");
    if input.len() < 512 {
        let _ = as_uwsgi(arguments, environment, &world, &mut Vec::new(), &mut Vec::new());
    }
}

/// A machine with one changing file and a few others, where nothing else can be reached.
struct Island {
    input: Vec<u8>,
}

impl Island {
    fn text(&self, path: &[u8]) -> io::Result<Vec<u8>> {
        match path {
            b"input.ini" | b"input.yml" | b"input.json" | b"input.xml" => Ok(self.input.clone()),
            b"a.ini" => Ok(b"[uwsgi]\nx = %n %N\ninclude = input.ini\n".to_vec()),
            b"t" => Ok(b"text %(a)\n".to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl World for Island {
    fn locate(&self, path: &[u8]) -> io::Result<Found> {
        self.text(path).map(|_| Found { path: PathBuf::from("/srv").join(OsStr::from_bytes(path)), inode: 7 })
    }
    fn read(&self, path: &[u8], _: usize) -> io::Result<Vec<u8>> {
        self.text(path)
    }
    fn read_stdin(&self, _: usize) -> io::Result<Vec<u8>> {
        Ok(self.input.clone())
    }
    fn read_descriptor(&self, _: i32, _: usize) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn run(&self, command: &[u8], _: &[(&[u8], &[u8])], _: usize) -> io::Result<Vec<u8>> {
        Ok(command.to_vec())
    }
    fn sent(&self) -> io::Result<Vec<u8>> {
        Ok(self.input.clone())
    }
    fn fetch(&self, _: &str, _: usize) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
    fn kind(&self, path: &[u8]) -> Option<PathKind> {
        self.text(path).is_ok().then_some(PathKind::File)
    }
    fn readable(&self, path: &[u8]) -> bool {
        self.text(path).is_ok()
    }
    fn glob(&self, pattern: &[u8]) -> Vec<Vec<u8>> {
        vec![pattern.to_vec(), b"a.ini".to_vec()]
    }
    fn variables(&self, _: &[u8], _: usize) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        Ok(vec![(b"V".to_vec(), b"%(a)\n".to_vec())])
    }
    fn directory(&self) -> PathBuf {
        "/srv".into()
    }
    fn program(&self) -> PathBuf {
        "/usr/bin/emperor".into()
    }
    fn host_name(&self) -> Vec<u8> {
        b"island".to_vec()
    }
    fn resolve(&self, _: &str) -> Option<String> {
        Some("192.0.2.1".into())
    }
    fn cpus(&self) -> usize {
        4
    }
    fn ids(&self) -> (u32, u32) {
        (0, 0)
    }
    fn user_name(&self, _: u32) -> Option<Vec<u8>> {
        None
    }
    fn group_name(&self, _: u32) -> Option<Vec<u8>> {
        None
    }
    fn has_user(&self, _: &[u8]) -> bool {
        true
    }
    fn has_group(&self, _: &[u8]) -> bool {
        true
    }
    fn started(&self) -> Duration {
        Duration::from_secs(1_700_000_000)
    }
    fn somaxconn(&self) -> Option<u64> {
        Some(4096)
    }
    fn plugin_folder(&self) -> Option<PathBuf> {
        None
    }
}
