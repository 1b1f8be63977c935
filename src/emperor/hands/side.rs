//! Processes beside the vassals: the hooks that run as the emperor. The loop never waits for them.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::sys::epoll::{EpollEvent, EpollFlags};
use tracing::{error, warn};

use super::config_pipe::ConfigPipe;
use super::start::OWN_PROGRAM;
use super::{Hands, Token, Verdict, judge};
use crate::emperor::court::{Court, Key, Vassal};
use crate::emperor::source::VassalName;
use crate::emperor::story::Kind;
use crate::sys::caps;
use crate::sys::spawn::{CStrings, Candidate, Child, Groups, Program};
use crate::sys::wait::{self, Ending};
use crate::vassal::hook::Hook;
use crate::vassal::plan::{Exec, LaunchPlan, SideOrder, Text, VassalOrder};

/// Exit status of a judge that has found a file broken; any other says nothing against it.
pub const BROKEN: u8 = 1;

/// The hooks that run as the emperor when vassals come and go.
#[derive(Clone, Debug, Default)]
pub struct SideHooks {
    /// `hook-as-emperor`, then `mount-`, `umount-` and `exec-as-emperor`: after each start.
    pub started: Vec<Hook>,
    /// `vassals-stop-hook`: after each end.
    pub stopped: Option<Text>,
    /// `emperor-hook-timeout`: seconds after which each of them is ended, if it is.
    pub limit: Option<u32>,
}

#[derive(Debug)]
struct Side {
    pid: i32,
    pidfd: OwnedFd,
    what: String,
    errand: Errand,
}

/// What a process beside the vassals was sent for.
#[derive(Debug)]
pub(super) enum Errand {
    /// To do something, each part of it within so many seconds; only a failure is worth a line.
    Act { limit: Option<u32> },
    /// To look at the changed file of this vassal.
    Judge(Key),
    /// To look at what this vassal's file asks for, and to write it down here.
    Terms(Key, OwnedFd),
    /// The same, while that vassal runs.
    TermsAgain(Key, OwnedFd),
    /// To find out where this vassal's stats server is, and to write it down here.
    Stats(Key, OwnedFd),
    /// To ask this vassal whether it is ready.
    Ready(Key),
    /// One of these, but nobody wants to know any more.
    InVain,
    /// To ask a vassal that is ready or gone by now: it ends as soon as it notices.
    NoAnswer,
    /// To find the address of a vassal's on-demand socket; the place among those that do.
    Ask(usize),
}

/// The processes that run now.
#[derive(Debug, Default)]
pub(super) struct Sides(Vec<Option<Side>>);

impl Sides {
    fn insert(&mut self, side: Side) -> usize {
        if let Some(place) = self.0.iter().position(Option::is_none) {
            self.0[place] = Some(side);
            return place;
        }
        self.0.push(Some(side));
        self.0.len() - 1
    }

    /// Takes note of one that may have ended: what it was sent for, and how it ended.
    pub(super) fn reap(&mut self, place: usize) -> Option<(Errand, Ending)> {
        let side = self.0.get(place)?.as_ref()?;
        let leads = match side.errand {
            Errand::Act { .. } => wait::peek(side.pidfd.as_fd()).is_ok_and(is_overdue),
            Errand::Ready(_) | Errand::NoAnswer => {
                wait::peek(side.pidfd.as_fd()).is_ok_and(|it| it.is_some())
            }
            _ => false,
        };
        if leads {
            wait::kill_group(side.pid); // what it has started
        }
        let ending = match wait::reap(side.pidfd.as_fd()) {
            Ok(None) => return None,
            Ok(Some(ending)) => ending,
            Err(error) => {
                warn!("[emperor] cannot learn how {} ended: {error}", side.what);
                Ending::Exited(0)
            }
        };
        let side = self.0[place].take()?;
        match (&side.errand, ending) {
            (Errand::Act { limit: Some(seconds) }, ending) if is_overdue(Some(ending)) => warn!(
                "[emperor] {} has been ended after {seconds} s, and what was to follow it did not run: mend it, or \
                 set emperor-hook-timeout",
                side.what
            ),
            (Errand::Act { .. }, ending) if ending != Ending::Exited(0) => {
                warn!("[emperor] {} {ending}", side.what)
            }
            (Errand::Judge(_), Ending::Killed(_)) => {
                warn!("[emperor] {} came to no end, and nothing is held against it", side.what);
            }
            _ => {}
        }
        Some((side.errand, ending))
    }

    /// Whether there is none of which something is to be heard. Those that ask are asked again.
    pub(super) fn is_idle(&self) -> bool {
        let asks =
            |side: &Side| matches!(side.errand, Errand::Ready(_) | Errand::NoAnswer | Errand::Stats(..));
        self.0.iter().flatten().all(asks)
    }

    /// Whether none runs.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Whoever asks this vassal may end, and notices by the end of its link.
    pub(super) fn no_answer_wanted(&mut self, key: Key) {
        for side in
            self.0.iter_mut().flatten().filter(|side| matches!(side.errand, Errand::Ready(it) if it == key))
        {
            side.errand = Errand::NoAnswer;
        }
    }

    /// Ends the look at an earlier version of a vassal's file. `false` if it could not be ended.
    pub(super) fn overtake(&mut self, key: Key) -> bool {
        let mut ended = true;
        for side in
            self.0.iter_mut().flatten().filter(
                |side| matches!(side.errand, Errand::Judge(it) | Errand::TermsAgain(it, _) if it == key),
            )
        {
            match wait::signal(side.pidfd.as_fd(), nix::libc::SIGKILL) {
                // An emperor that is not root may have to wait until it ends by itself.
                Err(error) if error.raw_os_error() == Some(nix::libc::EPERM) => ended = false,
                _ => side.errand = Errand::InVain,
            }
        }
        ended
    }

    /// Whether this process is one of them.
    pub(super) fn has(&self, pid: i32) -> bool {
        self.0.iter().flatten().any(|side| side.pid == pid)
    }
}

impl Hands {
    pub(super) fn run_start_hooks(&mut self, key: Key, pid: i32, court: &Court) {
        if self.launch.beside.started.is_empty() {
            return;
        }
        let Some(vassal) = court.get(key) else { return };
        // The very bytes: a hook that acts on the file must not be led to another one.
        let name = Text::from(vassal.name.as_path().as_os_str());
        let facts = [
            ("UWSGI_VASSAL_PID", pid.to_string()),
            ("UWSGI_VASSAL_UID", vassal.identity.uid.to_string()),
            ("UWSGI_VASSAL_GID", vassal.identity.gid.to_string()),
        ];
        let mut environment = own_environment();
        environment.push(("UWSGI_VASSAL_CONFIG".into(), name.clone()));
        environment.extend(facts.map(|(name, value)| (name.into(), value.into())));
        let place = self.launch.places.get(usize::from(vassal.source.0));
        let order = SideOrder {
            name,
            directory: place.map(|place| Text::from(place.path().as_os_str())),
            environment,
            hooks: self.launch.beside.started.clone(),
            each_ends_after: self.launch.beside.limit,
            ..SideOrder::default()
        };
        self.run_beside(&order.plan(), &format!("the as-emperor hook of {}", vassal.name));
    }

    pub(super) fn run_stop_hook(&mut self, name: &VassalName) {
        let Some(hook) = self.launch.beside.stopped.clone() else { return };
        let mut environment = own_environment();
        environment.push(("UWSGI_VASSALS_DIR".into(), self.launch.vassals_dir.clone()));
        let order = SideOrder {
            name: Text::from(name.as_path().as_os_str()),
            directory: Some(self.launch.vassals_dir.clone()),
            environment,
            stop_hook: Some(hook),
            each_ends_after: self.launch.beside.limit,
            ..SideOrder::default()
        };
        self.run_beside(&order.plan(), &format!("the stop hook of {name}"));
    }

    /// Whether the changed file of a vassal would end it.
    pub(super) fn judge(&mut self, key: Key, vassal: &Vassal) -> Verdict {
        let arguments = self.launch.templates.arguments(self.launch.subject(vassal));
        if self.launch.confinement.tyrant.is_some() {
            return self.judge_as_tenant(key, vassal, &arguments);
        }
        let Some(place) = self.launch.places.get(usize::from(vassal.source.0)) else { return Verdict::Fine };
        match judge::fault(
            place.path(),
            &arguments,
            &self.launch.environment.of(false, None),
            self.text_of(vassal),
        ) {
            None => Verdict::Fine,
            Some(problem) => {
                let (name, line) = (&vassal.name, judge::line(&problem));
                error!(
                    "[emperor] vassal {name} is not told to reload, and goes on with the old file: {line}"
                );
                let told = format!("its new file is broken, and it goes on with the old one: {line}");
                self.tell_of(name, Some(vassal), Kind::Refused, told);
                Verdict::Broken
            }
        }
    }

    /// What the engine would end with when it reads a vassal's file, where we may read that.
    pub(super) fn fault_of(&self, vassal: &Vassal) -> Option<String> {
        if self.launch.confinement.tyrant.is_some() || !self.launch.engine.reads_uwsgi_files() {
            return None;
        }
        let place = self.launch.places.get(usize::from(vassal.source.0))?;
        let arguments = self.launch.templates.arguments(self.launch.subject(vassal));
        let environment = self.launch.environment.of(false, None);
        let problem = judge::fault(place.path(), &arguments, &environment, self.text_of(vassal))?;
        Some(judge::line(&problem))
    }

    /// Says what is wrong with the file of a vassal that has failed for the first time, where we may read it.
    pub(super) fn suspect(&self, vassal: &Vassal) {
        let may_read = self.launch.confinement.tyrant.is_none() && !super::life::is_program(vassal);
        let place = self.launch.places.get(usize::from(vassal.source.0));
        let (true, false, None, Some(place)) =
            (may_read, vassal.instance.loyal, vassal.backoff.as_deref(), place)
        else {
            return;
        };
        let why = if self.launch.engine.reads_uwsgi_files() {
            let arguments = self.launch.templates.arguments(self.launch.subject(vassal));
            let environment = self.launch.environment.of(false, None);
            let problem = judge::suspicion(place.path(), &arguments, &environment, self.text_of(vassal));
            problem.map(|problem| judge::line(&problem))
        } else if place.carries() {
            None
        } else {
            judge::plain_suspicion(&place.path().join(vassal.name.as_path()))
        };
        if let Some(why) = why {
            error!("[emperor] vassal {} has failed, perhaps for this: {why}", vassal.name);
            self.tell_of(&vassal.name, Some(vassal), Kind::Warning, format!("perhaps for this: {why}"));
        }
    }

    fn judge_as_tenant(&mut self, key: Key, vassal: &Vassal, arguments: &[Vec<u8>]) -> Verdict {
        let Some(tyrant) = self.tyrant(vassal) else { return Verdict::Broken };
        if !self.sides.overtake(key) {
            return Verdict::Fine; // one that does not end is enough
        }
        let place = self.launch.places.get(usize::from(vassal.source.0));
        // What is in this pipe stays there when the end here is closed.
        let config = self.text_of(vassal).map(ConfigPipe::filled).transpose();
        let Ok(config) = config else { return Verdict::Fine };
        let words = std::iter::once(&b"judge"[..]).chain(arguments.iter().map(Vec::as_slice));
        let own = OsStr::new(OWN_PROGRAM);
        let order = VassalOrder {
            name: Text::from(vassal.name.as_path().as_os_str()),
            directory: place.map(|place| Text::from(place.path().as_os_str())),
            end_after: Some(u32::try_from(judge::PATIENCE.as_secs()).unwrap_or(u32::MAX)),
            tyrant: Some(tyrant),
            environment: self.launch.variables(place.is_some_and(super::Place::carries), None),
            config_pipe: config.is_some(),
            exec: Exec {
                programs: vec![Text::from(own)],
                args: words.map(|word| Text::from(OsStr::from_bytes(word))).collect(),
                magic: None,
            },
            ..VassalOrder::default()
        };
        let what = format!("the look at the changed file of {}", vassal.name);
        match self.try_unheard(&order.plan(), config.as_ref().map(AsFd::as_fd), &what, Errand::Judge(key)) {
            Ok(()) => Verdict::Later,
            Err(cause) => {
                warn!("[emperor] cannot look at the changed file of {}: {cause}", vassal.name);
                Verdict::Fine
            }
        }
    }

    fn run_beside(&mut self, plan: &LaunchPlan, what: &str) {
        if let Err(cause) =
            self.try_unheard(plan, None, what, Errand::Act { limit: self.launch.beside.limit })
        {
            error!("[emperor] cannot run {what}: {cause}");
        }
    }

    /// As [`Self::try_beside`], and what it says is heard by nobody.
    fn try_unheard(
        &mut self,
        plan: &LaunchPlan,
        config: Option<BorrowedFd<'_>>,
        what: &str,
        errand: Errand,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let nobody_listens = std::fs::File::options().write(true).open("/dev/null")?;
        self.try_beside(plan, config, what, nobody_listens.as_fd(), errand)
    }

    /// Starts a process beside the vassals; it finds `link` where a vassal finds its link.
    pub(super) fn try_beside(
        &mut self,
        plan: &LaunchPlan,
        config: Option<BorrowedFd<'_>>,
        what: &str,
        link: BorrowedFd<'_>,
        errand: Errand,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let plan = plan.seal()?;
        let (path, arguments) = super::start::launcher();
        let nothing = CStrings::new(Vec::new());
        let program = Program {
            candidates: &[Candidate { path: &path, arguments: &arguments }],
            environment: &nothing,
            cwd: None,
            stdin: None,
            passed: [Some(link), Some(plan.as_fd()), config],
            kept: &[],
            parent_death_signal: 0,
            own_group: matches!(errand, Errand::Act { .. } | Errand::Ready(_)),
            new_pid_namespace: false,
            groups: Groups::default(),
        };
        let child = match errand {
            // Without root's rights, the launcher needs ours to become the tenant.
            Errand::Judge(_) | Errand::Terms(..) | Errand::Stats(..) => {
                caps::passing_on(|| self.spawner.spawn(&program))??
            }
            _ => self.spawner.spawn(&program)?,
        };
        self.send(child, what.into(), errand)?;
        Ok(())
    }

    /// Keeps an eye on a process that was just made.
    pub(super) fn send(&mut self, child: Child, what: String, errand: Errand) -> io::Result<()> {
        let place = self.sides.insert(Side { pid: child.pid, pidfd: child.pidfd, what, errand });
        if let Some(Some(side)) = self.sides.0.get(place) {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Side(place).to_bits());
            self.epoll.add(&side.pidfd, event)?;
        }
        Ok(())
    }
}

/// Whether a process has ended because its time was up.
fn is_overdue(ending: Option<Ending>) -> bool {
    ending.is_some_and(
        |ending| matches!(ending, Ending::Killed(signal) if i32::from(signal) == nix::libc::SIGALRM),
    )
}

fn own_environment() -> Vec<(Text, Text)> {
    std::env::vars_os().map(|(name, value)| (name.into(), value.into())).collect()
}
