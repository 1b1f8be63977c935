//! What a vassal found when it was started.

use super::events::unescape;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One open descriptor.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Fd {
    /// Its number.
    pub(crate) number: i32,
    /// Whether an exec would close it.
    pub(crate) cloexec: bool,
    /// The flags of the open file.
    pub(crate) flags: i32,
    /// Whether it is a listening socket.
    pub(crate) listening: bool,
    /// What it points to, as `/proc` shows it.
    pub(crate) target: String,
}

/// The record of one start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given {
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    /// The environment as it stood, duplicates and malformed entries included.
    pub(crate) raw_env: Vec<String>,
    pub(crate) cwd: PathBuf,
    pub(crate) fds: Vec<Fd>,
    /// `/proc/self/status`, by field.
    pub(crate) status: BTreeMap<String, String>,
    /// `/proc/self/limits`, by name: soft and hard.
    pub(crate) limits: BTreeMap<String, (String, String)>,
    /// The vassal's file as it could be read, where it could.
    pub(crate) config: Option<String>,
    /// Its namespaces: `pid`, `mnt`, `uts` … and their numbers.
    pub(crate) namespaces: BTreeMap<String, String>,
    numbers: BTreeMap<String, i32>,
}

impl Given {
    pub(super) fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("the record of a start");
        let mut given = Self::default();
        for line in text.lines() {
            let (key, value) = line.split_once(' ').expect("a key and a value");
            let value = String::from_utf8_lossy(&unescape(value)).into_owned();
            given.take(key, value);
        }
        given
    }

    fn take(&mut self, key: &str, value: String) {
        match key {
            "argv" => self.argv.push(value),
            "env" => {
                if let Some((k, v)) = value.split_once('=') {
                    self.env.insert(k.to_owned(), v.to_owned());
                }
                self.raw_env.push(value);
            }
            "cwd" => self.cwd = value.into(),
            "fd" => self.fds.push(descriptor(&value)),
            "config" => self.config = Some(value),
            "status" => self.status = value.lines().filter_map(field).collect(),
            "limits" => self.limits = value.lines().skip(1).filter_map(limit).collect(),
            "ns" => {
                let (kind, number) = value.split_once(':').expect("a namespace");
                self.namespaces.insert(kind.to_owned(), number.to_owned());
            }
            _ => {
                self.numbers.insert(key.to_owned(), value.parse().expect("a number"));
            }
        }
    }

    /// `pid`, `ppid`, `pgrp`, `sid`, `pdeathsig` or `nice`.
    pub(crate) fn number(&self, key: &str) -> i32 {
        self.numbers[key]
    }

    /// A mask of signals, as the set of their numbers: `SigBlk`, `SigIgn`, `SigCgt`, `SigPnd`, `ShdPnd`.
    /// Without the two that belong to the C library, and the real-time ones.
    pub(crate) fn signals(&self, field: &str) -> Vec<u32> {
        let mask = u64::from_str_radix(&self.status[field], 16).expect("a hexadecimal mask");
        (1..32).filter(|s| mask >> (s - 1) & 1 == 1).collect()
    }

    /// A field of `/proc/self/status`, blanks folded.
    pub(crate) fn field(&self, name: &str) -> String {
        self.status[name].split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The number in a variable that names a descriptor.
    pub(crate) fn fd_in(&self, variable: &str) -> Option<i32> {
        self.env.get(variable)?.parse().ok()
    }

    /// A descriptor by its number.
    pub(crate) fn fd(&self, number: i32) -> Option<&Fd> {
        self.fds.iter().find(|f| f.number == number)
    }
}

fn descriptor(line: &str) -> Fd {
    let words: Vec<&str> = line.splitn(5, ' ').collect();
    Fd {
        number: words[0].parse().expect("a descriptor"),
        cloexec: words[1] != "0",
        flags: i32::from_str_radix(words[2], 8).expect("octal flags"),
        listening: words[3] != "0",
        target: words[4].to_owned(),
    }
}

fn field(line: &str) -> Option<(String, String)> {
    line.split_once(':').map(|(k, v)| (k.to_owned(), v.trim().to_owned()))
}

/// `Max open files            1024                 4096                 files`: columns of fixed width.
fn limit(line: &str) -> Option<(String, (String, String))> {
    let mut words = line.get(26..)?.split_whitespace();
    Some((line[..26].trim().to_owned(), (words.next()?.to_owned(), words.next()?.to_owned())))
}
