//! What is asked over the control socket, and done about it.

use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use tracing::{error, info, warn};

use super::Reign;
use super::forward::suffered;
use crate::emperor::control::{
    Account, Answer, Asked, Commands, Control, ControlError, FILE_NAME, Gallery, Options, Output, Peer,
    Place, Route, StoppedFile, View,
};
use crate::emperor::court::{Event, Key, Wish};
use crate::emperor::hands::RuntimeDir;
use crate::emperor::source::VassalName;
use crate::emperor::story::Kind;

/// What was stopped by hand is written down so soon after: many may be stopped at once.
const SETTLE: Duration = Duration::from_millis(20);

/// The control socket, and what is kept of what was done over it.
#[derive(Debug, Default)]
pub(super) struct Door {
    control: Option<Control>,
    gallery: Option<Gallery>,
    commands: Option<Commands>,
    file: Option<StoppedFile>,
    /// When it is to be written; none while it need not be.
    write_at: Option<Instant>,
    /// That it cannot be was said.
    complained: bool,
}

impl Door {
    /// Opens it. Call inside the runtime. `goes_on` if vassals are governed already: then no trouble is a reason to
    /// end.
    ///
    /// # Errors
    /// [`ControlError`], for a place that was asked for.
    pub(super) fn open(
        options: &Options,
        runtime: &mut RuntimeDir,
        goes_on: bool,
    ) -> Result<Self, ControlError> {
        let gallery = suffered(options.http.as_deref().map(Gallery::bind).transpose(), goes_on)?;
        let commands = options.commands.as_deref().map(|path| Commands::bind(path, options.tyrant));
        let commands = suffered(commands.transpose(), goes_on)?;
        if let Some(gallery) = &gallery {
            info!("[emperor] metrics: http://{}/metrics", gallery.address());
        }
        Ok(Self { gallery, commands, ..Self::open_control(options, runtime, goes_on)? })
    }

    fn open_control(
        options: &Options,
        runtime: &mut RuntimeDir,
        goes_on: bool,
    ) -> Result<Self, ControlError> {
        let directory = match (&options.place, runtime.is_known()) {
            (Place::None, _) => return Ok(Self::default()),
            (Place::Usual, false) => {
                info!(
                    "[emperor] no control socket: set emperor-control, emperor-runtime-dir or XDG_RUNTIME_DIR"
                );
                return Ok(Self::default());
            }
            (Place::At(_), false) => None,
            (_, true) => runtime.open().map(Path::to_owned).map_err(|error| warn!("[emperor] {error}")).ok(),
        };
        let (path, asked): (PathBuf, _) = match (&options.place, &directory) {
            (Place::At(path), _) => (path.clone(), Some(path.as_path())),
            (_, Some(directory)) => (directory.join(FILE_NAME), None),
            (_, None) => return Ok(Self::default()), // that was said
        };
        let control = match Control::bind(&path, options) {
            Err(error) if goes_on || asked.is_none() => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                warn!(
                    "[emperor] {error}: {cause}; give each emperor its own emperor-control or emperor-runtime-dir"
                );
                return Ok(Self::default());
            }
            control => control?,
        };
        info!("[emperor] control socket: {}", control.path().display());
        let file = directory.map(|directory| StoppedFile::of(&directory, asked));
        Ok(Self { control: Some(control), file, ..Self::default() })
    }

    /// The next request; never without a socket. Cancel-safe.
    pub(super) async fn next(&mut self) -> Asked {
        let Self { control, gallery, commands, .. } = self;
        let control = async {
            match control {
                Some(control) => control.next().await,
                None => pending().await,
            }
        };
        let gallery = async {
            match gallery {
                Some(gallery) => gallery.next().await,
                None => pending().await,
            }
        };
        let commands = async {
            match commands {
                Some(commands) => commands.next().await,
                None => pending().await,
            }
        };
        tokio::select! { biased; asked = control => asked, asked = gallery => asked, asked = commands => asked }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.write_at
    }
}

impl Reign {
    /// Those that were stopped by hand stay so.
    pub(super) fn remember_stopped(&mut self) {
        let Some(file) = &self.door.file else { return };
        match file.read() {
            Ok(stopped) => self.court.remember_stopped(stopped),
            Err(error) => warn!("[emperor] cannot read which vassals were stopped by hand: {error}"),
        }
    }

    /// All sources that can have looked.
    pub(super) fn forget_stopped(&mut self) {
        if !self.sources.infos().any(|(_, info)| info.carries) {
            self.court.forget_stopped();
        }
    }

    /// Writes down what is stopped by hand, when that is due, or now.
    pub(super) fn keep_stopped(&mut self, now: bool) {
        let due = |at: Instant| now || at <= Instant::now();
        if self.ending.is_some() || !self.door.write_at.is_some_and(due) {
            return;
        }
        self.door.write_at = None;
        let written = match &self.door.file {
            Some(file) => file.write(self.court.stopped()),
            None => Err(io::Error::other("there is no directory for it: set emperor-runtime-dir")),
        };
        match written {
            Ok(()) => self.door.complained = false,
            Err(error) if !std::mem::replace(&mut self.door.complained, true) => {
                error!(
                    "[emperor] which vassals are stopped by hand cannot be kept over the emperor's end: {error}"
                );
            }
            Err(_) => {}
        }
    }

    pub(super) fn answer(&mut self, asked: Asked) {
        let answer = match &asked.route {
            Route::Metrics | Route::Figures | Route::Stats(_) | Route::Document(_) | Route::Full => {
                return self.gather(asked);
            }
            Route::Description => Answer::description(),
            Route::Emperor => self.with_view(|view| view.emperor(asked.peer)),
            Route::Renew if asked.peer == Peer::Master => return self.upgrade_for(asked),
            Route::Renew => Answer::problem(
                StatusCode::FORBIDDEN,
                "only root, the emperor's own user and members of emperor-control-group may renew it",
            ),
            Route::Vassals => self.with_view(|view| view.vassals(asked.peer)),
            Route::Events { follow } => {
                let past = self.hands.story().lines(|owner| asked.peer.may_see(owner));
                let follower = follow.then(|| self.hands.story().follow());
                Answer::events(past, follower.map(|follower| (follower, asked.peer)))
            }
            Route::Vassal(name) | Route::EventsOf(name) | Route::Why(name) | Route::Operate(name, _) => {
                let name = VassalName::new(name);
                let known = self.court.find(&name).filter(|key| {
                    self.court.get(*key).is_some_and(|vassal| asked.peer.may(vassal.identity.uid))
                });
                match (known, &asked.route) {
                    (None, _) => Answer::unknown(&name),
                    (Some(key), Route::Operate(_, wish)) => self.operate(key, &name, *wish),
                    (Some(key), Route::EventsOf(_)) => self.account(key, &name, asked.peer).events(),
                    (Some(key), Route::Why(_)) => {
                        let account = self.account(key, &name, asked.peer);
                        self.with_view(|view| view.why(key, &account))
                            .unwrap_or_else(|| Answer::unknown(&name))
                    }
                    (Some(key), _) => self.show_vassal(key, &name),
                }
            }
        };
        asked.answer(answer);
    }

    /// What there is to tell of a vassal to somebody.
    fn account(&self, key: Key, name: &VassalName, peer: Peer) -> Account {
        let mut events = self.hands.story().of(name);
        // A name may have been somebody else's before.
        events.retain(|(_, happening)| peer.may_see(happening.owner));
        let is_well = self.with_view(|view| view.is_well(key));
        let output = match peer {
            Peer::Master => Output::of_last_process(&events, is_well),
            _ => Output::default(), // others write there as well
        };
        Account { events, output }
    }

    fn operate(&mut self, key: Key, name: &VassalName, wish: Wish) -> Answer {
        if let Err(reason) = self.court.permits(key, wish) {
            return Answer::problem(StatusCode::CONFLICT, &format!("vassal {name}: {reason}"));
        }
        info!("[emperor] vassal {name}: {} by hand", format!("{wish:?}").to_lowercase());
        if let Some(vassal) = self.court.get(key) {
            let told = format!("{} by hand", format!("{wish:?}").to_lowercase());
            self.hands.story().note(name, vassal.identity.uid, Kind::Operated, told);
        }
        self.feed(Event::Wanted(key, wish));
        if !matches!(wish, Wish::Reload | Wish::Roll | Wish::Clear) {
            self.door.write_at.get_or_insert_with(|| Instant::now() + SETTLE);
        }
        match self.court.find(name) {
            Some(key) => self.show_vassal(key, name),
            None => Answer::unknown(name),
        }
    }

    fn show_vassal(&self, key: Key, name: &VassalName) -> Answer {
        self.with_view(|view| view.vassal(key)).unwrap_or_else(|| Answer::unknown(name))
    }

    pub(super) fn with_view<T>(&self, make: impl FnOnce(&View<'_>) -> T) -> T {
        let sources: Vec<_> = self.sources.infos().map(|(_, info)| info).collect();
        make(&View {
            itself: &self.itself,
            reloads: &self.renewal.reloads,
            sources: &sources,
            court: &self.court,
            now: super::now(),
            on_demand: &|key| self.hands.on_demand_address(key),
            cause: &|key| self.hands.cause(key),
            not_replaced: &|key| self.hands.not_replaced(key),
            lost: &|key| self.hands.lost(key),
            contested: &|key| self.hands.contested(key, &self.court),
            last_exit: &|key| self.hands.last_exit(key),
            usage: &|key| self.hands.usage(key),
        })
    }
}
