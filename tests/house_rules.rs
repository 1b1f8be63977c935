//! The rules of the house that a compiler does not keep: who may import whom, where `unsafe` may stand, how
//! long a file may be. `docs/architecture.md` gives their reasons.

use std::fs;
use std::path::{Path, PathBuf};

/// A part of the source tree, the rest of the crate that it may name, and outside paths that it may not.
struct Room {
    /// A folder or a file without its suffix. Of several that fit, the longest is the room of a file.
    path: &'static str,
    may_import: &'static [&'static str],
    may_not_touch: &'static [&'static str],
}

/// Rooms that decide or parse: no descriptor, no clock but the one they are given, no system.
const PURE: &[&str] =
    &["tokio", "nix", "rustix", "libc", "std::fs", "std::net", "std::os::unix::net", "std::process"];
/// The door through which configuration files come in.
const DOOR: &[&str] = &["tokio", "nix", "rustix"];

const ROOMS: &[Room] = &[
    Room { path: "main", may_import: &["cli"], may_not_touch: &[] },
    Room { path: "lib", may_import: &[], may_not_touch: &[] },
    Room { path: "cli", may_import: &["emperor", "config", "vassal", "sys"], may_not_touch: &["tokio"] },
    Room { path: "config", may_import: &[], may_not_touch: PURE },
    Room { path: "config/door", may_import: &[], may_not_touch: DOOR },
    Room {
        path: "emperor",
        may_import: &[
            "vassal::plan",
            "vassal::hook",
            "vassal::link",
            "vassal::terms",
            "vassal::socket",
            "vassal::terms",
            "zerg::pool",
            "zerg::server",
            "zerg::wire",
            "config",
            "sys",
        ],
        may_not_touch: &[],
    },
    Room { path: "emperor/court", may_import: &["vassal::link", "emperor::source"], may_not_touch: PURE },
    Room {
        path: "vassal",
        may_import: &["config", "zerg::client", "zerg::pool", "zerg::wire", "sys"],
        may_not_touch: &[],
    },
    Room { path: "zerg", may_import: &["sys"], may_not_touch: &[] },
    Room { path: "sys", may_import: &[], may_not_touch: &[] },
];

/// Beyond this a file wants to be two.
const LONGEST_FILE: usize = 700;

#[test]
fn the_house_rules_are_kept() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut broken = Vec::new();
    let sources =
        files(&root.join("src")).into_iter().filter(|file| file.extension().is_some_and(|it| it == "rs"));
    for file in sources {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(root.join("src")).unwrap().to_str().unwrap().to_owned();
        broken.extend(broken_rules(&name, &text));
    }
    for folder in ["tests", "docs", "packaging", "vassals.d"] {
        for file in files(&root.join(folder)) {
            let text = fs::read_to_string(&file).unwrap_or_default();
            broken.extend(marks(&text).into_iter().map(|mark| format!("{}: {mark}", file.display())));
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    found.into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// What a file of `src` does that it must not.
fn broken_rules(name: &str, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let place = name.trim_end_matches(".rs").trim_end_matches("/mod");
    let in_sys = place.split('/').next() == Some("sys");
    let generated = text.lines().next().is_some_and(|line| line.contains("do not edit"));
    if text.lines().count() > LONGEST_FILE && !generated {
        broken.push(format!("longer than {LONGEST_FILE} lines"));
    }
    let opens_room = name == "main.rs" || (name.ends_with("/mod.rs") && name.matches('/').count() == 1);
    if opens_room && !in_sys && !text.contains("\n#![forbid(unsafe_code)]\n") {
        broken.push("lacks #![forbid(unsafe_code)]".into());
    }
    broken.extend(marks(text));
    let code = code_of(text);
    if !in_sys && words(&code).any(|word| word == "unsafe") {
        broken.push("`unsafe` outside of src/sys".into());
    }
    let fits = |room: &&Room| place == room.path || place.starts_with(&format!("{}/", room.path));
    match ROOMS.iter().filter(fits).max_by_key(|room| room.path.len()) {
        None => broken.push("belongs to no room; tests/house_rules.rs lists them".into()),
        Some(room) => broken.extend(paths(&code).iter().filter_map(|path| judge(room, place, path))),
    }
    let mut broken: Vec<String> = broken.into_iter().map(|what| format!("src/{name}: {what}")).collect();
    broken.dedup();
    broken
}

/// Why `room` may not name `path`.
fn judge(room: &Room, place: &str, path: &str) -> Option<String> {
    let starts = |prefix: &&str| path == *prefix || path.starts_with(&format!("{prefix}::"));
    let Some(inside) = inside_the_crate(place, path) else {
        return room.may_not_touch.iter().find(|it| starts(it)).map(|it| format!("touches {it}"));
    };
    let home = room.path.replace('/', "::");
    let top = inside.split("::").next().unwrap_or_default();
    let known = ROOMS.iter().any(|room| room.path == top);
    let within = |prefix: &str| inside == prefix || inside.starts_with(&format!("{prefix}::"));
    // `crate::vassal::{plan, link}` is judged path by path; a bare `crate::vassal` is as good as all of it.
    let allowed = !known || within(&home) || room.may_import.iter().any(|it| within(it));
    (!allowed).then(|| format!("imports {inside}"))
}

/// The path from the crate's root, if it leads into the crate.
fn inside_the_crate(place: &str, path: &str) -> Option<String> {
    if let Some(rest) = path.strip_prefix("crate::").or_else(|| path.strip_prefix("emperor::")) {
        return Some(rest.into());
    }
    if !path.starts_with("super::") {
        return None;
    }
    let mut module: Vec<&str> = place.split('/').collect();
    let mut rest = path;
    while let Some(shorter) = rest.strip_prefix("super::") {
        module.pop();
        rest = shorter;
    }
    module.push(rest);
    Some(module.join("::"))
}

/// The code of a file: without comments, texts, and the tests at its end.
fn code_of(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let mut code = String::new();
    for line in text.lines() {
        let mut quoted = false;
        let mut before = ' ';
        let mut rest = line.chars().peekable();
        while let Some(c) = rest.next() {
            if c == '/' && rest.peek() == Some(&'/') && !quoted {
                break;
            }
            quoted ^= c == '"' && before != '\\' && before != '\'';
            if !quoted {
                code.push(c);
            }
            before = if before == '\\' && c == '\\' { ' ' } else { c };
        }
        code.push('\n');
    }
    code
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// All paths of at least two names, with `a::{b, c::d}` written out.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let starts =
        |at: usize| code[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && !"_:".contains(c));
    for (at, c) in code.char_indices() {
        if (c.is_alphabetic() || c == '_') && starts(at) {
            expand("", &code[at..], &mut found);
        }
    }
    found.retain(|path| path.contains("::"));
    found
}

/// Adds the path at the start of `code`, behind `prefix`; gives back what follows it.
fn expand<'c>(prefix: &str, code: &'c str, found: &mut Vec<String>) -> &'c str {
    let end = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
    let path = format!("{prefix}{}", &code[..end]);
    let rest = &code[end..];
    let Some(rest) = rest.strip_prefix("::") else {
        found.push(path);
        return rest;
    };
    let prefix = format!("{path}::");
    let Some(mut rest) = rest.strip_prefix('{') else { return expand(&prefix, rest, found) };
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',' || c == '*');
        if let Some(rest) = rest.strip_prefix('}') {
            return rest;
        }
        let before = rest.len();
        rest = expand(&prefix, rest, found);
        if let Some((_, renamed)) = rest.strip_prefix(" as ").and_then(|rest| rest.split_once([',', '}'])) {
            rest = &rest[rest.len() - renamed.len() - 1..];
        }
        if rest.is_empty() || rest.len() == before {
            return rest;
        }
    }
}

/// Signs of unfinished work.
fn marks(text: &str) -> Vec<String> {
    let marks =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("unimplemented", "!(")];
    marks.iter().filter(|mark| text.contains(**mark)).map(|mark| format!("unfinished: {mark}")).collect()
}

#[test]
fn each_kind_of_violation_is_seen() {
    let fence = "//! A room.\n#![forbid(unsafe_code)]\n";
    for (file, text, complaint) in [
        ("config/mod.rs", "//! No fence.\n", "lacks #![forbid(unsafe_code)]"),
        ("config/ini.rs", "use crate::sys::fds;\n", "imports sys::fds"),
        ("config/ini.rs", "fn f() -> crate::vassal::plan::Plan {}\n", "imports vassal::plan::Plan"),
        ("config/ini.rs", "use super::super::emperor::court;\n", "imports emperor::court"),
        ("config/ini.rs", "use std::{io, fs::File};\n", "touches std::fs"),
        ("config/ini.rs", "fn f() { std::fs::read(p); }\n", "touches std::fs"),
        ("config/door.rs", "use nix::unistd;\n", "touches nix"),
        ("emperor/court/mod.rs", "use tokio::time::Instant;\n", "touches tokio"),
        ("emperor/court/roll.rs", "use crate::emperor::hands::Hands;\n", "imports emperor::hands::Hands"),
        ("emperor/court/roll.rs", "use crate::sys::clock;\n", "imports sys::clock"),
        ("emperor/hands/mod.rs", "use crate::vassal::launch;\n", "imports vassal::launch"),
        (
            "emperor/hands/mod.rs",
            "use crate::{sys, vassal::{plan::{self, Plan}, launch::run}};\n",
            "imports vassal::launch::run",
        ),
        ("emperor/hands/mod.rs", "use crate::vassal;\n", "imports vassal"),
        ("emperor/hands/mod.rs", "use super::super::super::cli::help;\n", "imports cli::help"),
        ("vassal/launch.rs", "use crate::emperor::court;\n", "imports emperor::court"),
        ("sys/fds.rs", "use crate::config::model;\n", "imports config::model"),
        ("attic/mod.rs", fence, "belongs to no room; tests/house_rules.rs lists them"),
        ("vassal/jail.rs", "fn f() { unsafe { g() } }\n", "`unsafe` outside of src/sys"),
    ] {
        let broken = broken_rules(file, text);
        assert!(broken.contains(&format!("src/{file}: {complaint}")), "{file}: {text:?} gave {broken:?}");
    }
    let long = "\n".repeat(LONGEST_FILE + 1);
    assert_eq!(broken_rules("sys/a.rs", &long).len(), 1);
    assert_eq!(broken_rules("sys/a.rs", concat!("// TO", "DO: later\n")).len(), 1);
}

#[test]
fn what_the_rules_allow_is_not_complained_about() {
    for (file, text) in [
        ("config/door.rs", "use std::fs::{self, File};\n"),
        (
            "config/ini.rs",
            "// std::fs is the door's, crate::sys too\nlet unsafety = \"unsafe crate::sys::x // tokio::net\";\n",
        ),
        ("config/ini.rs", "use super::model::Pair;\nuse crate::config::{door, model};\n"),
        ("config/ini.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use std::fs; }\n"),
        (
            "emperor/hands/start.rs",
            "use crate::emperor::court::{Court, Event};\nuse crate::vassal::{link::{Order as O, Word}, plan};\n",
        ),
        ("emperor/court/mod.rs", "use super::source::VassalName;\nuse crate::vassal::link::Word;\n"),
        (
            "vassal/engine/link.rs",
            "use crate::vassal::link::Word;\nuse crate::sys;\nuse tokio::net::UnixStream;\n",
        ),
        ("sys/fds.rs", "// SAFETY: one call.\nunsafe { libc::close(3) };\n"),
        ("vassal/mod.rs", "//! A room.\n#![forbid(unsafe_code)]\npub mod plan;\n"),
    ] {
        assert_eq!(broken_rules(file, text), Vec::<String>::new(), "{file}: {text}");
    }
}
