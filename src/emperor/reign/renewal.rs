//! Another program takes this one's place, in the same process: the vassals go on and are not told.
//!
//! First the new program tries, in a process of its own, whether it can read the configuration and the state. Only
//! then the state is handed over and the program replaced, with all signals held back: from the first step to the exec
//! nothing is lost that a failure could not give back.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use nix::sys::signal::{SigSet, SigmaskHow};
use tracing::{error, info, warn};

use super::{Accession, Reign};
use crate::emperor::control::{Answer, Asked, Reloads};
use crate::emperor::court::Key;
use crate::emperor::edicts::Edicts;
use crate::emperor::log;
use crate::emperor::survival::{
    Estate, Header, Origin, PidFileRecord, ProcessRecord, REHEARSAL_VARIABLE, STATE_VARIABLE, SocketEstate,
    SourceRecord, State, Store, Survivor, memory,
};
use crate::sys::fds::Readable;
use crate::sys::spawn::{CStrings, Candidate, Groups, Program, SpawnError};
use crate::sys::wait::{self, Ending};
use crate::sys::{caps, fds};
use crate::vassal::link::{FD_VARIABLE, PLAN_FD};
use crate::vassal::plan::Text;

/// How this process can be started again in its own place.
#[derive(Debug)]
pub(super) struct Renewal {
    origin: Origin,
    /// The `emperor` arguments.
    pub(super) given: Vec<Text>,
    pub(super) descriptor_limit: Option<(u64, u64)>,
    pub(super) pid_files: Vec<PidFileRecord>,
    /// The options in force.
    pub(super) edicts: Edicts,
    /// What has come of renewals.
    pub(super) reloads: Reloads,
    /// Those who wait to hear of this one.
    asked: Vec<Asked>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Idle,
    Rehearsing {
        pid: i32,
        process: Readable,
        /// Where it says what is wrong.
        report: File,
        until: Instant,
    },
    /// As soon as nothing runs beside the vassals, or then.
    Due {
        from: Instant,
        until: Instant,
    },
}

/// How long the new program may try the configuration. It may run commands and fetch files.
const REHEARSAL: Duration = Duration::from_secs(30);
/// How long hooks that are running are waited for. Nobody hears of the end of those that take longer.
const EASE: Duration = Duration::from_secs(5);
/// Those who have asked for it are told before it is done, and have so long to be written to.
const FAREWELL: Duration = Duration::from_millis(20);
/// The longest reason that is read.
const MOST_REASON: u64 = 4096;

/// Why this program stays.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the emperor is ending")]
    Ending,
    #[error("{program} cannot be started")]
    Rehearse { program: String, source: SpawnError },
    #[error("{reason}")]
    Reason { reason: String },
    #[error("{program} cannot go on with this configuration; it {ending}, and its reason stands above")]
    Rehearsal { program: String, ending: Ending },
    #[error("{program} has not read the configuration within {} seconds", REHEARSAL.as_secs())]
    TooSlow { program: String },
    #[error("cannot hand over the state")]
    State(#[source] io::Error),
    #[error("cannot execute {program}")]
    Exec { program: String, source: io::Error },
}

impl Renewal {
    pub(super) fn new(accession: &Accession) -> Self {
        Self {
            origin: accession.origin.clone(),
            given: accession.sources.iter().map(|source| Text::from(source.as_os_str())).collect(),
            descriptor_limit: accession.descriptor_limit,
            pid_files: Vec::new(),
            edicts: accession.edicts.clone(),
            reloads: Reloads::default(),
            asked: Vec::new(),
            stage: Stage::Idle,
        }
    }

    /// Resolves when the rehearsal may be over; never without one. Cancel-safe.
    pub(super) async fn heard(&self) -> io::Result<()> {
        match &self.stage {
            Stage::Rehearsing { process, .. } => process.ready().await,
            Stage::Idle | Stage::Due { .. } => std::future::pending().await,
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        match self.stage {
            Stage::Idle => None,
            Stage::Rehearsing { until, .. } => Some(until),
            Stage::Due { from, until } => Some(if from > Instant::now() { from } else { until }),
        }
    }

    /// The process of the rehearsal.
    pub(super) fn pid(&self) -> Option<i32> {
        if let Stage::Rehearsing { pid, .. } = self.stage { Some(pid) } else { None }
    }

    fn program(&self) -> String {
        self.origin.program().display().to_string()
    }
}

impl Reign {
    /// It is asked for over the control socket.
    pub(super) fn upgrade_for(&mut self, asked: Asked) {
        self.renewal.asked.push(asked);
        self.upgrade();
    }

    /// SIGUSR2.
    pub(super) fn upgrade(&mut self) {
        if !matches!(self.renewal.stage, Stage::Idle) {
            return; // one is under way
        }
        self.manager.reloading();
        if self.ending.is_some() {
            return self.stay(&Refusal::Ending);
        }
        info!("[emperor] {} tries whether it can take this program's place", self.renewal.program());
        if let Err(refusal) = self.rehearse() {
            self.stay(&refusal);
        }
    }

    fn rehearse(&mut self) -> Result<(), Refusal> {
        let state = self.state().seal().map_err(Refusal::State)?;
        let origin = &self.renewal.origin;
        let path = CString::new(origin.program().as_os_str().as_bytes()).unwrap_or_default();
        let arguments = CStrings::new(origin.arguments(Some("rehearse")));
        let report = memory(b"").map_err(Refusal::State)?;
        let said_at = [(REHEARSAL_VARIABLE, PLAN_FD.to_string())];
        let environment = CStrings::new(origin.environment(&said_at));
        let directory = CString::new(origin.directory().as_os_str().as_bytes()).unwrap_or_default();
        let mut program = Program {
            candidates: &[Candidate { path: &path, arguments: &arguments }],
            environment: &environment,
            cwd: Some(&directory),
            stdin: Some(state.as_fd()),
            passed: [None, Some(report.as_fd()), None],
            kept: &[],
            parent_death_signal: nix::libc::SIGKILL,
            own_group: false,
            new_pid_namespace: false,
            groups: Groups::default(),
        };
        let mut child = self.hands.start_other(&program);
        if let Err(SpawnError::Directory(_)) = child {
            program.cwd = None; // closed to the user that we have become since
            child = self.hands.start_other(&program);
        }
        let child = child.map_err(|source| Refusal::Rehearse { program: self.renewal.program(), source })?;
        let process = Readable::new(child.pidfd).map_err(Refusal::State)?;
        let (report, until) = (File::from(report), Instant::now() + REHEARSAL);
        self.renewal.stage = Stage::Rehearsing { pid: child.pid, process, report, until };
        Ok(())
    }

    /// Looks how the rehearsal went, and renews the program when everything is ready for it.
    pub(super) fn go_on_renewing(&mut self) {
        if let Stage::Rehearsing { process, until, report, .. } = &self.renewal.stage {
            let late = *until <= Instant::now();
            if late {
                // It may have ended in this moment.
                let _ = wait::signal(process.fd(), nix::libc::SIGKILL);
            }
            let ending = match wait::reap(process.fd()) {
                Ok(None) => return,
                Ok(Some(ending)) => ending,
                Err(_) => Ending::Unknown,
            };
            let (program, reason) = (self.renewal.program(), reason(report));
            if self.strays {
                self.reap_orphans(); // those behind it
            }
            match ending {
                Ending::Exited(0) => self.announce_renewal(),
                _ if late => self.stay(&Refusal::TooSlow { program }),
                _ if !reason.is_empty() => self.stay(&Refusal::Reason { reason }),
                ending => self.stay(&Refusal::Rehearsal { program, ending }),
            }
        }
        let Stage::Due { from, until } = self.renewal.stage else { return };
        if self.ending.is_some() {
            return self.stay(&Refusal::Ending);
        }
        let present = Instant::now();
        if from <= present
            && (self.hands.is_at_ease() || until <= present)
            && let Some(refusal) = self.renew()
        {
            self.stay(&refusal);
        }
    }

    fn announce_renewal(&mut self) {
        self.renewal.reloads.refused = None;
        let asked = std::mem::take(&mut self.renewal.asked);
        let from = Instant::now() + if asked.is_empty() { Duration::ZERO } else { FAREWELL };
        for asked in asked {
            asked.answer(Answer::accepted(&self.renewal.reloads));
        }
        self.renewal.stage = Stage::Due { from, until: from + EASE };
    }

    fn stay(&mut self, refusal: &Refusal) {
        let mut causes = String::new();
        let mut cause = std::error::Error::source(refusal);
        while let Some(next) = cause {
            causes += &format!(": {next}");
            cause = next.source();
        }
        error!("[emperor] not upgraded, everything goes on as before: {refusal}{causes}");
        let told = format!("the last reload was refused: {refusal}{causes}");
        for asked in std::mem::take(&mut self.renewal.asked) {
            asked.answer(Answer::problem(
                StatusCode::CONFLICT,
                &format!("everything goes on as before: {refusal}{causes}"),
            ));
        }
        self.renewal.reloads.refused = Some(format!("{refusal}{causes}"));
        self.manager.note(Some(told));
        self.renewal.stage = Stage::Idle;
        self.manager.reloaded();
    }

    /// Comes back only if it cannot be done, or not now: then without a reason.
    fn renew(&mut self) -> Option<Refusal> {
        self.keep_stopped(true);
        let Ok(mask) = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK) else { return None };
        let refusal = if self.signals.are_waiting() { None } else { Some(self.replace()) };
        // What came meanwhile is delivered now.
        if let Err(errno) = mask.thread_set_mask() {
            warn!("[emperor] signals stay blocked: {errno}");
        }
        refusal
    }

    fn replace(&self) -> Refusal {
        let state = self.state();
        let file = match state.seal() {
            Ok(file) => file,
            Err(error) => return Refusal::State(error),
        };
        let passed = self.passed(&state, &file);
        let done = passed.iter().try_for_each(|number| fds::pass_on(*number, true));
        let failure = match done {
            Ok(()) => self.exec(state.survivors.len(), &file),
            Err(error) => Refusal::State(error),
        };
        for number in passed {
            // One that could not be passed on is not open.
            let _ = fds::pass_on(number, false);
        }
        failure
    }

    fn exec(&self, vassals: usize, state: &OwnedFd) -> Refusal {
        let origin = &self.renewal.origin;
        let program = self.renewal.program();
        let mut set = vec![(STATE_VARIABLE, format!("{}:{}", std::process::id(), state.as_raw_fd()))];
        set.extend(self.superior.number().map(|number| (FD_VARIABLE, number.to_string())));
        let path = CString::new(origin.program().as_os_str().as_bytes()).unwrap_or_default();
        let (arguments, environment) = (origin.arguments(None), origin.environment(&set));
        let here = std::env::current_dir();
        info!("[emperor] {vassals} vassals are handed over to {program}");
        log::flush();
        // A directory that is closed to the user that we have become does not matter to absolute paths.
        let _ = std::env::set_current_dir(origin.directory());
        let replaced: io::Result<nix::Result<Infallible>> =
            caps::passing_on(|| nix::unistd::execve(&path, &arguments, &environment));
        if let Ok(here) = here {
            let _ = std::env::set_current_dir(here);
        }
        let source = match replaced {
            Ok(Err(errno)) => errno.into(),
            Err(error) => error,
        };
        Refusal::Exec { program, source }
    }

    /// The numbers of all descriptors that the next program must find open.
    fn passed(&self, state: &State, file: &OwnedFd) -> Vec<RawFd> {
        let notify = |estate: &Estate| Some(estate.life.as_ref()?.notify.as_ref()?.0);
        let numbers = |estate: &Estate| {
            let own = estate.sockets.iter().map(|socket| socket.number);
            [estate.link, estate.pidfd, estate.socket, estate.config, notify(estate)]
                .into_iter()
                .chain(own)
                .collect::<Vec<_>>()
        };
        let vassals = state.survivors.iter().flat_map(|survivor| numbers(&survivor.estate));
        let files = self.renewal.pid_files.iter().flat_map(|file| [file.directory, file.file]);
        let safe = self.hands.safe_fds().iter().copied().filter(|number| fds::is_open(*number));
        let bound = self.hands.passed().map(|(_, fd)| fd.as_raw_fd());
        let others = [Some(file.as_raw_fd()), self.superior.number()];
        let process = state.header.process.iter();
        let offers = process.flat_map(|process| {
            let doors =
                process.doors.iter().flat_map(|door| door.numbers.iter().map(|(number, _)| Some(*number)));
            doors.chain(process.offered.iter().map(|socket| socket.number))
        });
        vassals.chain(offers).chain(others).flatten().chain(files).chain(safe).chain(bound).collect()
    }

    /// All that is known.
    fn state(&self) -> State {
        let survivors = self.court.vassals().filter_map(|(key, _)| self.survivor(key));
        let (doors, offered) = self.hands.offers(&self.court);
        let offered = offered.into_iter();
        let offered =
            offered.map(|(fd, record)| SocketEstate { number: Some(fd.as_raw_fd()), record }).collect();
        let process = ProcessRecord {
            doors,
            offered,
            descriptor_limit: self.renewal.descriptor_limit,
            ambient: caps::ambient().unwrap_or(0),
            strays: self.hands.has_others(),
            pid_files: self.renewal.pid_files.clone(),
            store: self.store.as_ref().map(Store::record),
            reloads: self.renewal.reloads.count,
            story: self.hands.story().records(),
            sockets: self.hands.passed().map(|(name, fd)| (name.to_owned(), fd.as_raw_fd())).collect(),
        };
        State { survivors: survivors.collect(), header: Header { process: Some(process), ..self.header() } }
    }

    pub(super) fn header(&self) -> Header {
        let given = self.renewal.given.iter().cloned();
        let sources = self.sources.infos().zip(given);
        Header {
            version: env!("CARGO_PKG_VERSION").into(),
            sources: sources
                .map(|((_, info), given)| SourceRecord { given, shown: info.argument.clone() })
                .collect(),
            zergs_ever: self.court.zergs_ever(),
            tyrant: self.itself.tyrant,
            edicts: Some(self.renewal.edicts.clone()),
            engine: self.hands.engine(),
            tree: self.hands.tree().to_owned(),
            process: None,
            offers: self.hands.own_offers().0,
        }
    }

    pub(super) fn survivor(&self, key: Key) -> Option<Survivor> {
        let record = self.court.record(key)?;
        let holdings = self.hands.holdings(key);
        let number = |fd: Option<BorrowedFd<'_>>| fd.map(|fd| fd.as_raw_fd());
        let own = |(fd, record): (BorrowedFd<'_>, _)| SocketEstate { number: number(Some(fd)), record };
        let mut estate = holdings.map_or_else(Estate::default, |holdings| {
            let (socket, address, file) = match holdings.waiting {
                Some((socket, address, file)) => (Some(socket), address.to_owned(), file),
                None => (None, String::new(), None),
            };
            Estate {
                kept: self.store.as_ref().map_or(0, |store| store.number(key)),
                started: 0,
                link: number(holdings.link),
                pidfd: number(holdings.pidfd),
                reports: holdings.reports.cloned(),
                life: self.hands.life_record(key),
                socket: number(socket),
                address,
                file,
                group: holdings.group,
                policy: holdings.policy,
                config: number(holdings.config.map(|(pipe, _)| pipe)),
                config_record: holdings.config.map(|(_, record)| record.clone()).unwrap_or_default(),
                supply: None,
                socket_ids: (0, 0),
                sockets: holdings.sockets.into_iter().map(own).collect(),
                doors: Vec::new(),
            }
        });
        estate.supply =
            self.court.get(key).and_then(|vassal| self.hands.supply_of(vassal)).map(|supply| {
                (Text::from(OsStr::from_bytes(supply.text())), supply.socket().map(str::to_owned))
            });
        Some(Survivor { record, estate })
    }
}

/// What the program that tried the configuration has found wrong, in a line.
fn reason(report: &File) -> String {
    let mut text = Vec::new();
    let mut from = report;
    // What cannot be read is a reason that is not known.
    let _ = from.rewind().and_then(|()| from.take(MOST_REASON).read_to_end(&mut text));
    String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" ")
}
