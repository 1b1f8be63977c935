//! The engine's life: start, orders of the emperor, signals, reload in place, end.

use std::cell::{Cell, RefCell};
use std::env;
use std::fs::File;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::prctl;
use nix::unistd::{dup2_stderr, dup2_stdout};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::low_level::pipe;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use super::http::{self, Shared};
use super::link::Link;
use super::listen::Connection;
use super::options::Options;
use super::sockets::Sockets;
use super::types::Types;
use super::{Failure, chain, identity, log};
use crate::vassal::link::{Order, Word};

/// uWSGI's default for the time that running requests get when a vassal ends gracefully.
const MERCY: Duration = Duration::from_secs(60);

/// How a vassal ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ending {
    /// It was told to, by the emperor or a signal, or was idle for long enough.
    Asked,
    /// The emperor is gone.
    Abandoned,
}

/// Runs a vassal to its end. `read` reads its configuration, whatever the current directory is; with the link if it is
/// not for the first time. `begun` runs when the sockets are bound.
///
/// # Errors
/// [`Failure`], only before the first request is accepted.
pub(super) fn run(
    read: impl Fn(Option<&Link>) -> Result<Options, Failure>,
    begun: impl FnOnce(),
) -> Result<Ending, Failure> {
    let home = env::current_dir().map_err(Failure::Prepare)?;
    let options = read(None)?;
    let link = Link::from_environment().map_err(Failure::Link)?;
    if let Some(path) = &options.log {
        redirect(path)?;
    }
    identity::become_user(options.uid.as_deref(), options.gid.as_deref())?;
    enter(&home, &options)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Prepare)?;
    LocalSet::new().block_on(&runtime, async {
        let mut server = Server::start(options, link, home)?;
        begun();
        Ok(server.live(&read).await)
    })
}

struct Server {
    options: Options,
    /// Where it was started; `chdir` may be relative to it.
    home: PathBuf,
    link: Link,
    signals: Signals,
    sockets: Sockets,
    shared: Rc<Shared>,
    /// Told `true` when connections are to finish.
    closing: watch::Sender<bool>,
    /// Each connection holds a sender: when all are gone, the receiver knows.
    connections: (Option<mpsc::Sender<()>>, mpsc::Receiver<()>),
    heartbeat: Option<Interval>,
    loyal: bool,
    /// The moment of the last request when idleness was reported.
    reported_idle: Option<Instant>,
    /// When a graceful end becomes a plain one.
    deadline: Option<Instant>,
}

/// What can happen to a vassal.
enum Event {
    Connection(Connection),
    Order(Order),
    Abandoned,
    Beat,
    Answered,
    Idle,
    /// A graceful end is over: nothing is left to do, or no time.
    Drained,
}

impl Server {
    fn start(options: Options, mut link: Link, home: PathBuf) -> Result<Self, Failure> {
        link.connect().map_err(Failure::Link)?;
        let (closing, closing_seen) = watch::channel(false);
        let (connection, connections) = mpsc::channel(1);
        let mut server = Self {
            home,
            link,
            signals: Signals::catch().map_err(Failure::Prepare)?,
            sockets: Sockets::default(),
            shared: Rc::new(Shared {
                site: RefCell::default(),
                types: Types::of_this_machine(),
                quiet: Cell::new(false),
                running: Cell::new(0),
                last: Cell::new(Instant::now()),
                answered: Notify::new(),
                closing: closing_seen,
            }),
            closing,
            connections: (Some(connection), connections),
            heartbeat: None,
            loyal: false,
            reported_idle: None,
            deadline: None,
            options: Options::default(),
        };
        server.sockets.update(&options)?;
        server.link.say(Word::Spawned);
        server.apply(options);
        Ok(server)
    }

    /// Serves by these options from now on.
    fn apply(&mut self, options: Options) {
        if let Some(name) = &options.name {
            let _ = prctl::set_name(name);
        }
        self.shared.site.replace(Rc::new(options.site.clone()));
        self.shared.quiet.set(options.quiet);
        self.heartbeat = options.heartbeat.map(|period| {
            let mut beat = interval(period);
            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            beat
        });
        self.options = options;
        self.loyal = false;
        self.link.say(Word::Accepting);
    }

    async fn live(&mut self, read: &impl Fn(Option<&Link>) -> Result<Options, Failure>) -> Ending {
        loop {
            match self.next().await {
                Event::Connection(connection) => self.serve(connection),
                // A vassal on its way out takes nothing up again.
                Event::Order(Order::Reload) if self.deadline.is_some() => {}
                Event::Order(Order::Reload) => self.reload(read),
                Event::Order(Order::StopGracefully) => self.drain(),
                Event::Order(Order::Stop) | Event::Drained => break self.end(Ending::Asked),
                Event::Abandoned => {
                    log("the emperor is gone");
                    break self.end(Ending::Abandoned);
                }
                Event::Beat => self.link.say(Word::Heartbeat),
                Event::Answered => self.answered(),
                // A request may have come while this event was on its way.
                Event::Idle if self.idle_at().is_none_or(|at| at > Instant::now()) => {}
                Event::Idle if self.link.exists() => {
                    self.reported_idle = Some(self.shared.last.get());
                    self.link.say(Word::Idle);
                }
                Event::Idle => {
                    log("idle for long enough");
                    break self.end(Ending::Asked);
                }
            }
        }
    }

    async fn next(&mut self) -> Event {
        let (idle_at, deadline) = (self.idle_at(), self.deadline);
        tokio::select! {
            order = self.link.order() => order.map_or(Event::Abandoned, Event::Order),
            order = self.signals.next() => Event::Order(order),
            () = tick(&mut self.heartbeat) => Event::Beat,
            () = self.shared.answered.notified() => Event::Answered,
            () = until(idle_at) => Event::Idle,
            () = until(deadline) => Event::Drained,
            _ = self.connections.1.recv() => Event::Drained,
            connection = self.sockets.accept() => Event::Connection(connection),
        }
    }

    /// When this vassal will have been idle for too long, if that matters and was not said already.
    fn idle_at(&self) -> Option<Instant> {
        let last = self.shared.last.get();
        let idle = self.options.idle.filter(|_| self.options.die_on_idle)?;
        (self.shared.running.get() == 0 && self.reported_idle != Some(last)).then(|| last + idle)
    }

    fn serve(&mut self, connection: Connection) {
        let (Some(open), shared) = (self.connections.0.clone(), Rc::clone(&self.shared)) else { return };
        spawn_local(async move {
            match connection {
                Connection::Tcp(stream, peer) => {
                    let _ = stream.set_nodelay(true);
                    http::serve(stream, peer.ip().to_string(), shared).await;
                }
                Connection::Unix(stream) => http::serve(stream, "unix".into(), shared).await,
            }
            drop(open);
        });
    }

    fn answered(&mut self) {
        if !self.loyal {
            self.loyal = true;
            self.link.say(Word::Loyal);
        }
    }

    /// Reads the configuration again. One that cannot be used changes nothing.
    fn reload(&mut self, read: &impl Fn(Option<&Link>) -> Result<Options, Failure>) {
        match self.reread(read) {
            Ok(options) => {
                log("the configuration was read again");
                self.apply(options);
            }
            Err(failure) => {
                log(&format!(
                    "the new configuration is not used, the former one stays in force: {}",
                    chain(&failure)
                ));
                self.link.say(Word::Accepting);
            }
        }
    }

    fn reread(
        &mut self,
        read: &impl Fn(Option<&Link>) -> Result<Options, Failure>,
    ) -> Result<Options, Failure> {
        let options = read(Some(&self.link))?;
        if (&options.uid, &options.gid) != (&self.options.uid, &self.options.gid) {
            return Err(Failure::IdentityChanged);
        }
        enter(&self.home, &options)?;
        if let Err(failure) = self.sockets.update(&options) {
            enter(&self.home, &self.options)?;
            return Err(failure);
        }
        if let Some(path) = options.log.as_ref().filter(|_| options.log != self.options.log) {
            redirect(path)?;
        }
        Ok(options)
    }

    /// Takes no new connections, and lets the running requests end.
    fn drain(&mut self) {
        if self.deadline.is_none() {
            self.deadline = Some(Instant::now() + self.options.mercy.unwrap_or(MERCY));
            self.sockets.close(self.options.vacuum);
            self.connections.0 = None;
            self.closing.send_replace(true);
        }
    }

    fn end(&mut self, ending: Ending) -> Ending {
        self.sockets.close(self.options.vacuum);
        ending
    }
}

/// The signals that mean something to a vassal. Each stream gets a byte per signal.
struct Signals {
    stop: UnixStream,
    reload: UnixStream,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        Ok(Self { stop: caught(&[SIGTERM, SIGINT, SIGQUIT])?, reload: caught(&[SIGHUP])? })
    }

    async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.stop.read_u8() => Order::Stop,
            _ = self.reload.read_u8() => Order::Reload,
        }
    }
}

fn caught(signals: &[i32]) -> io::Result<UnixStream> {
    let (seen, sent) = std::os::unix::net::UnixStream::pair()?;
    for signal in signals {
        pipe::register(*signal, sent.try_clone()?)?;
    }
    seen.set_nonblocking(true)?;
    UnixStream::from_std(seen)
}

async fn tick(beat: &mut Option<Interval>) {
    match beat {
        Some(beat) => drop(beat.tick().await),
        None => pending().await,
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

fn enter(home: &Path, options: &Options) -> Result<(), Failure> {
    let dir = options.chdir.as_ref().map_or_else(|| home.into(), |dir| home.join(dir));
    env::set_current_dir(&dir).map_err(|source| Failure::Enter { dir, source })
}

fn redirect(path: &Path) -> Result<(), Failure> {
    let failed = |source| Failure::Log { path: path.into(), source };
    let file = File::options().append(true).create(true).open(path).map_err(failed)?;
    dup2_stdout(&file).and_then(|()| dup2_stderr(&file)).map_err(|error| failed(error.into()))
}
