//! The emperor's loop: it waits for something to happen, tells the court, and lets the hands do what it says.
//!
//! One thread. Nothing in the loop waits for anything but the loop itself: whatever could take time is a
//! process or a task of its own.

mod control;
mod forward;
mod keeping;
mod realm;
mod reform;
mod renewal;

use std::collections::VecDeque;
use std::error::Error;
use std::ffi::OsString;
use std::future::{pending, ready};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use tracing::{error, info};

use super::control::{self as door, Asked};
use super::court::{Action, Court, Event, Key, Now, Policy, State, Then};
use super::edicts::Edicts;
use super::forward::{PostError, PostOptions};
use super::hands::telling::changes;
use super::hands::{Hands, Launch, OfferError, Place};
use super::jail_policy::PolicyWatch;
use super::listen::{ListenError, Options, Server, Visitor};
use super::log;
use super::metrics::Times;
use super::process::ProcessError;
use super::signals::{Arrival, Signals, Wish};
use super::source::{Report, SourceError, SourceId, SourceOptions, Sources};
use super::stats::{self, Itself, Told};
use super::story::Kind;
use super::superior::{Command, Superior};
use super::survival::{Heritage, Origin, PidFileRecord, Store};
use super::systemd::Manager;
use super::tyranny;
use crate::sys::clock;
use crate::sys::fds::Readable;
use crate::sys::spawn::Spawner;
use crate::vassal::plan::Text;
use control::Door;
use forward::Forwarding;
pub use realm::Governed;
use realm::Realm;
use renewal::Renewal;

/// What a reign begins with.
#[derive(Debug)]
pub struct Accession {
    /// The `emperor` arguments, in order.
    pub sources: Vec<OsString>,
    /// The directory that they, and the vassals of patterns, are relative to.
    pub cwd: PathBuf,
    /// How the sources are read.
    pub source_options: SourceOptions,
    /// How vassals are treated.
    pub policy: Policy,
    /// How vassals are started; the places are filled in by the sources.
    pub launch: Launch,
    /// What makes processes.
    pub spawner: Spawner,
    /// Where the stats are served.
    pub stats: Option<Options>,
    /// Where they are served with those of the vassals.
    pub stats_full: Option<Options>,
    /// Where each vassal's own are.
    pub stats_posts: Option<PostOptions>,
    /// Where the emperor is operated.
    pub control: door::Options,
    /// What the stats say of the emperor.
    pub itself: Itself,
    /// Whether this is the first process of its namespace, to which orphans are left.
    pub first_process: bool,
    /// The link to the emperor whose vassal this one is.
    pub superior: Option<OwnedFd>,
    /// How this process was started.
    pub origin: Origin,
    /// The limit of descriptors that vassals get, soft and hard, if it is not ours.
    pub descriptor_limit: Option<(u64, u64)>,
    /// What a former emperor has left.
    pub heritage: Heritage,
    /// Whether the service manager is to keep what the next emperor needs after a crash.
    pub keeps: bool,
    /// What the configuration says.
    pub edicts: Edicts,
}

/// Why a reign cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ReignError {
    /// One of the `emperor` arguments is none.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Another emperor governs one of them.
    #[error(transparent)]
    Governed(#[from] Governed),
    /// It cannot be operated there.
    #[error(transparent)]
    Control(#[from] door::ControlError),
    /// The stats cannot be served.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The stats of each vassal cannot be served.
    #[error(transparent)]
    Posts(#[from] PostError),
    /// What is to be offered to others cannot be.
    #[error(transparent)]
    Offer(#[from] OfferError),
    /// Its last preparations failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The process cannot be set up for it.
    #[error("cannot set up the emperor's loop")]
    Setup(#[from] io::Error),
}

struct Reign {
    court: Court,
    hands: Hands,
    sources: Sources,
    signals: Signals,
    vassals: Readable,
    superior: Superior,
    server: Option<Server>,
    door: Door,
    times: Times,
    forwarding: Forwarding,
    itself: Itself,
    manager: Manager,
    watchdog: Option<Duration>,
    alive_at: Option<Instant>,
    events: Vec<Event>,
    actions: VecDeque<Action>,
    ending: Option<Instant>,
    /// When the sources had been read for the first time.
    began: Option<Instant>,
    renewal: Renewal,
    keeps: bool,
    store: Option<Store>,
    policy_watch: Option<PolicyWatch>,
    /// Vassals of which the store may have to know something new.
    touched: Vec<Key>,
    realm: Realm,
    /// Whether there may be children that are neither vassals nor beside them.
    strays: bool,
}

/// Signals to end that come so close together are one.
const SAME_WISH: Duration = Duration::from_millis(500);

/// How many tasks beside the loop, which serve clients, may have a turn before the loop has its own again.
const TASKS_BETWEEN: u32 = 8;

/// How long vassals' control groups are looked at for one document. Those that this does not suffice for are the next
/// one's first, and stand there as they were seen last.
const MEASURING: Duration = Duration::from_millis(2);

/// How long the first vassals may take to say that they have started before the manager is told that the emperor is
/// ready: one that hangs is not the others' concern. Below systemd's usual patience, 90 seconds.
const FIRST_ROUND: Duration = Duration::from_secs(20);

/// What the loop was woken by.
enum Woken {
    Vassal,
    Signal,
    Superior,
    Rehearsal,
    Refusal,
    Policy,
    Source,
    Visitor(Visitor),
    Asked(Asked),
    Time,
}

/// Reigns until told to end. `begun` runs when the sources are open and the stats served, before any vassal
/// starts, with the directory of the last source; it gives the pidfiles that are held.
///
/// # Errors
/// [`ReignError`], before any vassal has started.
pub fn reign(
    accession: Accession,
    begun: impl FnOnce(&Path) -> Result<Vec<PidFileRecord>, ProcessError>,
) -> Result<(), ReignError> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.event_interval(TASKS_BETWEEN);
    // A host's name may have to be looked up, in a thread beside this one: that must not take signals, which are held
    // back here while another program takes our place.
    runtime.max_blocking_threads(1).thread_keep_alive(Duration::from_secs(1)).on_thread_start(|| {
        if let Err(errno) = SigSet::all().thread_block() {
            error!("[emperor] a thread takes signals: {errno}");
        }
    });
    let runtime = runtime.enable_io().enable_time().build()?;
    runtime.block_on(async {
        let mut reign = Reign::begin(accession)?;
        let last = reign.sources.infos().last().map(|(_, info)| info.cwd.clone());
        reign.renewal.pid_files = begun(&last.unwrap_or_default())?;
        let ended = reign.govern().await;
        log::stop_gathering();
        Ok(ended?)
    })
}

fn now() -> Now {
    Now { micros: clock::monotonic_micros(), epoch: clock::epoch_seconds() }
}

impl Reign {
    fn begin(accession: Accession) -> Result<Self, ReignError> {
        let renewal = Renewal::new(&accession);
        let Accession { mut policy, mut launch, spawner, itself, mut heritage, .. } = accession;
        let own = heritage.header.as_ref().and_then(|header| header.process.as_ref());
        let (is_own, strays) = (own.is_some(), own.is_some_and(|process| process.strays));
        let manager = Manager::default();
        manager.initializing();
        let strays = strays || accession.first_process;
        let signals = Signals::new(strays)?;
        // The program before this one has held back what came meanwhile.
        SigSet::empty().thread_set_mask().map_err(io::Error::from)?;
        let sources = Sources::open(&accession.sources, &accession.cwd, &accession.source_options)?;
        if policy.tyrant {
            tyranny::warn_of_open_doors(&sources);
        }
        launch.places = sources.infos().filter_map(|(_, info)| Place::new(info)).collect();
        policy.on_demand |= sources.infos().any(|(_, info)| info.carries); // each row may name a socket
        policy.on_demand |= !heritage.sockets.is_empty();
        if let Some((_, last)) = sources.infos().last() {
            launch.vassals_dir = Text::from(last.cwd.as_os_str());
        }
        let policy_watch = launch.policy.watch();
        let mut hands = Hands::new(spawner, launch)?;
        hands.take_passed(std::mem::take(&mut heritage.sockets));
        let vassals = Readable::new(hands.readiness()?)?;
        let realm = match Realm::claim(hands.runtime_dir(), sources.infos().map(|(_, info)| info)) {
            // Those that were left are governed all the same.
            Err(governed) if heritage.header.is_some() => {
                error!("[emperor] {governed}");
                Realm::default()
            }
            realm => realm?,
        };
        let server = match accession.stats.map(Server::bind).transpose() {
            Err(error) if is_own => {
                // The vassals are governed, seen or not.
                error!("[emperor] {error}: {}", error.source().map(ToString::to_string).unwrap_or_default());
                None
            }
            Ok(Some(server)) => {
                info!("*** Emperor stats server enabled on {} fd: {} ***", server.address(), server.number());
                Some(server)
            }
            server => server?,
        };
        let door = Door::open(&accession.control, hands.runtime_dir(), is_own)?;
        let watchdog = Manager::watchdog();
        let forwarding = Forwarding::open(accession.stats_full, accession.stats_posts, is_own)?;
        let mut reign = Self {
            court: Court::new(policy),
            hands,
            sources,
            signals,
            vassals,
            superior: Superior::new(accession.superior)?,
            server,
            door,
            times: Times::default(),
            forwarding,
            itself,
            manager,
            watchdog,
            alive_at: watchdog.map(|_| Instant::now()),
            events: Vec::new(),
            actions: VecDeque::new(),
            ending: None,
            began: None,
            renewal,
            keeps: accession.keeps,
            store: None,
            policy_watch,
            touched: Vec::new(),
            realm,
            strays,
        };
        let offers = std::mem::take(&mut heritage.offers);
        let is_first = heritage.header.is_none();
        match reign.hands.offer_own(&accession.cwd, offers) {
            Err(error) if is_first => return Err(error.into()),
            // The vassals are governed all the same.
            Err(error) => error!("[emperor] {error}"),
            Ok(()) => {}
        }
        reign.inherit(heritage);
        reign.remember_stopped();
        Ok(reign)
    }

    async fn govern(&mut self) -> io::Result<()> {
        self.superior.announce();
        log::gather();
        self.rescan();
        self.dismiss_unclaimed();
        self.forget_stopped();
        loop {
            let busy = self.hear_vassals();
            self.go_on_renewing();
            if self.hands.is_buried() {
                self.manager.buried();
                if let Some(store) = self.store.take() {
                    store.dissolve();
                }
                std::mem::take(&mut self.realm).leave();
                return Ok(());
            }
            if let Some(store) = &mut self.store {
                store.settle();
            }
            self.tell_manager();
            log::flush();
            let timeout = self.next_timeout();
            let Self {
                vassals,
                signals,
                superior,
                sources,
                server,
                door,
                renewal,
                store,
                policy_watch,
                forwarding,
                ..
            } = self;
            let woken = tokio::select! {
                biased;
                result = vassals.ready(), if !busy => { result?; Woken::Vassal }
                result = signals.ready() => { result?; Woken::Signal }
                result = superior.ready() => { result?; Woken::Superior }
                result = renewal.heard() => { result?; Woken::Rehearsal }
                result = refused(store.as_ref()) => { result?; Woken::Refusal }
                () = sources.hinted() => Woken::Source,
                () = changed(policy_watch.as_ref()) => Woken::Policy,
                visitor = accept(server.as_ref()) => Woken::Visitor(visitor),
                asked = door.next() => Woken::Asked(asked),
                asked = forwarding.next() => Woken::Asked(asked),
                () = until(timeout) => Woken::Time,
                () = ready(()), if busy => Woken::Vassal,
            };
            match woken {
                Woken::Vassal | Woken::Rehearsal | Woken::Time => {}
                Woken::Refusal => self.store.as_mut().map_or((), Store::on_refused),
                Woken::Signal => self.obey(),
                Woken::Superior => self.serve(),
                Woken::Policy => self.hands.policy().refresh(),
                Woken::Source => self.look(),
                Woken::Visitor(visitor) => self.show(visitor),
                Woken::Asked(asked) => self.answer(asked),
            }
            self.pass_time();
        }
    }

    /// Whether there may be more to hear.
    fn hear_vassals(&mut self) -> bool {
        let mut events = std::mem::take(&mut self.events);
        let busy = self.hands.collect(&self.court, &mut events);
        for event in events.drain(..) {
            self.feed(event);
        }
        self.events = events;
        busy
    }

    /// Tells the court what happened, and does what it says, and so on until it has nothing more to say.
    fn feed(&mut self, event: Event) {
        self.touch(event.key());
        let mut decided = Vec::new();
        self.tell(event, &mut decided);
        self.perform(decided);
    }

    fn tell(&mut self, event: Event, decided: &mut Vec<Action>) {
        let (key, now) = (event.key(), now());
        self.times.before(&event, &self.court, now);
        self.court.on_event(event, now, decided);
        self.times.after(key, &self.court, now);
    }

    fn perform(&mut self, mut decided: Vec<Action>) {
        self.actions.extend(decided.drain(..));
        while let Some(action) = self.actions.pop_front() {
            self.touch(action.key());
            self.times.doing(&action, now);
            let outcome = self.hands.perform(&action, &self.court);
            for event in self.hands.take_agreed().into_iter().chain(outcome) {
                self.tell(event, &mut decided);
                self.actions.extend(decided.drain(..));
            }
        }
        self.keep_touched();
        if self.hands.take_rescan() {
            self.rescan();
        }
    }

    fn report(&mut self, look: impl FnOnce(&mut Sources, Instant, &mut dyn FnMut(Report))) {
        let mut reports = Vec::new();
        look(&mut self.sources, Instant::now(), &mut |report| reports.push(report));
        for report in reports {
            let report = match report {
                Report::Supplies(source, supplies) => {
                    self.hands.supply(source, supplies, &self.court);
                    continue;
                }
                report => report,
            };
            match &report {
                Report::Trouble(_, trouble) => error!("[emperor] {trouble}"),
                Report::Remark(_, remark) => info!("[emperor] {remark}"),
                Report::ScanBegan(source) => self.settle_place(*source),
                Report::ScanEnded(_) => {
                    for key in self.hands.look_after_sockets(&self.court) {
                        self.touch(Some(key));
                    }
                    self.keep_offers();
                }
                _ => {}
            }
            self.note_file(&report);
            self.feed(Event::Report(report));
        }
    }

    /// The story of a vassal begins with its file.
    fn note_file(&self, report: &Report) {
        let Report::Seen(source, name, identity) = report else { return };
        let owner = identity.uid;
        let story = self.hands.story();
        match self.court.find(name).and_then(|key| self.court.get(key)) {
            None => story.note(name, owner, Kind::File, "its file was found"),
            Some(vassal) if vassal.source == *source && vassal.identity.differs(identity) => {
                story.note(name, owner, Kind::File, changes(&vassal.identity, identity));
            }
            Some(_) => {}
        }
    }

    /// A link that leads to a source's directory may lead elsewhere than before.
    fn settle_place(&mut self, source: SourceId) {
        if let Some(place) = self.sources.info(source).and_then(Place::new) {
            self.hands.set_place(source, place);
        }
    }

    fn rescan(&mut self) {
        self.report(|sources, now, report| sources.rescan(now, report));
    }

    /// What was taken over and belongs to no source any more.
    fn dismiss_unclaimed(&mut self) {
        let mut decided = Vec::new();
        self.court.dismiss_unclaimed(now(), &mut decided);
        self.perform(decided);
    }

    fn look(&mut self) {
        self.report(|sources, now, report| sources.on_hint(now, report));
    }

    fn pass_time(&mut self) {
        if self.court.next_timeout().is_some_and(|at| at <= clock::monotonic_micros()) {
            self.feed(Event::Tick);
        }
        let due = self.hands.next_timeout(); // which may be this very moment, and so no later than the next line
        let present = Instant::now();
        if due.is_some_and(|at| at <= present) {
            let mut events = Vec::new();
            self.hands.on_timeout(present, &self.court, &mut events);
            events.drain(..).for_each(|event| self.feed(event));
        }
        if self.sources.next_timeout().is_some_and(|at| at <= present) {
            self.report(|sources, now, report| sources.on_timeout(now, report));
        }
        if let (Some(every), Some(at)) = (self.watchdog, self.alive_at)
            && at <= present
        {
            self.manager.alive();
            self.alive_at = Some(present + every);
        }
        self.keep_stopped(false);
        self.go_on_gathering();
        self.tend_posts();
    }

    fn next_timeout(&self) -> Option<Instant> {
        let present = Instant::now();
        let court = self
            .court
            .next_timeout()
            .map(|at| present + Duration::from_micros(at.saturating_sub(clock::monotonic_micros())));
        let others = [
            self.hands.next_timeout(),
            self.sources.next_timeout(),
            self.alive_at,
            self.renewal.next_timeout(),
            self.began.filter(|_| !self.manager.is_ready()).map(|at| at + FIRST_ROUND),
            self.door.next_timeout(),
            self.forwarding.next_timeout(),
        ];
        others.into_iter().chain([court]).flatten().min()
    }

    fn tell_manager(&mut self) {
        self.manager.governing(self.court.running());
        let began = *self.began.get_or_insert_with(Instant::now);
        if (!self.court.is_starting() || began.elapsed() >= FIRST_ROUND) && self.manager.ready() {
            self.hands.tell_of_idle_sockets(&self.court);
        }
    }

    fn obey(&mut self) {
        for Arrival { wish, name, sender } in self.signals.take() {
            if wish != Wish::Reap {
                match sender {
                    Some((pid, uid)) => info!("[emperor] {name} received from process {pid} (uid {uid})"),
                    None => info!("[emperor] {name} received"),
                }
            }
            match wish {
                Wish::Shutdown => self.shut_down(),
                Wish::Reload => self.reload_all(),
                Wish::List => self.list(),
                Wish::ClearBlacklist => self.feed(Event::ClearBlacklist),
                Wish::Rescan => self.rescan(),
                Wish::Upgrade => self.upgrade(),
                Wish::Reap => self.reap_orphans(),
            }
        }
    }

    fn reap_orphans(&mut self) {
        while !self.hands.reap_orphans(&self.court, self.renewal.pid()) && self.hear_vassals() {}
    }

    fn serve(&mut self) {
        for command in self.superior.take() {
            info!("[emperor] the emperor above wants: {command:?}");
            match command {
                Command::Stop => self.shut_down(),
                Command::Reload => self.reload_all(),
            }
        }
    }

    /// A second wish kills, but not one that comes with the first: some tools signal a process and its group.
    fn shut_down(&mut self) {
        let first = self.ending.is_none();
        self.keep_stopped(true);
        let since = *self.ending.get_or_insert_with(Instant::now);
        if first || since.elapsed() > SAME_WISH {
            self.manager.stopping();
            self.feed(Event::Shutdown);
        }
    }

    fn reload_all(&mut self) {
        self.manager.reloading();
        self.feed(Event::ReloadAll);
        self.manager.reloaded();
    }

    fn list(&self) {
        info!("*** vassals list ***");
        for (_, vassal) in self.court.vassals() {
            let status = match vassal.state {
                State::Cursed
                | State::Stopping(Then::Forget | Then::Restart | Then::Rest | Then::RestByHand) => 1,
                State::Stopping(Then::Wait) => 2,
                _ => 0,
            };
            info!(
                "vassal instance {} (last modified {}) status {status} loyal {} zerg {}",
                vassal.name,
                vassal.last_mod(),
                u8::from(vassal.instance.loyal),
                u8::from(vassal.zerg.is_some()),
            );
        }
    }

    fn show(&mut self, visitor: Visitor) {
        self.hands.measure(MEASURING);
        let sources: Vec<_> = self.sources.infos().map(|(_, info)| info).collect();
        let document = stats::document(&self.itself, &sources, &self.court, &|key| self.told(key));
        if let Some(server) = &self.server {
            server.served(document.len());
        }
        tokio::spawn(visitor.serve(document));
    }

    fn told(&self, key: Key) -> Told<'_> {
        Told {
            on_demand: self.hands.on_demand_address(key),
            usage: self.hands.usage(key),
            status: self.hands.status_text(key),
            failure: self.hands.launch_failure(key),
            not_replaced: self.hands.not_replaced(key),
        }
    }
}

async fn accept(server: Option<&Server>) -> Visitor {
    match server {
        Some(server) => server.accept().await,
        None => pending().await,
    }
}

async fn refused(store: Option<&Store>) -> io::Result<()> {
    match store {
        Some(store) => store.refused().await,
        None => pending().await,
    }
}

async fn changed(policy: Option<&PolicyWatch>) {
    match policy {
        Some(policy) => policy.changed().await,
        None => pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}
