//! What the emperor's own configuration says, kept for the program that goes on after this one: it tells what has
//! changed since, which of that needs a restart, and which vassals it touches.
//!
//! Pure: options in, differences out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use crate::config::options::{HandledBy, Kind};
use crate::config::{Config, values};
use crate::vassal::plan::Text;

/// One option as it was applied.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Edict {
    option: String,
    value: Text,
    place: String,
}

/// All of them, in the order of application.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Edicts(Vec<Edict>);

/// What a changed option means for what runs already.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// It counts at once, or for what starts from now on; no vassal that runs is another one for it.
    Now,
    /// Vassals that were started with the old value are to start again.
    Touches(Whom),
    /// The process has made it so when it started, and cannot make it otherwise.
    Restart,
}

/// Whom a changed option touches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Whom {
    /// Every vassal.
    All,
    /// Those that the engine runs: not those with a `command`.
    Engine,
    /// Those for whom another policy comes of it.
    Policy,
    /// Those without a control group; in one, the new limits hold at once.
    Ungrouped,
    /// Those that wait at a socket which the option names, and those that will.
    OnDemand,
}

/// An option that says something else than before.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// Its name.
    pub option: String,
    /// What that means.
    pub effect: Effect,
    before: Vec<Text>,
    now: Vec<Text>,
    place: String,
}

/// Options that touch vassals; of families of options, what they end in.
const TOUCHING: [(Whom, &[&str]); 5] = [
    (
        Whom::All,
        &[
            "vassals-inherit",
            "vassals-include",
            "vassals-inherit-before",
            "vassals-include-before",
            "vassals-set",
            "vassals-start-hook",
            "emperor-use-clone",
            "emperor-cap",
            "emperor-magic-exec",
            "emperor-tyrant-initgroups",
            "emperor-die-together",
            "hook-as-vassal",
            "mount-as-vassal",
            "umount-as-vassal",
            "exec-as-vassal",
            "env",
            "unenv",
            "envdir",
            "umask",
            "safe-fd",
            "force-cwd",
        ],
    ),
    (
        Whom::Engine,
        &["emperor-wrapper", "emperor-wrapper-override", "emperor-wrapper-fallback", "binary-path"],
    ),
    (Whom::Policy, &["vassal-sandbox", "emperor-policy"]),
    (
        Whom::Ungrouped,
        &[
            "vassal-cgroup",
            "vassal-memory-max",
            "vassal-memory-high",
            "vassal-tasks-max",
            "vassal-cpu-max",
            "vassal-cpu-weight",
            "vassal-io-weight",
        ],
    ),
    (
        Whom::OnDemand,
        &["emperor-on-demand-extension", "emperor-on-demand-directory", "emperor-on-demand-exec"],
    ),
];

/// Options that a process follows once, when it starts.
const AT_START: [&str; 26] = [
    "daemonize",
    "daemonize2",
    "logto",
    "logto2",
    "chroot",
    "uid",
    "gid",
    "add-gid",
    "no-initgroups",
    "cap",
    "pidfile",
    "pidfile2",
    "safe-pidfile",
    "safe-pidfile2",
    "emperor-pidfile",
    "vacuum",
    "limit-as",
    "limit-nproc",
    "prio",
    "max-fd",
    "early-emperor",
    "file-write",
    "wait-for-fs",
    "wait-for-mountpoint",
    "wait-for-interface",
    "wait-for-socket",
];

/// What the names of hooks end in that have run.
const RUN_PHASES: [&str; 7] =
    ["-asap", "-pre-jail", "-post-jail", "-in-jail", "-as-root", "-as-user", "-emperor-start"];

impl Edicts {
    /// What a configuration says to the emperor and to its process.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let mut all: Vec<Edict> = Vec::new();
        for (option, pair) in config.applied() {
            if !matches!(option.handled_by, HandledBy::Emperor | HandledBy::Process) {
                continue;
            }
            let option = option.canonical();
            let value = match option.kind {
                Kind::Bool => values::truth(pair.value()).to_string().into_bytes(),
                _ => pair.value().unwrap_or_default().to_vec(),
            };
            if matches!(
                option.kind,
                Kind::Bool | Kind::Int | Kind::U64 | Kind::Str | Kind::Mode3 | Kind::Umask
            ) {
                all.retain(|edict| edict.option != option.name); // the last one counts
            }
            all.push(Edict {
                option: option.name.into(),
                value: Text::from(OsStr::from_bytes(&value)),
                place: pair.origin().to_string(),
            });
        }
        Self(all)
    }

    /// What has changed from these to others.
    #[must_use]
    pub fn changes(&self, now: &Self) -> Vec<Change> {
        let mut options: Vec<&str> = Vec::new();
        for edict in self.0.iter().chain(&now.0) {
            if !options.contains(&edict.option.as_str()) {
                options.push(&edict.option);
            }
        }
        let changed = options.into_iter().filter_map(|option| {
            let (before, after) = (self.values(option), now.values(option));
            let place = now.place(option).or_else(|| self.place(option)).unwrap_or_default().to_owned();
            // A switch that is off says what nothing says.
            let off = |values: &[Text]| values.is_empty() || values == [Text::from("false")];
            (before != after && !(off(&before) && off(&after))).then(|| Change {
                option: option.to_owned(),
                effect: effect(option),
                before,
                now: after,
                place,
            })
        });
        changed.collect()
    }

    /// What is in force in a process that has gone on: these, but for what it has done at its start.
    #[must_use]
    pub fn after(self, start: &Self) -> Self {
        let lasting = |edict: &&Edict| effect(&edict.option) == Effect::Restart;
        let mut all: Vec<_> = start.0.iter().filter(lasting).cloned().collect();
        all.extend(self.0.into_iter().filter(|edict| !lasting(&edict)));
        Self(all)
    }

    fn values(&self, option: &str) -> Vec<Text> {
        self.0.iter().filter(|edict| edict.option == option).map(|edict| edict.value.clone()).collect()
    }

    fn place(&self, option: &str) -> Option<&str> {
        self.0.iter().rfind(|edict| edict.option == option).map(|edict| edict.place.as_str())
    }
}

fn effect(option: &str) -> Effect {
    let touched = TOUCHING.iter().find(|(_, options)| options.contains(&option));
    if let Some((whom, _)) = touched {
        Effect::Touches(*whom)
    } else if AT_START.contains(&option) || RUN_PHASES.iter().any(|phase| option.ends_with(phase)) {
        Effect::Restart
    } else {
        Effect::Now
    }
}

impl Change {
    /// The option and where it stands.
    #[must_use]
    pub fn named(&self) -> String {
        match self.now.is_empty() {
            true => format!("{} (gone; it stood at {})", self.option, self.place),
            false => format!("{} ({})", self.option, self.place),
        }
    }
}

/// With the values: for options that are no secrets.
impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |values: &[Text]| match values {
            [] => "nothing".to_owned(),
            values => values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", "),
        };
        write!(f, "{}: {} → {} ({})", self.option, shown(&self.before), shown(&self.now), self.place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Limits, Loader, Machine, Mode, options};

    fn edicts(options: &[&str]) -> Edicts {
        let world = Machine::new();
        let arguments: Vec<_> = options.iter().map(std::ffi::OsString::from).collect();
        let config = Loader::new(&world, Limits::default()).load(&arguments, &[], Mode::Emperor).unwrap();
        Edicts::of(&config)
    }

    fn told(before: &[&str], now: &[&str]) -> Vec<(String, Effect)> {
        let changes = edicts(before).changes(&edicts(now));
        changes.into_iter().map(|change| (change.to_string(), change.effect)).collect()
    }

    #[test]
    fn every_option_that_is_classified_is_one_of_the_emperors() {
        let all = TOUCHING.iter().flat_map(|(_, options)| options.iter()).chain(&AT_START);
        for name in all {
            let option = options::find(name.as_bytes()).unwrap_or_else(|| panic!("{name} is no option"));
            assert_eq!(option.canonical().name, *name, "an alias never comes here");
            assert!(matches!(option.handled_by, HandledBy::Emperor | HandledBy::Process), "{name}");
        }
    }

    #[test]
    fn a_change_is_told_with_both_values_and_its_place() {
        let now = ["--emperor", "/v", "--uid=www", "--vassal-set=a=b", "--emperor-throttle=5"];
        assert_eq!(
            told(&["--emperor", "/v", "--uid=root"], &now),
            [
                ("uid: `root` → `www` (command line, argument 3)".into(), Effect::Restart),
                (
                    "vassals-set: nothing → `a=b` (command line, argument 4)".into(),
                    Effect::Touches(Whom::All)
                ),
                ("emperor-throttle: nothing → `5` (command line, argument 5)".into(), Effect::Now),
            ]
        );
        let gone = edicts(&["--uid=root"]).changes(&edicts(&[]));
        assert_eq!(gone[0].named(), "uid (gone; it stood at command line, argument 1)");
    }

    #[test]
    fn what_comes_to_the_same_is_no_change() {
        assert_eq!(told(&["--logto=/a", "--logto=/b"], &["--logto=/b"]), []);
        assert_eq!(told(&["--emperor-tyrant"], &["--set=emperor-tyrant=true"]), []);
        assert_eq!(told(&["--vassal-set=a=b"], &["--vassals-set=a=b"]), []);
        assert_eq!(told(&["--set=emperor-magic-exec=false"], &[]), []);
        assert_eq!(told(&["--hook-asap=exec:a"], &["--hook-asap=exec:b"])[0].1, Effect::Restart);
        assert_eq!(told(&[], &["--hook-as-user-atexit=exec:b"])[0].1, Effect::Now, "it has not run yet");
    }

    #[test]
    fn what_needs_a_restart_is_told_until_there_is_one() {
        let (start, now) = (edicts(&["--uid=root"]), edicts(&["--uid=www", "--emperor-throttle=5"]));
        let in_force = now.clone().after(&start);
        let left = in_force.changes(&now);
        assert_eq!(left.iter().map(|change| change.option.as_str()).collect::<Vec<_>>(), ["uid"]);
        assert_eq!(in_force.changes(&edicts(&["--uid=root", "--emperor-throttle=5"])), []);
    }
}
