//! What a vassal's own file asks of the emperor, beyond what its engine reads itself.
//!
//! Pure: a configuration that was read in the mode [`Mode::Vassal`](crate::config::Mode::Vassal) in, data out. Who
//! reads it is the emperor for root's files, and a process that has become the tenant in tyrant mode; then the terms
//! are a tenant's bytes, and whoever takes them checks what they may ask for. Each part has a file of its own, which
//! knows how the part is read, how an emperor's policy and a tenant's wish become one, and which operations of a
//! [`LaunchPlan`](super::plan::LaunchPlan) come of it.

pub mod cgroup;
pub mod demand;
mod identity;
mod life;
pub mod phases;
mod privileges;
mod program;
mod scale;
pub mod sockets;
pub mod view;
mod words;
pub mod zerg;

use serde::{Deserialize, Serialize};

use std::path::Path;

use crate::config::{self, Config, ConfigError, Got, Origin, check};
use crate::vassal::plan::Text;
use crate::vassal::probe::Probe;
use crate::vassal::socket::Address;
use cgroup::{NamedGroups, ResourceTerms};
use demand::DemandTerms;
pub use identity::Identity;
pub use life::{LifeTerms, ReadyBy, ReloadBy, Seconds, SignalNumber, Turns, rolls};
use phases::Phases;
pub use privileges::{Bounding, Landlock, OF_ROOT, Privileges, Start};
pub use program::{Program, changed, shown};
pub use scale::ScaleTerms;
use sockets::{Names, SocketTerms, SystemNames};
use view::View;
pub use words::may_ask;

/// What a vassal's own file asks for. The default is what most files ask for: nothing.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// `command`; without it the emperor's engine runs the file.
    pub program: Option<Program>,
    /// The listening sockets of a command vassal.
    #[serde(default)]
    pub sockets: SocketTerms,
    /// When the vassal runs.
    #[serde(default)]
    pub demand: DemandTerms,
    /// As whom a command vassal runs.
    pub identity: Option<Identity>,
    /// Control groups that a command vassal enters besides.
    pub groups: Option<NamedGroups>,
    /// How the vassal is told things, and when it is ready.
    #[serde(default)]
    pub life: LifeTerms,
    /// How many processes of a command vassal serve its sockets.
    #[serde(default)]
    pub scale: ScaleTerms,
    /// `sandbox`.
    pub level: Level,
    /// What it may do.
    pub privileges: Privileges,
    /// Its share of the machine.
    pub resources: ResourceTerms,
    /// What it sees.
    pub view: View,
    /// What a command vassal asks for by uWSGI's options of jails.
    pub phases: Phases,
    /// What the file says and nobody does.
    pub left_out: Vec<String>,
}

/// Most lines about what is left out.
const MOST_LINES: usize = 20;

impl Terms {
    /// Reads them.
    ///
    /// # Errors
    /// [`TermsError`].
    pub fn read(config: &Config) -> Result<Self, TermsError> {
        Self::read_with(config, &SystemNames)
    }

    /// Reads them, and has these looked up who are behind names.
    ///
    /// # Errors
    /// [`TermsError`].
    pub fn read_with(config: &Config, names: &dyn Names) -> Result<Self, TermsError> {
        let asked = Asked(config);
        let level = asked.parsed("sandbox", Level::parse)?.unwrap_or_default();
        let program = Program::read(asked)?;
        let mut life = LifeTerms::read(asked)?;
        let scale = if program.is_some() { ScaleTerms::read(asked)? } else { ScaleTerms::default() };
        let mut left_out = if program.is_some() { Program::left_out(asked) } else { Vec::new() };
        let demand::Read { demand, turns, left_out: lines } =
            DemandTerms::read(asked, program.is_some(), names)?;
        life.turns = turns;
        left_out.extend(lines);
        left_out.extend(check::misspelt(config).map(|(pair, near)| {
            let key = config::lossy(pair.key());
            format!(
                "{}: {key} is no option and nothing refers to it: did you mean `{}`?",
                pair.origin(),
                near.name
            )
        }));
        left_out.truncate(MOST_LINES);
        let sockets = match (&program, asked.value("command")) {
            (Some(program), Some(command)) => {
                let sockets = SocketTerms::read(asked, names)?;
                program.placed(&sockets).map_err(|cause| TermsError::new(&command, "command", cause))?;
                sockets
            }
            _ => SocketTerms::default(),
        };
        let identity = if program.is_some() { Identity::read(asked)? } else { None };
        let privileges = Privileges::read(asked, level)?;
        let groups = if program.is_some() { NamedGroups::read(asked)? } else { None };
        let resources = ResourceTerms::read(asked, level)?;
        let view = View::read(asked, level)?;
        let phases = if program.is_some() { Phases::read(asked)? } else { Phases::default() };
        Ok(Self {
            program,
            sockets,
            life,
            scale,
            demand,
            identity,
            groups,
            level,
            privileges,
            resources,
            view,
            phases,
            left_out,
        })
    }

    /// What a level asks for by itself.
    #[must_use]
    pub fn of_level(level: Level) -> Self {
        Self {
            level,
            privileges: Privileges::level(level),
            resources: ResourceTerms::level(level),
            view: View::level(level),
            ..Self::default()
        }
    }

    /// As a tenant may ask: nothing that gives more than he has.
    ///
    /// # Errors
    /// What he asks for and cannot have: to be somebody else.
    pub fn of_tenant(self, uid: u32, gid: u32) -> Result<Self, String> {
        if self.groups.is_some() {
            return Err(NamedGroups::NOT_A_TENANTS.into());
        }
        match self.identity.as_ref().and_then(|identity| identity.differs_from(uid, gid)) {
            Some(why) => Err(why),
            None => {
                let phases = self.phases.of_tenant()?;
                let view = self.view.of_tenant(uid, gid)?;
                Ok(Self { identity: None, privileges: self.privileges.of_tenant(), view, phases, ..self })
            }
        }
    }

    /// The stricter of what a policy and what a vassal's file says, part by part. What only a file can say is the
    /// file's.
    #[must_use]
    pub fn under(self, policy: &Self) -> Self {
        let privileges = self.privileges.joined(&policy.privileges);
        let resources = self.resources.joined(&policy.resources);
        let view = self.view.joined(&policy.view);
        Self { level: self.level.max(policy.level), privileges, resources, view, ..self }
    }

    /// What cannot be had together, for a person: who asks whether it is ready is not in its private network, and
    /// reaches only sockets that it is given.
    #[must_use]
    pub fn contradiction(&self) -> Option<String> {
        let Some(ReadyBy::Probe(check)) = self.life.ready.as_ref().filter(|_| self.view.private_network)
        else {
            return None;
        };
        let probe = Probe::parse(check, Path::new("/")).ok()?;
        let asked = probe.address().filter(|address| !matches!(address, Address::Path(_)))?;
        let is_it = |own: &Address| match (own, asked) {
            (Address::Tcp(own), Address::Tcp(asked)) => own.port() == asked.port(),
            (own, asked) => own == asked,
        };
        let given = self.sockets.own().iter().any(|socket| is_it(&socket.address));
        (!given && self.demand == DemandTerms::default()).then(|| {
            format!(
                "ready-check = {check}: nobody outside of its private network can reach that: name one of the sockets of \
                 this file, or say `notify` or `exec:COMMAND`"
            )
        })
    }

    /// Whether the file asks for nothing, and its vassal is started as uWSGI's Emperor would.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the vassal is started as if its file asked for nothing, but in a control group.
    #[must_use]
    pub fn ask_for_a_share_only(&self) -> bool {
        let Self {
            program,
            sockets: _,
            scale: _,
            life,
            demand: _,
            identity,
            groups,
            level,
            privileges,
            view,
            phases,
            resources: _,
            left_out: _,
        } = self;
        program.is_none()
            && !life.notifies()
            && identity.is_none()
            && groups.is_none()
            && *level == Level::None
            && *privileges == Privileges::default()
            && view.is_none()
            && phases.is_none()
    }
}

/// Why a file's terms cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TermsError {
    /// A number that is none, or out of range.
    #[error(transparent)]
    Number(#[from] ConfigError),
    /// Anything else.
    #[error("{place}: {option}: {cause}")]
    Value {
        /// Where it stands.
        place: Origin,
        /// The option.
        option: &'static str,
        /// What is wrong with it, and what is wanted.
        cause: String,
    },
}

impl TermsError {
    /// An option whose value cannot be used.
    #[must_use]
    pub fn new(got: &Got<'_, &[u8]>, option: &'static str, cause: impl ToString) -> Self {
        Self::Value { place: got.origin.clone(), option, cause: cause.to_string() }
    }
}

/// A configuration, asked by option names: what the parts have in common.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'c>(pub &'c Config);

impl<'c> Asked<'c> {
    /// A flag, if anything was said about it.
    #[must_use]
    pub fn flag(self, option: &str) -> Option<bool> {
        self.0.flag_origin(option).map(|got| got.value)
    }

    /// A value, if it is not empty.
    #[must_use]
    pub fn value(self, option: &str) -> Option<Got<'c, &'c [u8]>> {
        self.0.string(option).filter(|got| !got.value.trim_ascii().is_empty())
    }

    /// A value, read by `parse`.
    ///
    /// # Errors
    /// What `parse` has against it, with its place.
    pub fn parsed<T, E: ToString>(
        self,
        option: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, TermsError> {
        let Some(got) = self.value(option) else { return Ok(None) };
        let text = std::str::from_utf8(got.value.trim_ascii())
            .map_err(|_| TermsError::new(&got, option, "the value is not UTF-8"))?;
        parse(text).map(Some).map_err(|cause| TermsError::new(&got, option, cause))
    }

    /// A path or another text, as the system has it.
    #[must_use]
    pub fn text(self, option: &str) -> Option<Text> {
        use std::os::unix::ffi::OsStrExt;
        self.value(option).map(|got| Text::from(std::ffi::OsStr::from_bytes(got.value)))
    }

    /// Every value of an option that may be given several times, each cut into words at blanks.
    pub fn words(self, option: &str) -> impl Iterator<Item = Got<'c, &'c [u8]>> {
        self.0.list(option).flat_map(|got| {
            let words = got.value.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            words.map(move |value| Got { value, origin: got.origin })
        })
    }

    /// A whole number in a range.
    ///
    /// # Errors
    /// [`TermsError::Number`].
    pub fn number(
        self,
        option: &str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<Option<i64>, TermsError> {
        Ok(self.0.int_in(option, range)?.map(|got| got.value))
    }
}

/// How much a vassal is shut in by one line (`vassal-sandbox`, `sandbox`).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Not at all.
    #[default]
    None,
    /// Away from the other tenants and from the system, in a view of the system that programs expect.
    Standard,
    /// In a root of its own that holds only what it names, without a network.
    Strict,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Standard => "standard",
            Self::Strict => "strict",
        })
    }
}

impl Level {
    /// The level of that name.
    ///
    /// # Errors
    /// What is wanted instead.
    pub fn parse(name: &str) -> Result<Self, String> {
        let levels = [("none", Self::None), ("standard", Self::Standard), ("strict", Self::Strict)];
        config::words::choose(name, &levels)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::{Limits, Loader, Machine, Mode};

    /// A vassal's file with these lines below `[uwsgi]`.
    pub(in crate::vassal) fn config(lines: &str) -> Config {
        config_with(&[], lines)
    }

    /// The same, behind these arguments.
    pub(in crate::vassal) fn config_with(arguments: &[&str], lines: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.ini"), format!("[uwsgi]\n{lines}")).unwrap();
        let world = Machine::new().in_directory(dir.path());
        let words: Vec<_> =
            arguments.iter().chain(&["--ini", "a.ini"]).map(std::ffi::OsString::from).collect();
        Loader::new(&world, Limits::default()).load(&words, &[], Mode::Vassal).unwrap()
    }

    #[test]
    fn a_question_that_cannot_reach_a_private_network_is_refused_by_name() {
        let says = |lines: &str| {
            let lines = format!("command = a\nsocket = 127.0.0.1:8080\n{lines}");
            Terms::read(&config(&lines)).unwrap().contradiction()
        };
        for lines in [
            "ready-check = tcp:127.0.0.1:9000",
            "private-network = yes\nready-check = tcp",
            "private-network = yes\nready-check = http://127.0.0.1:8080/ready",
            "private-network = yes\nready-check = http-unix:/run/a:/ready",
            "private-network = yes\nready-check = exec:true",
            "private-network = yes\nready-check = notify",
        ] {
            assert_eq!(says(lines), None, "{lines}");
        }
        let why = says("sandbox = strict\nready-check = tcp:127.0.0.1:9000").unwrap();
        assert!(
            why.starts_with("ready-check = tcp:127.0.0.1:9000: nobody outside of its private network"),
            "{why}"
        );
    }

    #[test]
    fn an_ordinary_file_asks_for_nothing() {
        assert!(Terms::read(&config("master = true\nsocket = /tmp/x\n")).unwrap().is_nothing());
        assert!(!Terms::read(&config("sandbox = standard\n")).unwrap().is_nothing());
        let wrong = Terms::read(&config("sandbox = tight\n")).unwrap_err().to_string();
        let told = "a.ini:2: sandbox: `none`, `standard` or `strict` is wanted; this is `tight`";
        assert!(wrong.ends_with(told), "{wrong}");
    }

    #[test]
    fn what_was_meant_by_a_misspelt_option_is_told() {
        let told = |lines: &str| Terms::read(&config(&format!("command = a\n{lines}"))).unwrap().left_out;
        let told_of =
            "a.ini:3: protect-sytem is no option and nothing refers to it: did you mean `protect-system`?";
        assert!(told("protect-sytem = full\n")[0].ends_with(told_of));
        for fine in ["protect-system = full\n", "place = /x\nchdir = /\nenv = A=%(place)\n", "zzqqxx = 1\n"] {
            assert_eq!(told(fine), [""; 0], "{fine}");
        }
        assert_eq!(told("procesess = /x\nenv = A=%(procesess)\n"), [""; 0], "a name of the file's own");
    }

    #[test]
    fn terms_come_through_json_as_they_were() {
        let terms = Terms::read(&config("command = a b\nenv = A=é\nsandbox = strict\n")).unwrap();
        let text = serde_json::to_vec(&terms).unwrap();
        assert_eq!(serde_json::from_slice::<Terms>(&text).unwrap(), terms);
    }

    #[test]
    fn groups_are_named_by_the_administrator_only_and_for_a_command_only() {
        let lines = "command = a\ncgroup = /sys/fs/cgroup/a\ncgroup-opt = memory.max=1G\n";
        let terms = Terms::read(&config(lines)).unwrap();
        let groups = terms.groups.clone().unwrap();
        assert_eq!((groups.mode, groups.to_string()), (0o700, "/sys/fs/cgroup/a memory.max=1G".into()));
        assert_eq!(terms.of_tenant(1000, 1000).unwrap_err(), NamedGroups::NOT_A_TENANTS);
        assert_eq!(Terms::read(&config("cgroup = /sys/fs/cgroup/a\n")).unwrap().groups, None, "uWSGI's own");
        for wrong in ["../x=1", "a/b=1", "=1", "x"] {
            let lines = format!("command = a\ncgroup = /x\ncgroup-opt = {wrong}\n");
            assert!(Terms::read(&config(&lines)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_share_of_the_machine_alone_needs_no_launcher() {
        for (lines, alone) in [("memory-max = 1G\n", true), ("memory-max = 1G\nsandbox = standard\n", false)]
        {
            let terms = Terms::read(&config(lines)).unwrap();
            assert_eq!(terms.ask_for_a_share_only(), alone, "{lines}");
            assert!(!terms.is_nothing());
        }
    }
}
