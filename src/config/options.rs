//! The option table: every name uWSGI and the emperor know, what it takes and who acts on it.
//!
//! `options.tsv` is the source; `options_table.rs` and `docs/options.md` are made from it by
//! `EMPEROR_BLESS=1 cargo nextest run --test options_table` and that test fails when they are out of step.

use super::options_table::{OPTIONS, PLUGINS};
use super::words::Misspelt;

/// One option.
#[derive(Debug)]
pub struct Opt {
    /// Its name, without dashes in front.
    pub name: &'static str,
    /// The index in `PLUGINS` of the plugin it belongs to.
    pub plugin: u8,
    /// Whether it takes a value on the command line.
    pub argument: Argument,
    /// The one-letter form, or 0.
    pub short: u8,
    /// How its value is read.
    pub kind: Kind,
    /// It acts while it is read, so its value is never expanded.
    pub immediate: bool,
    /// Options it turns on.
    pub implies: &'static [&'static str],
    /// The option it is another name of; itself if it is none.
    pub same_as: OptionId,
    /// Who acts on it.
    pub handled_by: HandledBy,
    /// The heading it is listed under; empty if it is not documented here.
    pub group: &'static str,
    /// One line of help; empty if it is not documented here.
    pub help: &'static str,
    /// Its place in uWSGI's own order, which decides between names that share a letter.
    pub rank: u16,
}

impl Opt {
    /// The option this one is a name of.
    #[must_use]
    pub fn canonical(&self) -> &'static Self {
        &OPTIONS[usize::from(self.same_as.0)]
    }

    /// The name of its plugin: `core`, one of [`OURS`], or a uWSGI plugin.
    #[must_use]
    pub fn plugin_name(&self) -> &'static str {
        PLUGINS[usize::from(self.plugin)]
    }

    /// Whether uWSGI does not know it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        OURS.contains(&self.plugin_name())
    }
}

/// What stands for a plugin with our own options: those of the emperor, and those of a vassal's file.
pub const OURS: [&str; 2] = ["emperor", "vassal"];

/// The headings, in the order in which people are shown them.
pub const GROUPS: &[&str] = &[
    "Sources",
    "Vassal launch",
    "Tyrant",
    "Stop and reload",
    "Back-off",
    "On demand",
    "Zerg",
    "Stats",
    "Control",
    "Hooks",
    "Process",
    "Log",
    "Language",
    "Other",
    "Vassal: program",
    "Vassal: sockets",
    "Vassal: sandbox",
    "Vassal: privileges",
    "Vassal: resources",
];

/// An index into the table, always of a canonical option.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct OptionId(pub(super) u16);

/// Whether an option takes a value on the command line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Argument {
    /// It is a flag.
    None,
    /// It needs one.
    Value,
    /// It takes one only glued to it: `--log-date=%H`, `-C660`.
    Optional,
}

/// How a value is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(
    missing_docs,
    reason = "the names are those of the column `kind`, which docs/design/config.md explains"
)]
pub enum Kind {
    Bool,
    BoolOff,
    Int,
    Rawint,
    U64,
    U16,
    Mb,
    Str,
    StrSpaced,
    List,
    ListPair,
    ListRegex,
    ListRegexValue,
    ListNameRegex,
    ListIp,
    Socket,
    SharedSocket,
    SocketTls,
    User,
    Group,
    Mode3,
    Umask,
    Namespaces,
    Capabilities,
    Cron,
    Cron2,
    Daemon,
    Env,
    Route,
    PluginList,
    Logic,
    LogicEnd,
    Placeholder,
    Load,
    Print,
    Exit,
    Declare,
    Clear,
    SignalAndExit,
    Special,
}

/// Who acts on an option that was given to the emperor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HandledBy {
    /// The emperor: it is what it is for.
    Emperor,
    /// The process the emperor runs in, before it starts.
    Process,
    /// The configuration language itself.
    Language,
    /// Taken, and there is nothing to do.
    Accepted,
    /// Means something only in a vassal.
    Vassal,
    /// Cannot be done here.
    Ignored,
}

/// The set of plugins whose options are known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Plugins(u64);

impl Plugins {
    /// uWSGI without any plugin.
    #[must_use]
    pub fn core() -> Self {
        let mut set = Self(0);
        set.load("core");
        set
    }

    /// uWSGI with everything built in.
    #[must_use]
    pub fn all() -> Self {
        let mut set = Self::core();
        PLUGINS.iter().filter(|name| !OURS.contains(name)).for_each(|name| {
            set.load(name);
        });
        set
    }

    /// Makes the options of a plugin known; `false` if the table has none of that name.
    pub fn load(&mut self, name: &str) -> bool {
        match PLUGINS.iter().position(|p| *p == name) {
            Some(bit) => {
                self.0 |= 1 << bit;
                true
            }
            None => false,
        }
    }

    /// Whether this option is known now.
    #[must_use]
    pub fn know(self, option: &Opt) -> bool {
        self.0 & (1 << option.plugin) != 0
    }
}

/// Finds an option by its exact name, whatever plugin it belongs to.
#[must_use]
pub fn find(name: &[u8]) -> Option<&'static Opt> {
    OPTIONS.binary_search_by(|option| option.name.as_bytes().cmp(name)).ok().map(|at| &OPTIONS[at])
}

/// All options, sorted by name.
#[must_use]
pub fn all() -> &'static [Opt] {
    &OPTIONS
}

/// The table's name of a plugin as people write it: `python311` and `python3` are `python`, `lua5.4` is `lua`.
#[must_use]
pub fn plugin_of(name: &str) -> &str {
    let name = name.rsplit('/').next().unwrap_or(name);
    let name = name.strip_suffix(".so").unwrap_or(name);
    let name = name.strip_suffix("_plugin").unwrap_or(name);
    if PLUGINS.contains(&name) {
        return name;
    }
    let bare = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    if bare.is_empty() { name } else { bare }
}

/// The nearest known name to one that is not known, if one is near enough to be what was meant.
#[must_use]
pub fn nearest(name: &[u8], plugins: Plugins) -> Option<&'static Opt> {
    let name = Misspelt::new(name)?;
    if let Some(option) = find(name.plain()).filter(|o| plugins.know(o)) {
        return Some(option);
    }
    OPTIONS
        .iter()
        .filter(|o| plugins.know(o))
        .filter_map(|o| name.distance(o.name.as_bytes()).map(|d| (d, o.rank, o)))
        .min_by_key(|(d, rank, _)| (*d, *rank))
        .map(|(_, _, o)| o)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_found() {
        let near = |name: &str| nearest(name.as_bytes(), Plugins::core()).map(|o| o.name);
        for (name, meant) in [
            ("proceses", Some("processes")),
            ("max_requests", Some("max-requests")),
            ("hrakiri", Some("harakiri")),
            ("hraakiri", Some("harakiri")),
            ("Master", Some("master")),
            ("chmod-scoket", Some("chmod-socket")),
            ("database", None),
            ("x", None),
        ] {
            assert_eq!(near(name), meant, "{name}");
        }
    }

    #[test]
    fn plugins_are_known_by_the_names_of_their_files() {
        for (name, plugin) in
            [("python311", "python"), ("lua51", "lua"), ("http", "http"), ("/x/php_plugin.so", "php")]
        {
            assert_eq!(plugin_of(name), plugin);
        }
    }
}
