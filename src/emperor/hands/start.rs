//! Making a vassal's process: directly, or through the launcher where it changes its identity or its view.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tracing::{error, warn};

use super::Hands;
use super::agree::{Agreement, base_name, own_name};
use super::command::{self, Command, Engine, Environment, Templates};
use super::config_pipe::ConfigPipe;
use super::draft::Draft;
use super::group;
use super::notify::RuntimeDir;
use super::on_demand::OnDemand;
use super::side::SideHooks;
use super::sockets::Handed;
use super::telling::log_length;
use crate::emperor::cgroup::GroupRules;
use crate::emperor::court::{Court, Event, Key, Vassal};
use crate::emperor::jail_policy::{JailPolicy, uid_of};
use crate::emperor::source::{SourceId, SourceInfo, VassalName};
use crate::sys::caps;
use crate::sys::spawn::{CStrings, Candidate, Child, Groups, Program, SpawnError};
use crate::vassal::hook::Hook;
use crate::vassal::link::{Failure, LaunchReport, Reports};
use crate::vassal::plan::{Capabilities, LaunchPlan, Namespaces, Text, Tyrant, Who};
use crate::vassal::terms::Terms;
use crate::vassal::terms::cgroup::ResourceTerms;
use crate::vassal::terms::sockets::SocketTerms;

/// Where the vassals of one source start.
#[derive(Clone, Debug)]
pub struct Place {
    path: PathBuf,
    c_path: CString,
    carries: bool,
}

impl Place {
    /// The place of a source. `None` if its path holds a NUL, which no path does.
    #[must_use]
    pub fn new(source: &SourceInfo) -> Option<Self> {
        let c_path = CString::new(source.cwd.as_os_str().as_bytes()).ok()?;
        Some(Self { path: source.cwd.clone(), c_path, carries: source.carries })
    }

    /// Whether its vassals have no files there, but texts that their source supplies.
    pub(super) fn carries(&self) -> bool {
        self.carries
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// How vassals are started.
#[derive(Debug)]
pub struct Launch {
    /// The program that runs them.
    pub engine: Engine,
    /// What shapes their arguments.
    pub templates: Templates,
    /// What their environment is made of.
    pub environment: Environment,
    /// The directories in which programs are searched, a list separated by colons.
    pub path: OsString,
    /// Where they start, by source.
    pub places: Vec<Place>,
    /// What `UWSGI_VASSALS_DIR` says: the directory of the last source.
    pub vassals_dir: Text,
    /// `safe-fd`: descriptors that they keep.
    pub safe_fds: Vec<RawFd>,
    /// Whether they are killed when the emperor dies (`emperor-die-together`).
    pub die_together: bool,
    /// Whether a changed file is looked at before its vassal is told (`emperor-check-reload`).
    pub check_reload: bool,
    /// What changes their identity or their view; nothing by default.
    pub confinement: Confinement,
    /// What they are subject to, whatever their files say.
    pub policy: JailPolicy,
    /// What runs beside them.
    pub beside: SideHooks,
    /// Which of them start on demand.
    pub on_demand: OnDemand,
    /// What their control groups are like.
    pub groups: GroupRules,
    /// What the emperor's own configuration offers to others.
    pub offered: SocketTerms,
    /// Where programs notify us.
    pub runtime: RuntimeDir,
}

/// What happens to a vassal between the emperor's decision and its engine.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    /// `emperor-use-clone`.
    pub namespaces: Namespaces,
    /// `emperor-cap`.
    pub capabilities: Option<Capabilities>,
    /// `emperor-tyrant`.
    pub tyrant: Option<TyrantRules>,
    /// `vassals-start-hook`.
    pub start_hook: Option<Text>,
    /// `hook-as-vassal`, then `mount-`, `umount-` and `exec-as-vassal`.
    pub hooks: Vec<Hook>,
    /// `emperor-magic-exec`.
    pub magic_exec: bool,
}

/// How tyrant mode finds out who a vassal is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TyrantRules {
    /// The owner is that of a symbolic link itself.
    pub nofollow: bool,
    /// The user's supplementary groups are set.
    pub initgroups: bool,
}

impl Confinement {
    /// Whether nothing is changed.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.namespaces.is_empty()
            && self.capabilities.is_none()
            && self.tyrant.is_none()
            && self.start_hook.is_none()
            && self.hooks.is_empty()
            && !self.magic_exec
    }
}

/// What a vassal gets of what it shares with us.
#[derive(Clone, Copy)]
struct Ends<'a> {
    stdin: Option<BorrowedFd<'a>>,
    link: BorrowedFd<'a>,
    config: Option<BorrowedFd<'a>>,
}

impl Hands {
    /// Where the vassals of a source start from now on.
    pub fn set_place(&mut self, source: SourceId, place: Place) {
        if let Some(old) = self.launch.places.get_mut(usize::from(source.0)) {
            *old = place;
        }
    }

    /// Starts a vassal, once it is known what its file asks for.
    pub(super) fn spawn(&mut self, key: Key, court: &Court) -> Option<Event> {
        let Some(vassal) = court.get(key) else { return Some(Event::NotStarted(key, false)) };
        match self.agree(key, vassal) {
            Agreement::Refused => Some(Event::NotStarted(key, false)),
            Agreement::Later => None,
            agreement => self.spawn_on(key, court, agreement),
        }
    }

    /// Starts a vassal on these terms.
    pub(super) fn spawn_on(&mut self, key: Key, court: &Court, agreement: Agreement) -> Option<Event> {
        let asked = match agreement {
            Agreement::Terms(terms) => *terms,
            Agreement::Nothing | Agreement::Later | Agreement::Refused => Terms::default(),
        };
        self.note_policy(key, court);
        let Some(mut terms) = self.imposed(key, court, asked) else {
            return Some(Event::NotStarted(key, false));
        };
        self.take_turns_if_it_can(key, court, &mut terms);
        if let Some(refused) = self.refuse_successor(key, court, &terms) {
            return Some(refused);
        }
        if let Some(waits) = self.sleep(key, court, &terms) {
            return Some(waits);
        }
        let log_at = log_length(); // before it can write
        let outcome = self.start(key, court, (!terms.is_nothing()).then_some(&terms));
        if let Event::Started(key, pid) = outcome {
            self.tell_start(key, (pid, log_at), court);
            self.run_start_hooks(key, pid, court);
        }
        Some(outcome)
    }

    /// Why the last launch of a vassal has failed.
    #[must_use]
    pub fn launch_failure(&self, key: Key) -> Option<&Failure> {
        self.failures.get(&key).map(Box::as_ref)
    }

    /// What vassals are subject to, whatever their files say.
    pub fn policy(&mut self) -> &mut JailPolicy {
        &mut self.launch.policy
    }

    /// The program that runs vassals without a `command`.
    #[must_use]
    pub fn engine(&self) -> Text {
        Text::from(self.launch.engine.program().as_os_str())
    }

    /// What the policy comes down to for a vassal is known from its start on. Asked before it is followed: one that
    /// changes meanwhile is rather followed twice than not at all.
    fn note_policy(&mut self, key: Key, court: &Court) {
        let Some(vassal) = court.get(key) else { return };
        match self.launch.policy.digest(base_name(vassal), &vassal.identity) {
            Some(digest) => drop(self.policies.insert(key, digest)),
            None => drop(self.policies.remove(&key)),
        }
    }

    /// What a vassal asks for, and what the policy imposes on it.
    pub(super) fn imposed(&mut self, key: Key, court: &Court, asked: Terms) -> Option<Terms> {
        let vassal = court.get(key)?;
        let wished = asked.privileges.clone();
        let asked = match self.launch.confinement.tyrant {
            Some(_) => match asked.of_tenant(vassal.identity.uid, vassal.identity.gid) {
                Ok(asked) => asked,
                Err(cause) => {
                    self.hinder(key, vassal, cause.to_string());
                    return None;
                }
            },
            None => asked,
        };
        let imposed = if self.launch.policy.is_none() {
            Ok(asked)
        } else {
            let policy = self.launch.policy.of(base_name(vassal), &vassal.identity);
            policy.map(|policy| asked.under(&policy)).map_err(|error| error.to_string())
        };
        match imposed.and_then(|terms| terms.contradiction().map_or(Ok(terms), Err)) {
            Ok(terms) => {
                let denied = wished.denied(&terms.privileges);
                if denied != Capabilities::default() && self.denied.insert(key, denied) != Some(denied) {
                    let name = &vassal.name;
                    warn!(
                        "[emperor] vassal {name} goes without {denied}: a tenant's file cannot grant it, nor one against its policy"
                    );
                }
                Some(terms)
            }
            Err(cause) => {
                self.hinder(key, vassal, cause.to_string());
                None
            }
        }
    }

    fn start(&mut self, key: Key, court: &Court, terms: Option<&Terms>) -> Event {
        let Some(vassal) = court.get(key) else { return Event::NotStarted(key, false) };
        let supply = match (self.launch.carries(vassal.source), self.supply_of(vassal)) {
            (false, _) => None,
            (true, Some(supply)) => Some(supply.clone()),
            (true, None) => {
                self.hinder(key, vassal, NOT_SUPPLIED.into());
                return Event::NotStarted(key, false);
            }
        };
        let is_command = terms.is_some_and(|terms| terms.program.is_some());
        // A successor is handed what the one before it has.
        let holder = vassal.zerg.filter(|_| vassal.is_successor()).map_or(key, |zerg| zerg.base);
        let mut arguments = if is_command { Vec::new() } else { self.tell_of_socket(holder, court) };
        arguments.extend(terms.map_or_else(Vec::new, |terms| terms.demand.arguments()));
        arguments.extend(self.launch.templates.arguments(self.launch.subject(vassal)));
        let commands = self.launch.templates.commands(&self.launch.engine, &arguments, &self.launch.path);
        if !is_command && commands.iter().all(|command| command.files.is_empty()) {
            self.hinder(key, vassal, no_program(&commands));
            return Event::NotStarted(key, false);
        }
        let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC);
        let Ok((ours, theirs)) = pair else { return Event::NotStarted(key, true) };
        let Ok(config) = supply.as_ref().map(|_| ConfigPipe::new()).transpose() else {
            return Event::NotStarted(key, true);
        };
        let (config, their_config) = config.unzip();
        // Without its socket a vassal that waits on demand would be another one.
        let Ok(socket) = self.on_demand_socket(holder) else { return Event::NotStarted(key, true) };
        let Some(handed) = self.hand_sockets(key, court, terms) else { return Event::NotStarted(key, false) };
        let ends = Ends {
            stdin: socket.as_ref().map(AsFd::as_fd),
            link: theirs.as_fd(),
            config: their_config.as_ref().map(AsFd::as_fd),
        };
        self.watch_queues(key, vassal, terms);
        if let Err(why) = self.begin_life(key, terms, self.user_of(vassal, terms)) {
            self.hinder(key, vassal, why);
            return Event::NotStarted(key, false);
        }
        let mut share = terms.map_or_else(ResourceTerms::default, |terms| terms.resources.clone());
        share.group |= self.launch.groups.freezes && terms.is_some_and(|terms| terms.demand.idle().is_some());
        let entrance = match self.enter_group(key, vassal, court, share) {
            Ok(entrance) => entrance,
            Err(error) => {
                self.hinder(key, vassal, group::chain(&error));
                return Event::NotStarted(key, false);
            }
        };
        let direct = self.launch.confinement.is_none()
            && terms.is_none_or(Terms::ask_for_a_share_only)
            && !self.lacks_group(key);
        let mut environment = Vec::new();
        let child = if direct {
            self.start_directly(vassal, &commands, ends, entrance.groups())
        } else {
            let plan = self.draft(key, vassal, &commands, terms, &handed).map(|draft| {
                let ground = self.launch.ground();
                environment = ground.environment_of(&draft);
                ground.plan(draft)
            });
            let plan = plan.map_err(SpawnError::Prepare);
            self.is_reaped(key, plan.as_ref().is_ok_and(LaunchPlan::leaves_reaper));
            plan.and_then(|plan| self.start_launcher(vassal, &plan, &handed, ends, entrance.groups()))
        };
        drop((theirs, their_config, entrance));
        let child = match child {
            Ok(child) => child,
            Err(SpawnError::NoProcess(error)) => {
                let own = self.is_group_full(key, error.raw_os_error());
                if own {
                    self.hinder(key, vassal, format!("its own limits leave no room for it: {error}"));
                }
                self.leave_group(key);
                return Event::NotStarted(key, !own);
            }
            Err(failure) => {
                self.leave_group(key);
                self.hinder(key, vassal, failed(&failure, &commands));
                return Event::NotStarted(key, false);
            }
        };
        let reports = (!direct).then(Box::<Reports>::default);
        let pid = child.pid;
        self.failures.remove(&key);
        self.hindered.remove(&key);
        self.not_replaced.remove(&key);
        match self.hold(key, ours, child.pidfd, reports) {
            Ok(()) => {
                if let (Some(mut pipe), Some(supply)) = (config, supply) {
                    pipe.put(supply.text());
                    self.held.slot(key).config = Some(Box::new(pipe));
                    self.watch_config(key);
                }
                if let Some(terms) = terms {
                    self.life_has_begun(key, vassal, terms, environment);
                }
                Event::Started(key, pid)
            }
            Err(_) => {
                self.leave_group(key);
                Event::NotStarted(key, true)
            }
        }
    }

    fn start_directly(
        &mut self,
        vassal: &Vassal,
        commands: &[Command],
        ends: Ends<'_>,
        groups: Groups<'_>,
    ) -> Result<Child, SpawnError> {
        let launch = &self.launch;
        let number = vassal.zerg_number();
        let special = (ends.config.is_some() || number.is_some())
            .then(|| command::c_strings(launch.environment.of(ends.config.is_some(), number)));
        let prepared: Vec<_> = commands.iter().flat_map(prepare).collect();
        let candidates: Vec<_> =
            prepared.iter().map(|(path, arguments)| Candidate { path, arguments }).collect();
        self.spawner.spawn(&Program {
            candidates: &candidates,
            environment: special.as_ref().unwrap_or(&self.environment),
            cwd: launch.places.get(usize::from(vassal.source.0)).map(|place| place.c_path.as_c_str()),
            stdin: ends.stdin,
            passed: [Some(ends.link), None, ends.config],
            kept: &launch.safe_fds,
            parent_death_signal: if launch.die_together { nix::libc::SIGKILL } else { 0 },
            own_group: false,
            new_pid_namespace: false,
            groups,
        })
    }

    fn start_launcher(
        &mut self,
        vassal: &Vassal,
        plan: &LaunchPlan,
        handed: &Handed,
        ends: Ends<'_>,
        groups: Groups<'_>,
    ) -> Result<Child, SpawnError> {
        let sealed = plan.seal().map_err(SpawnError::NoProcess)?;
        let (path, arguments) = launcher();
        let nothing = CStrings::new(Vec::new());
        let place = self.launch.places.get(usize::from(vassal.source.0));
        let program = Program {
            candidates: &[Candidate { path: &path, arguments: &arguments }],
            environment: &nothing,
            cwd: place.map(|place| place.c_path.as_c_str()),
            stdin: ends.stdin,
            passed: [Some(ends.link), Some(sealed.as_fd()), ends.config],
            kept: &[&self.launch.safe_fds, &handed.numbers[..]].concat(),
            parent_death_signal: 0, // the launcher sets it, after the last change of identity
            own_group: false,
            new_pid_namespace: plan.needs_pid_namespace(),
            groups,
        };
        // Without root's rights, the launcher needs ours to become the tenant.
        caps::passing_on(|| self.spawner.spawn(&program)).map_err(SpawnError::Prepare)?
    }

    /// Who a vassal is in tyrant mode; `None` outside of it, and for root.
    pub(super) fn tyrant(&self, vassal: &Vassal) -> Option<Tyrant> {
        let TyrantRules { nofollow, initgroups } = self.launch.confinement.tyrant?;
        let tyrant = Tyrant::new(vassal.identity.uid, vassal.identity.gid)?;
        let tyrant = tyrant.with_groups_of_user(initgroups);
        if self.launch.carries(vassal.source) {
            return Some(tyrant); // its source has said so, and there is no file to confirm it
        }
        Some(tyrant.of_file(Text::from(OsStr::from_bytes(base_name(vassal))), nofollow))
    }

    /// Who a vassal is to the system when its program runs. `None` for a name that the machine's own list lacks: the
    /// launcher finds out.
    fn user_of(&self, vassal: &Vassal, terms: Option<&Terms>) -> Option<u32> {
        if self.launch.confinement.tyrant.is_some() {
            return Some(vassal.identity.uid);
        }
        match terms.and_then(|terms| terms.identity.as_ref()?.user.as_ref()) {
            Some(Who::Id(uid)) => Some(*uid),
            Some(Who::Name(name)) => uid_of(name),
            None => Some(nix::unistd::geteuid().as_raw()),
        }
    }

    /// What is known of a vassal that is about to be launched.
    fn draft<'d>(
        &'d self,
        key: Key,
        vassal: &'d Vassal,
        commands: &'d [Command],
        terms: Option<&'d Terms>,
        handed: &Handed,
    ) -> io::Result<Draft<'d>> {
        let tyrant = self.tyrant(vassal);
        if self.launch.confinement.tyrant.is_some() && tyrant.is_none() {
            return Err(io::ErrorKind::PermissionDenied.into()); // the court has refused it before
        }
        let program = terms.and_then(|terms| terms.program.as_ref());
        let program = program.map(|program| program.placed(&handed.terms)).transpose();
        Ok(Draft {
            name: Text::from(OsStr::from_bytes(own_name(vassal))),
            file: base_name(vassal),
            place: self.launch.places.get(usize::from(vassal.source.0)).map(Place::path),
            zerg: vassal.zerg_number(),
            carried: self.launch.carries(vassal.source),
            tyrant,
            commands,
            terms,
            program: program.map_err(io::Error::other)?,
            sockets: handed.passing(),
            reaper: self.lacks_group(key),
            notify: match terms {
                Some(terms) => (self.notify_variables(key, terms), self.notify_path(key)),
                None => (Vec::new(), None),
            },
        })
    }
}

impl Launch {
    /// The variables of a vassal, for a plan.
    pub(super) fn variables(&self, config: bool, zerg: Option<u32>) -> Vec<(Text, Text)> {
        self.environment.pairs(config, zerg)
    }
}

/// This program, whatever has become of its file since it was started.
pub(super) const OWN_PROGRAM: &str = "/proc/self/exe";

/// The launcher's path and arguments.
pub(super) fn launcher() -> (CString, CStrings) {
    let arguments = [c"emperor", c"vassal", c"--plan"].map(CString::from);
    (CString::new(OWN_PROGRAM).unwrap_or_default(), CStrings::new(arguments.into()))
}

/// Says what a launcher reports to have failed.
pub(super) fn log_failures(reports: Vec<LaunchReport>, name: Option<&VassalName>) -> Option<Box<Failure>> {
    let failure = reports.into_iter().find_map(|report| match report {
        LaunchReport::Failed(failure) => Some(Box::new(failure)),
        LaunchReport::Launched => None,
    })?;
    if let Some(name) = name {
        error!("[emperor] vassal {name} cannot be started: {failure}");
    }
    Some(failure)
}

fn prepare(command: &Command) -> Vec<(CString, CStrings)> {
    let path = |file: &PathBuf| CString::new(file.as_os_str().as_bytes()).ok();
    let with_arguments = |file| (file, command::c_strings(command.arguments.iter().cloned()));
    command.files.iter().filter_map(path).map(with_arguments).collect()
}

fn programs(commands: &[Command]) -> String {
    let name = |command: &Command| {
        String::from_utf8_lossy(command.arguments.first().map_or(b"", |a| a)).into_owned()
    };
    commands.iter().map(name).collect::<Vec<_>>().join(", ")
}

const NOT_SUPPLIED: &str = "its source has not supplied its configuration since this emperor began; it is tried again by \
                            and by";

fn no_program(commands: &[Command]) -> String {
    format!(
        "{} is not an executable file, nor found in PATH; install it, or name another by binary-path or emperor-wrapper",
        programs(commands)
    )
}

fn failed(failure: &SpawnError, commands: &[Command]) -> String {
    let cause = std::error::Error::source(failure).map(ToString::to_string).unwrap_or_default();
    format!("{failure} {}: {cause}", programs(commands))
}
