//! Lists: what the system consists of, and the minimal base of a root of its own.

use std::path::Path;

use super::Around;
use crate::vassal::plan::Text;
use crate::vassal::plan::scene::{Bind, Entry, What};

/// Programs and libraries. Where some are links into `/usr`, that is enough.
pub(super) const SYSTEM: [&str; 9] =
    ["/usr", "/boot", "/efi", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
/// What has options of its own.
pub(super) const OF_THE_KERNEL: [&str; 3] = ["/dev", "/proc", "/sys"];
/// Where people live. Source: systemd.exec(5), `ProtectHome`.
pub(super) const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

/// What changes the kernel, or tells of it what attackers want to know. Source: systemd.exec(5),
/// `ProtectKernelTunables`.
const TUNABLES: [&str; 9] = [
    "/proc/acpi",
    "/proc/apm",
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/mtrr",
    "/proc/sys",
    "/proc/sysrq-trigger",
];
/// What nobody needs and much can be read from.
const SECRETS: [&str; 4] = ["/proc/kallsyms", "/proc/kcore", "/proc/keys", "/proc/timer_list"];

/// What programs look for in `/etc`, and nothing that tells of this host's other tenants: the loader's, name
/// resolution's, TLS certificates, time zone, users, alternatives, types, languages.
const ETC: [&str; 26] = [
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "gai.conf",
    "group",
    "host.conf",
    "hosts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "locale.conf",
    "localtime",
    "magic",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "pki",
    "protocols",
    "resolv.conf",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "timezone",
];

/// A root that holds the programs and libraries of the system, the files of `/etc` that every program may need, the
/// vassal's directory and what it needs besides.
pub(super) fn minimal(around: &Around) -> Vec<Entry> {
    let system = SYSTEM.into_iter().filter(|path| !matches!(*path, "/boot" | "/efi"));
    let mut entries: Vec<Entry> = system.map(|path| Entry::new(path, What::System).or_nothing()).collect();
    entries.extend(ETC.iter().map(|name| bind(format!("/etc/{name}").into(), true).or_nothing()));
    entries.extend(around.needs.iter().map(need));
    if is_worth_keeping(&around.directory) {
        entries.push(bind(around.directory.clone(), true).or_nothing());
    }
    entries
}

/// The vassal's directory where it lies in one that is hidden; its file alone where the directory is one of those.
pub(super) fn kept(around: &Around, hidden: &[Text]) -> Vec<Entry> {
    let below = |path: &Text| {
        let path = path.as_path();
        hidden.iter().any(|top| path.starts_with(top) && path != top.as_path())
    };
    let needed = around.needs.iter().filter(|needed| below(&needed.source));
    let mut entries: Vec<Entry> = needed.map(need).collect();
    let above = hidden.iter().any(|top| top.as_path().starts_with(&around.directory));
    let own = if above { &around.file } else { &around.directory };
    entries.extend((is_worth_keeping(own) && below(own)).then(|| bind(own.clone(), false)));
    entries
}

fn need(needed: &Bind) -> Entry {
    Entry::new(needed.source.clone(), What::Bind(needed.clone())).or_nothing()
}

fn is_worth_keeping(directory: &Text) -> bool {
    directory.as_path().is_absolute() && directory.as_path() != Path::new("/")
}

fn bind(path: Text, read_only: bool) -> Entry {
    Entry::new(path.clone(), What::Bind(Bind { source: path, read_only, opened_as: None }))
}

/// What a kernel's settings are, read-only; in a root of its own there is no `/sys`.
pub(super) fn tunables(own_root: bool) -> Vec<Entry> {
    let sys = (!own_root).then_some("/sys");
    let read_only = |path| Entry::new(path, What::ReadOnly).or_nothing();
    let mut entries: Vec<Entry> = TUNABLES.into_iter().chain(sys).map(read_only).collect();
    entries.extend(SECRETS.map(|path| Entry::new(path, What::Inaccessible).or_nothing()));
    entries
}
