//! The emperor's own configuration, from the options of its files, command line and environment.
//!
//! Old options keep the old server's reading of numbers (`atoi`); ours want a number in a range.

mod process;
mod reader;

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Group;
use tracing::{Level, warn};

use super::control;
use super::court::Policy;
use super::forward::PostOptions;
use super::hands::command::{Engine, Templates};
use super::hands::{Confinement, Demand, OnDemand, SideHooks, TyrantRules};
use super::jail_policy::{JailPolicy, PolicyError};
use super::listen;
use super::log::Form;
use super::process::ProcessOptions;
use super::source::SourceOptions;
use crate::config::{Config, ConfigError, Got, Origin};
use crate::vassal::hook::Hook;
use crate::vassal::plan::{Capabilities, Namespaces, Text};
use crate::vassal::terms::cgroup::ResourceTerms;
use crate::vassal::terms::demand::ForAll;
use crate::vassal::terms::sockets::{SocketTerms, SystemNames};
use crate::vassal::terms::{self, Asked, TermsError};
use reader::Reader;

/// What an emperor was told to be.
#[derive(Debug)]
pub struct Settings {
    /// `emperor`, in order.
    pub sources: Vec<OsString>,
    /// How the sources are read.
    pub source_options: SourceOptions,
    /// How vassals are treated.
    pub policy: Policy,
    /// What shapes their command lines.
    pub templates: Templates,
    /// What changes their identity and view.
    pub confinement: Confinement,
    /// What they are subject to, whatever their files say.
    pub jail_policy: JailPolicy,
    /// The hooks that run as the emperor when they come and go.
    pub beside: SideHooks,
    /// The hooks that run once, before the first vassal.
    pub at_start: Vec<Hook>,
    /// Which vassals start on demand.
    pub on_demand: OnDemand,
    /// The sockets that `zerg-server` and `zerg-pool` offer.
    pub offered: SocketTerms,
    /// What no vassal takes more of than this.
    pub resources: ResourceTerms,
    /// `emperor-wrapper`.
    pub wrapper: Option<OsString>,
    /// `binary-path`.
    pub binary_path: Option<OsString>,
    /// Where the stats are served.
    pub stats: Option<listen::Options>,
    /// Where they are served with those of the vassals (`emperor-stats-full`).
    pub stats_full: Option<listen::Options>,
    /// Where each vassal's own are (`emperor-stats-directory`).
    pub stats_posts: Option<PostOptions>,
    /// Where the emperor is operated.
    pub control: control::Options,
    /// `stats-minified`.
    pub stats_minified: bool,
    /// What the process does to itself first.
    pub process: ProcessOptions,
    /// `imperial-monitor-list`.
    pub list_monitors: bool,
    /// `safe-fd`.
    pub safe_fds: Vec<RawFd>,
    /// `emperor-die-together`, if it is said.
    pub die_together: Option<bool>,
    /// `emperor-fd-store`, if it is said.
    pub fd_store: Option<bool>,
    /// `emperor-check-reload`.
    pub check_reload: bool,
    /// `emperor-runtime-dir`.
    pub runtime_dir: Option<PathBuf>,
    /// `emperor-log-format`.
    pub log_form: Form,
    /// `emperor-log-level`.
    pub log_level: Level,
}

/// An option whose value cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A number that is none, or out of range.
    #[error(transparent)]
    Number(#[from] ConfigError),
    /// A policy that cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// One of those that vassals' files have, too.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// Anything else.
    #[error("{place}: {option}: {cause}")]
    Value {
        /// Where it stands.
        place: Origin,
        /// The option.
        option: &'static str,
        /// What is wrong with it.
        cause: String,
    },
}

/// How many vassals may be starting at once, for each core.
const STARTING_PER_CORE: usize = 8;
/// Most seconds that an option of ours may be.
const MAX_SECONDS: i64 = 86_400;
/// `emperor-hook-timeout`: twice what a hook that waits for something (`wait_for_…`) gives itself.
const HOOK_SECONDS: u64 = 120;
/// `emperor-idle-freeze-timeout`: a frozen program costs its memory, which ten minutes of nobody are enough for.
const FROZEN_SECONDS: u64 = 600;

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// [`SettingsError`] with the place of the value.
    pub fn new(config: &Config) -> Result<Self, SettingsError> {
        let read = Reader(config);
        let policy = read.policy()?;
        Ok(Self {
            sources: read.paths("emperor"),
            source_options: read.source_options()?,
            on_demand: read.on_demand(policy.max_starting)?,
            offered: read.offered()?,
            resources: read.resources(policy.tyrant)?,
            policy,
            templates: read.templates(),
            confinement: read.confinement()?,
            jail_policy: read.jail_policy()?,
            beside: SideHooks {
                started: read.hooks([
                    "hook-as-emperor",
                    "mount-as-emperor",
                    "umount-as-emperor",
                    "exec-as-emperor",
                ])?,
                stopped: read.path("vassals-stop-hook").map(Text::from),
                limit: read.hook_limit()?,
            },
            at_start: read.hooks(["hook-emperor-start"])?,
            wrapper: read.path("emperor-wrapper"),
            binary_path: read.path("binary-path"),
            stats: read.stats("emperor-stats"),
            stats_full: read.stats("emperor-stats-full"),
            stats_posts: read.posts(),
            control: read.control()?,
            stats_minified: config.flag("stats-minified"),
            process: read.process()?,
            list_monitors: config.flag("imperial-monitor-list"),
            safe_fds: config.list("safe-fd").filter_map(|got| number(got.value)).collect(),
            die_together: config.flag_origin("emperor-die-together").map(|got| got.value),
            fd_store: config.flag_origin("emperor-fd-store").map(|got| got.value),
            check_reload: config.flag_origin("emperor-check-reload").is_none_or(|got| got.value),
            runtime_dir: read.path("emperor-runtime-dir").map(PathBuf::from),
            log_form: read.word("emperor-log-format", &[("uwsgi", Form::Uwsgi), ("json", Form::Json)])?,
            log_level: read.word(
                "emperor-log-level",
                &[
                    ("info", Level::INFO),
                    ("error", Level::ERROR),
                    ("warn", Level::WARN),
                    ("debug", Level::DEBUG),
                    ("trace", Level::TRACE),
                ],
            )?,
        })
    }

    /// The engine that runs vassals, by the rule of [`Engine::choose`].
    #[must_use]
    pub fn engine(&self, path: &OsStr, own_path: &Path) -> Engine {
        Engine::choose(self.wrapper.as_deref(), self.binary_path.as_deref(), path, own_path)
    }
}

impl Reader<'_> {
    fn source_options(&self) -> Result<SourceOptions, SettingsError> {
        // With notifications the scan period only serves what cannot notify; 0 made the old server spin.
        let freq = self.seconds("emperor-freq", 3).max(Duration::from_secs(1));
        Ok(SourceOptions {
            extra_extensions: self.0.list("emperor-extra-extension").map(|got| got.value.to_vec()).collect(),
            nofollow: self.0.flag("emperor-nofollow"),
            tyrant_nofollow: self.0.flag("emperor-tyrant-nofollow"),
            settle: Duration::from_millis(self.new_number("emperor-settle", 60_000, 100)?),
            rescan: Duration::from_secs(self.new_number("emperor-rescan", MAX_SECONDS, 60)?),
            scan_every: Some(freq),
            pattern_cwd: self.path("force-cwd").map(PathBuf::from),
            tyrant: self.0.flag("emperor-tyrant"),
        })
    }

    fn hook_limit(&self) -> Result<Option<u32>, SettingsError> {
        let seconds = self.new_number("emperor-hook-timeout", MAX_SECONDS, HOOK_SECONDS)?;
        Ok(u32::try_from(seconds).ok().filter(|seconds| *seconds > 0))
    }

    fn policy(&self) -> Result<Policy, SettingsError> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let crowd = u64::try_from((cores * STARTING_PER_CORE).max(16)).unwrap_or(16);
        let tolerance = self.seconds("emperor-curse-tolerance", 30);
        let millis = |option, default| Duration::from_millis(self.old_number(option).unwrap_or(default));
        let frozen = self.new_number("emperor-idle-freeze-timeout", MAX_SECONDS, FROZEN_SECONDS)?;
        let limited = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(Policy {
            throttle: millis("emperor-throttle", 1000),
            max_throttle: millis("emperor-max-throttle", 180_000),
            no_blacklist: self.0.flag("emperor-no-blacklist"),
            required_heartbeat: self.seconds("emperor-required-heartbeat", 30),
            curse_tolerance: tolerance,
            stop_timeout: Duration::from_secs(self.new_number(
                "emperor-stop-timeout",
                MAX_SECONDS,
                tolerance.as_secs(),
            )?),
            shutdown_grace: self.seconds("reload-mercy", 30),
            reload_timeout: Duration::from_secs(self.new_number(
                "emperor-reload-timeout",
                MAX_SECONDS,
                30,
            )?),
            max_starting: match self.new_number("emperor-max-starting", 1_000_000, crowd)? {
                0 => u32::MAX,
                number => limited(number),
            },
            abandon_after: limited(self.new_number("emperor-abandon-after", 1_000_000, 0)?),
            broodlord: limited(self.old_number("emperor-broodlord").unwrap_or(0)),
            zergs_each: limited(self.new_number("vassal-broodlord", 1_000_000, 0)?),
            tyrant: self.0.flag("emperor-tyrant"),
            graceful: self.0.flag("emperor-graceful-shutdown"),
            on_demand: !matches!(self.demand(), Demand::Never),
            idle_freeze: self.0.flag("emperor-idle-freeze").then_some(Duration::from_secs(frozen)),
        })
    }

    fn templates(&self) -> Templates {
        Templates {
            inherit_before: self.paths("vassals-inherit-before"),
            include_before: self.paths("vassals-include-before"),
            set: self.paths("vassals-set"),
            inherit: self.paths("vassals-inherit"),
            include: self.paths("vassals-include"),
            extra_extensions: self.0.list("emperor-extra-extension").map(|got| got.value.to_vec()).collect(),
            overrides: self.paths("emperor-wrapper-override"),
            fallbacks: self.paths("emperor-wrapper-fallback"),
        }
    }

    fn confinement(&self) -> Result<Confinement, SettingsError> {
        let tyrant = self.0.flag("emperor-tyrant").then(|| TyrantRules {
            nofollow: self.0.flag("emperor-tyrant-nofollow") || self.0.flag("emperor-nofollow"),
            initgroups: self.0.flag("emperor-tyrant-initgroups"),
        });
        Ok(Confinement {
            namespaces: self.namespaces()?,
            capabilities: self.capabilities("emperor-cap")?,
            tyrant,
            start_hook: self.path("vassals-start-hook").map(Text::from),
            hooks: self.hooks(["hook-as-vassal", "mount-as-vassal", "umount-as-vassal", "exec-as-vassal"])?,
            magic_exec: self.0.flag("emperor-magic-exec"),
        })
    }

    fn jail_policy(&self) -> Result<JailPolicy, SettingsError> {
        use terms::Level::{None as Open, Standard, Strict};
        let levels = [("none", Open), ("standard", Standard), ("strict", Strict)];
        let level = self.word("vassal-sandbox", &levels)?;
        Ok(JailPolicy::new(level, self.path("emperor-policy").as_deref().map(Path::new))?)
    }

    fn namespaces(&self) -> Result<Namespaces, SettingsError> {
        let option = "emperor-use-clone";
        let Some(Got { value, origin }) = self.0.string(option) else { return Ok(Namespaces::default()) };
        match Namespaces::parse(&String::from_utf8_lossy(value)) {
            Ok((set, meaningless)) => {
                for word in meaningless {
                    warn!("{origin}: {option}: `{word}` means nothing for a process that is then exec'ed");
                }
                Ok(set)
            }
            Err(cause) => {
                Err(SettingsError::Value { place: origin.clone(), option, cause: cause.to_string() })
            }
        }
    }

    fn capabilities(&self, option: &'static str) -> Result<Option<Capabilities>, SettingsError> {
        let Some(Got { value, origin }) = self.0.string(option) else { return Ok(None) };
        match Capabilities::parse(&String::from_utf8_lossy(value)) {
            Ok((set, unknown)) => {
                for word in unknown {
                    warn!("{origin}: {option}: there is no capability `{word}`");
                }
                Ok(Some(set))
            }
            Err(cause) => {
                Err(SettingsError::Value { place: origin.clone(), option, cause: cause.to_string() })
            }
        }
    }

    fn resources(&self, tyrant: bool) -> Result<ResourceTerms, SettingsError> {
        let policy = ResourceTerms::policy(Asked(self.0))?;
        Ok(if tyrant { policy.above_tenants() } else { policy })
    }

    fn offered(&self) -> Result<SocketTerms, SettingsError> {
        let any = self.0.has("zerg-server") || self.0.has("zergpool");
        Ok(if any { SocketTerms::of_emperor(Asked(self.0), &SystemNames)? } else { SocketTerms::default() })
    }

    fn on_demand(&self, at_once: u32) -> Result<OnDemand, SettingsError> {
        let rolling = Asked(self.0).parsed("vassal-touch-reload-mode", terms::rolls)?.unwrap_or(false);
        Ok(OnDemand {
            demand: self.demand(),
            backlog: self.backlog(),
            at_once,
            all: ForAll { on_demand: self.0.flag("vassal-on-demand"), rolling },
        })
    }

    fn demand(&self) -> Demand {
        let extension = self.path("emperor-on-demand-extension").map(Demand::Extension);
        let directory = || self.path("emperor-on-demand-directory").map(|dir| Demand::Directory(dir.into()));
        let command = || self.path("emperor-on-demand-exec").map(Demand::Command);
        extension.or_else(directory).or_else(command).unwrap_or_default()
    }

    fn backlog(&self) -> u32 {
        self.old_number("listen").and_then(|number| u32::try_from(number).ok()).unwrap_or(100)
    }

    fn control(&self) -> Result<control::Options, SettingsError> {
        let place = match self.path("emperor-control") {
            None => control::Place::Usual,
            Some(word) if word == "none" => control::Place::None,
            Some(path) => control::Place::At(path.into()),
        };
        let wrong = |option, got: &Got<'_, &[u8]>, cause: String| SettingsError::Value {
            place: got.origin.clone(),
            option,
            cause,
        };
        let mode = self.0.string("emperor-control-mode").map(|got| {
            let text = String::from_utf8_lossy(got.value);
            let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777);
            let cause = || format!("`{text}` is no mode: give three octal digits, like 660");
            mode.ok_or_else(|| wrong("emperor-control-mode", &got, cause()))
        });
        let group = self.0.string("emperor-control-group").map(|got| {
            let text = String::from_utf8_lossy(got.value);
            let named = || Group::from_name(&text).ok().flatten().map(|group| group.gid.as_raw());
            let cause = || format!("there is no group `{text}`: give a name of /etc/group, or a number");
            let group = text.parse().ok().or_else(named);
            group.ok_or_else(|| wrong("emperor-control-group", &got, cause()))
        });
        Ok(control::Options {
            place,
            mode: mode.transpose()?,
            group: group.transpose()?,
            tyrant: self.0.flag("emperor-tyrant"),
            commands: self.path("emperor-command-socket").map(PathBuf::from),
            http: self.0.string("emperor-http").map(|got| String::from_utf8_lossy(got.value).into_owned()),
        })
    }

    fn posts(&self) -> Option<PostOptions> {
        Some(PostOptions {
            directory: self.path("emperor-stats-directory")?.into(),
            mode: self.0.mode3("chmod-socket").map(|got| got.value),
            patience: self.seconds("socket-timeout", 4),
        })
    }

    fn stats(&self, option: &'static str) -> Option<listen::Options> {
        let address = self.0.string(option)?.value;
        Some(listen::Options {
            option,
            address: String::from_utf8_lossy(address).into_owned(),
            backlog: self.backlog(),
            mode: self.0.mode3("chmod-socket").map(|got| got.value),
            http: self.0.flag("stats-http"),
            patience: self.seconds("socket-timeout", 4),
        })
    }
}

fn number(bytes: &[u8]) -> Option<RawFd> {
    std::str::from_utf8(bytes).ok()?.trim().parse().ok()
}
