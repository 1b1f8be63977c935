//! Values that end uWSGI later than while reading, and values that are not read as they look.

use super::{Findings, Severity};
use crate::config::answers::Config;
use crate::config::door::{PathKind, World};
use crate::config::engine::Mode;
use crate::config::model::{Origin, Pair, lossy};
use crate::config::options::{HandledBy, Kind, Opt, OptionId};
use crate::config::{validate, values};
use std::collections::HashMap;

pub(super) fn look(config: &Config, world: &dyn World, findings: &mut Findings) {
    let mut last: HashMap<OptionId, &Pair> = HashMap::new();
    let is_root = world.ids().0 == 0;
    for (option, pair) in config.applied() {
        let option = option.canonical();
        one(config, (world, is_root), option, pair, findings);
        if is_scalar(option)
            && let Some(before) = last.insert(option.same_as, pair)
        {
            overridden(option, before, pair, findings);
        }
    }
    references(config, findings);
    together(config, world, findings);
    if config.mode() != Mode::Emperor {
        owner(config, world, findings);
    }
}

/// One value by itself.
fn one(
    config: &Config,
    (world, is_root): (&dyn World, bool),
    option: &'static Opt,
    pair: &Pair,
    findings: &mut Findings,
) {
    let Some(value) = pair.value() else { return };
    let (key, shown, origin) = (lossy(pair.key()), lossy(value), pair.origin());
    let word = value.trim_ascii();
    match option.kind {
        Kind::Bool | Kind::BoolOff => {
            let plain = ["", "true", "1", "on", "yes", "false", "0", "off", "no"];
            if !plain.iter().any(|p| value.eq_ignore_ascii_case(p.as_bytes())) {
                let message = format!("{key} = {shown} is read as true");
                let remedy = "only false, off, no and 0 mean no";
                findings.add(Severity::Warning, origin, message, Some(remedy));
            }
        }
        Kind::Int | Kind::Rawint | Kind::Mb | Kind::U64 | Kind::U16 => {
            let (number, odd) = values::leading_integer(value);
            let signed = matches!(option.kind, Kind::Int | Kind::Rawint);
            let cut = match option.kind {
                Kind::U16 => u16::try_from(number).is_err(),
                _ => signed && i32::try_from(number).is_err(),
            };
            if odd || cut {
                let read = if signed {
                    values::atoi(Some(value)).to_string()
                } else {
                    values::strtoul(Some(value)).to_string()
                };
                findings.add(Severity::Warning, origin, format!("{key} = {shown} is read as {read}"), None);
            }
        }
        Kind::Umask if values::umask(value).is_none() => {
            let remedy = Some("write three octal digits, as 022");
            findings.add(Severity::Warning, origin, format!("invalid umask: {shown}, it becomes 0"), remedy);
        }
        Kind::User | Kind::Group if word == b"0" && is_root => findings.add(
            severity_of(config, Severity::Fatal),
            origin,
            format!("{key} = 0 is looked up as a name, and there is none"),
            Some("write root"),
        ),
        Kind::List if option.name.starts_with("hook-") => {
            if let Err(message) = validate::hook(value) {
                let severity = match option.name {
                    "hook-asap" | "hook-pre-jail" | "hook-in-jail" | "hook-pre-app" | "hook-post-app" => {
                        Severity::Fatal
                    }
                    "hook-post-jail" | "hook-as-root" | "hook-as-user" if is_root => Severity::Fatal,
                    _ => Severity::Warning,
                };
                findings.add(severity, origin, message, None);
            }
        }
        Kind::List if matches!(option.name, "mount" | "file-write") && !value.contains(&b'=') => {
            findings.add(Severity::Fatal, origin, format!("{key} = {shown}: there is no ="), None);
        }
        Kind::List if option.name == "envdir" && world.kind(value) != Some(PathKind::Directory) => {
            findings.add(Severity::Fatal, origin, format!("{shown} is not a directory"), None);
        }
        Kind::Str if option.name == "pivot-root" && is_root && !value.contains(&b' ') => {
            let message = "invalid pivot_root syntax, new_root and put_old must be separated by a space";
            findings.add(Severity::Fatal, origin, message, None);
        }
        Kind::Socket => socket(value, pair, findings),
        Kind::Str if option.name == "protocol" && !PROTOCOLS.contains(&word) => {
            let severity = if config.has("socket") { Severity::Fatal } else { Severity::Warning };
            findings.add(severity, origin, format!("unable to find protocol {shown}"), None);
        }
        _ => {}
    }
}

/// Fatal to a vassal is only a note to the emperor, which looks users up in another way.
fn severity_of(config: &Config, severity: Severity) -> Severity {
    if config.mode() == Mode::Emperor { Severity::Note } else { severity }
}

/// Protocols of sockets.
const PROTOCOLS: [&[u8]; 11] = [
    b"uwsgi",
    b"http",
    b"http11",
    b"https",
    b"fastcgi",
    b"fastcgi-nph",
    b"scgi",
    b"scgi-nph",
    b"raw",
    b"puwsgi",
    b"suwsgi",
];

fn socket(value: &[u8], pair: &Pair, findings: &mut Findings) {
    let address = value.trim_ascii_start();
    let is_path = !address.contains(&b':')
        && !matches!(address.first(), Some(b'@' | b'='))
        && !address.starts_with(b"\\0");
    if is_path && address.len() > SOCKET_PATH {
        let message = format!("invalid socket name: longer than {SOCKET_PATH} bytes");
        findings.add(Severity::Fatal, pair.origin(), message, None);
    } else if is_path && address.contains(&b' ') {
        let message = format!("{} is one file name, not two addresses", lossy(address));
        findings.add(Severity::Warning, pair.origin(), message, Some("write a line for each address"));
    }
}

/// The longest name of a unix socket that uWSGI takes; measured.
const SOCKET_PATH: usize = 102;

fn is_scalar(option: &Opt) -> bool {
    let kind = matches!(
        option.kind,
        Kind::Bool
            | Kind::BoolOff
            | Kind::Int
            | Kind::Rawint
            | Kind::U64
            | Kind::U16
            | Kind::Mb
            | Kind::Str
            | Kind::StrSpaced
            | Kind::User
            | Kind::Group
            | Kind::Mode3
            | Kind::Capabilities
    );
    kind && option.handled_by != HandledBy::Language
}

fn overridden(option: &Opt, before: &Pair, after: &Pair, findings: &mut Findings) {
    let same_file = match (before.origin().file_line(), after.origin().file_line()) {
        (Some((a, _)), Some((b, _))) => a.given == b.given,
        _ => false,
    };
    let name = lossy(before.key());
    let same_name =
        if before.key() == after.key() { String::new() } else { format!(" as {}", lossy(after.key())) };
    if before.value() == after.value() {
        let message = format!("{name} is given again{same_name} at {} with the same value", after.origin());
        return findings.add(Severity::Note, before.origin(), message, None);
    }
    let severity = if same_file { Severity::Warning } else { Severity::Note };
    let value = after.value().map_or_else(|| "true".to_owned(), lossy);
    let message = format!("{name} does not count: {value} is given later{same_name}, at {}", after.origin());
    let remedy = same_file.then(|| format!("keep one of the two lines; {} takes one value", option.name));
    findings.add(severity, before.origin(), message, remedy.as_deref());
}

/// References that were left as they are.
fn references(config: &Config, findings: &mut Findings) {
    for pair in config.pairs() {
        let value = pair.value().unwrap_or_default();
        let Some(option) = crate::config::options::find(pair.key()) else { continue };
        let left = option.immediate
            || matches!(option.kind, Kind::Declare | Kind::Route | Kind::Print)
            || option.canonical().name.contains("log-format");
        if left && option.kind != Kind::Load && option.kind != Kind::Int {
            continue;
        }
        for (opening, what) in [(&b"%("[..], "key"), (b"$(", "environment variable")] {
            let Some(at) = value.windows(2).position(|two| two == opening) else { continue };
            let Some(end) = value[at..].iter().position(|b| *b == b')') else { continue };
            let (whole, name) = (&value[at..=at + end], &value[at + 2..at + end]);
            let (message, remedy) = match () {
                () if option.immediate => (
                    format!(
                        "{} acts while it is read, so {} in it stays as it is",
                        lossy(pair.key()),
                        lossy(whole)
                    ),
                    None,
                ),
                () if was_inherited(pair.origin()) => (
                    format!("{} stays as it is: nothing is expanded in an inherited file", lossy(whole)),
                    Some("use include"),
                ),
                () if name.contains(&b' ') || name.is_empty() => continue,
                () => (format!("{} stays as it is: there is no {what} {}", lossy(whole), lossy(name)), None),
            };
            findings.add(Severity::Warning, pair.origin(), message, remedy);
        }
    }
}

fn was_inherited(origin: &Origin) -> bool {
    let mut at = Some(origin);
    while let Some((file, _)) = at.and_then(Origin::file_line) {
        if file.loaded_as == "inherit" {
            return true;
        }
        at = Some(&file.loaded_by);
    }
    false
}

/// Values that cannot go together.
fn together(config: &Config, world: &dyn World, findings: &mut Findings) {
    if let (Some(listen), Some(most)) = (config.int("listen"), world.somaxconn())
        && u64::try_from(listen.value).is_ok_and(|listen| listen > most)
    {
        let message = format!("listen = {} is more than this kernel allows, which is {most}", listen.value);
        findings.add(
            severity_of(config, Severity::Fatal),
            listen.origin,
            message,
            Some("raise net.core.somaxconn"),
        );
    }
    if config.mode() == Mode::Emperor {
        return;
    }
    if let Some(cheaper) = config.int("cheaper") {
        let processes = config.int("processes").map_or(1, |p| p.value);
        if cheaper.value > 0 && cheaper.value >= processes {
            let message = "invalid cheaper value: must be lower than processes";
            findings.add(Severity::Fatal, cheaper.origin, message, None);
        }
    }
    if let Some(apps) = config.int("max-apps").filter(|got| got.value == 0) {
        findings.add(Severity::Fatal, apps.origin, "max-apps must not be 0", None);
    }
    if let Some(most) = config.unsigned("max-worker-lifetime") {
        let least = config.unsigned("min-worker-lifetime").map_or(MIN_WORKER_LIFETIME, |got| got.value);
        if most.value > 0 && least >= most.value {
            let message = format!(
                "max-worker-lifetime = {} must be above min-worker-lifetime, which is {least}",
                most.value
            );
            findings.add(Severity::Fatal, most.origin, message, None);
        }
    }
    let on = |name: &str| config.unsigned(name).filter(|got| got.value > 0);
    if let Some(soft) = on("cheaper-rss-limit-soft").filter(|_| !config.flag("memory-report")) {
        let message = "cheaper-rss-limit-soft needs memory-report";
        findings.add(Severity::Fatal, soft.origin, message, None);
    }
    if let Some(hard) = on("cheaper-rss-limit-hard").filter(|_| on("cheaper-rss-limit-soft").is_none()) {
        let message = "cheaper-rss-limit-hard needs cheaper-rss-limit-soft";
        findings.add(Severity::Fatal, hard.origin, message, None);
    }
    if config.flag("need-app") && !APPLICATIONS.iter().any(|name| config.has(name)) {
        let origin = config.flag_origin("need-app").map(|got| got.origin.clone()).unwrap_or_default();
        findings.add(Severity::Note, &origin, "need-app without an application ends with status 22", None);
    }
}

/// In seconds; measured.
const MIN_WORKER_LIFETIME: u64 = 10;

/// Options that name an application.
const APPLICATIONS: [&str; 9] =
    ["module", "wsgi-file", "mount", "psgi", "rack", "rails", "paste", "ini-paste", "lua"];

/// What only root can do, and who is not there.
fn owner(config: &Config, world: &dyn World, findings: &mut Findings) {
    let (own_uid, own_gid) = world.ids();
    for (name, own, is_user) in [("uid", own_uid, true), ("gid", own_gid, false)] {
        let Some(got) = config.string(name) else { continue };
        let shown = lossy(got.value);
        match values::numeric_id(got.value) {
            Some(id) if own_uid != 0 && id != own => {
                let message = format!("cannot set{name}() as non-root user: {name} {own} cannot become {id}");
                findings.add(Severity::Fatal, got.origin, message, Some("remove it, or start as root"));
            }
            Some(_) => {}
            None if own_uid != 0 => {
                let message = format!("{name} = {shown} does nothing: only root can change it");
                findings.add(Severity::Warning, got.origin, message, None);
            }
            None if got.value == b"0" => {}
            None => {
                let known = if is_user { world.has_user(got.value) } else { world.has_group(got.value) };
                if !known {
                    let kind = if is_user { "user" } else { "group" };
                    let message =
                        format!("{kind} {shown} is not in /etc/{}", if is_user { "passwd" } else { "group" });
                    let remedy = "uWSGI ends if no other name service knows it";
                    findings.add(Severity::Warning, got.origin, message, Some(remedy));
                }
            }
        }
    }
    if own_uid == 0 {
        return;
    }
    for (option, pair) in config.applied() {
        let name = option.canonical().name;
        let severity = match name {
            "chroot" => Severity::Fatal,
            "unshare" | "unshare2" | "cap" | "cgroup" | "pivot-root" | "namespace" | "chown-socket" => {
                Severity::Warning
            }
            _ if name.ends_with("-as-root") || name.ends_with("-as-user") => Severity::Warning,
            _ => continue,
        };
        let message = if severity == Severity::Fatal {
            "cannot chroot() as non-root user".to_owned()
        } else {
            format!("{name} does nothing unless uWSGI is started as root")
        };
        findings.add(severity, pair.origin(), message, None);
    }
}
