//! What a vassal's file asks of us is read before each of its starts.
//!
//! Most files ask for nothing, and a quick look shows it. In tyrant mode the file is a tenant's: it is looked at by a
//! process that has become that tenant, once for each version of the file that turns out to ask for nothing.

use std::ffi::OsStr;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::command::Templates;
use super::config_pipe::ConfigPipe;
use super::side::Errand;
use super::{Hands, Launch, judge};
use crate::config::{Loader, Mode, check};
use crate::emperor::court::{Court, Event, Key, Vassal};
use crate::emperor::source::Identity;
use crate::emperor::story::Kind;
use crate::sys::wait::Ending;
use crate::vassal::link::{LaunchReport, Reports};
use crate::vassal::plan::{Exec, Text, Tyrant, VassalOrder};
use crate::vassal::terms::sockets::{Names, NoNames};
use crate::vassal::terms::{Terms, may_ask};

/// What is known of a vassal's terms when it is to start.
#[derive(Debug)]
pub(super) enum Agreement {
    /// Its file asks for nothing.
    Nothing,
    /// Its file asks for this.
    Terms(Box<Terms>),
    /// A process of its own is looking.
    Later,
    /// Its file asks for what nobody can have, and that was said.
    Refused,
}

/// What a look at a file comes to.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It asks for nothing, and cannot before it changes.
    Nothing,
    /// It asks for nothing now, but what it loads may.
    NothingNow,
    /// It asks for this.
    Terms(Box<Terms>),
    /// It asks for what nobody can have; why.
    Refused(String),
}

/// What a process that has become a tenant tells of his file.
#[derive(Debug, Deserialize, Serialize)]
pub struct Found {
    /// What it asks for.
    pub answer: Answer,
    /// How it binds the socket on demand that its vassal is given.
    #[serde(default)]
    pub bound: Option<judge::Bound>,
}

/// Larger files are no configuration that a person has written.
const MOST_FILE: u64 = 1 << 20;
/// Most bytes of an answer of another process. What a socket takes without somebody who reads: unix(7).
const MOST_ANSWER: usize = 100 << 10;
/// Most of a reason that comes from another process.
const MOST_REASON: usize = 500;

/// Looks at a vassal's file. `arguments` and `environment` are those that uWSGI would get in this directory; `file`
/// is the one among the arguments, if no other argument can ask for anything. What is `sent` stands in its place.
#[must_use]
pub fn look(
    directory: &Path,
    file: Option<&Path>,
    arguments: &[Vec<u8>],
    environment: &[Vec<u8>],
    sent: Option<&[u8]>,
    names: &dyn Names,
) -> Answer {
    let may_ask_itself = |file: &Path| sent.map_or_else(|| may_ask_itself(&directory.join(file)), may_ask);
    if file.is_some_and(|file| !may_ask_itself(file)) {
        return Answer::Nothing;
    }
    let world = judge::machine(directory, sent);
    let arguments: Vec<_> = arguments.iter().map(|word| OsStr::from_bytes(word).to_owned()).collect();
    let environment: Vec<_> = environment.iter().map(|entry| judge::pair(entry)).collect();
    let loader = Loader::new(&world, judge::LIMITS);
    let Ok(config) = loader.load(&arguments, &environment, Mode::Vassal) else {
        let checked = check::check(&loader, &arguments, &environment, Mode::Vassal);
        return match checked.fatal().filter(|_| checked.config.string("command").is_some()) {
            Some(problem) => Answer::Refused(judge::line(problem)),
            None => Answer::NothingNow, // it is told by uWSGI, which says it best
        };
    };
    match Terms::read_with(&config, names) {
        Ok(terms) if terms.is_nothing() => Answer::NothingNow,
        Ok(terms) => Answer::Terms(Box::new(terms)),
        Err(error) => Answer::Refused(error.to_string()),
    }
}

/// Whether a quick look at the file itself leaves open that it asks for something.
fn may_ask_itself(file: &Path) -> bool {
    let read = || -> io::Result<Vec<u8>> {
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = File::options().read(true).custom_flags(flags.bits()).open(file)?;
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut bytes = Vec::new();
        file.take(MOST_FILE).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().is_ok_and(|bytes| may_ask(&bytes)) // what cannot be read is told by the engine
}

impl Hands {
    /// What this vassal's file asks for.
    pub(super) fn agree(&mut self, key: Key, vassal: &Vassal) -> Agreement {
        if self.held.slot(key).asks_nothing == version(&vassal.identity) && !self.is_unsearched(key, vassal) {
            return Agreement::Nothing;
        }
        match self.look_at_file(key, vassal, false) {
            Ok(answer) => self.settle(key, vassal, answer),
            Err(agreement) => agreement,
        }
    }

    /// What this vassal's file asks for, if that can be said at once. `again` while it runs.
    pub(super) fn look_at_file(
        &mut self,
        key: Key,
        vassal: &Vassal,
        again: bool,
    ) -> Result<Answer, Agreement> {
        let Some(place) = self.launch.places.get(usize::from(vassal.source.0)) else {
            return Err(Agreement::Nothing);
        };
        if self.launch.carries(vassal.source) && self.text_of(vassal).is_none() {
            return Err(Agreement::Nothing); // it is not started: nothing is known of it
        }
        let own = self.launch.templates.arguments(self.launch.subject(vassal).of_base());
        let arguments: Vec<_> = self.launch.on_demand.all.arguments().chain(own).collect();
        if self.launch.confinement.tyrant.is_some() {
            // Without an identity it is refused elsewhere.
            let Some(tyrant) = self.tyrant(vassal) else { return Err(Agreement::Nothing) };
            return Err(self.look_beside(key, vassal, &arguments, Some(tyrant), again));
        }
        let file = Path::new(OsStr::from_bytes(base_name(vassal)));
        let file = (!self.launch.others_may_ask()).then_some(file);
        let environment = self.launch.environment.of(false, None);
        let names = NoNames::default();
        let answer = look(place.path(), file, &arguments, &environment, self.text_of(vassal), &names);
        if names.were_wanted() {
            // Who is asked may take his time.
            return Err(self.look_beside(key, vassal, &arguments, None, again));
        }
        Ok(answer)
    }

    /// Has another process look, which becomes the tenant first if there is one.
    fn look_beside(
        &mut self,
        key: Key,
        vassal: &Vassal,
        arguments: &[Vec<u8>],
        tyrant: Option<Tyrant>,
        again: bool,
    ) -> Agreement {
        let place = self.launch.places.get(usize::from(vassal.source.0));
        let file = if self.launch.others_may_ask() { &b""[..] } else { base_name(vassal) };
        let socket =
            tyrant.as_ref().and_then(|_| self.demanded(key, vassal)).map(|address| address.to_string());
        let socket = socket.as_deref().unwrap_or_default().as_bytes();
        let words =
            [&b"judge"[..], b"--terms", file, socket].into_iter().chain(arguments.iter().map(Vec::as_slice));
        let order = VassalOrder {
            name: Text::from(vassal.name.as_path().as_os_str()),
            directory: place.map(|place| Text::from(place.path().as_os_str())),
            end_after: Some(u32::try_from(judge::PATIENCE.as_secs()).unwrap_or(u32::MAX)),
            tyrant,
            environment: self.launch.variables(self.launch.carries(vassal.source), None),
            config_pipe: self.launch.carries(vassal.source),
            exec: Exec {
                programs: vec![Text::from(OsStr::new(super::start::OWN_PROGRAM))],
                args: words.map(|word| Text::from(OsStr::from_bytes(word))).collect(),
                magic: None,
            },
            ..VassalOrder::default()
        };
        if again && !self.sides.overtake(key) {
            return Agreement::Later; // one that does not end is enough
        }
        let begin = || -> Result<(), Box<dyn std::error::Error>> {
            let (ours, theirs) =
                socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
            // What is in this pipe stays there when the end here is closed.
            let config = self.text_of(vassal).map(ConfigPipe::filled).transpose()?;
            let (config, what) = (config.as_ref(), format!("the look at the file of {}", vassal.name));
            let errand = if again { Errand::TermsAgain(key, ours) } else { Errand::Terms(key, ours) };
            self.try_beside(&order.plan(), config.map(AsFd::as_fd), &what, theirs.as_fd(), errand)
        };
        match begin() {
            Ok(()) => Agreement::Later,
            Err(cause) => {
                warn!("[emperor] cannot look at the file of {}: {cause}", vassal.name);
                Agreement::Refused
            }
        }
    }

    /// What another process has found; then the vassal starts.
    pub(super) fn agreed(
        &mut self,
        key: Key,
        link: &OwnedFd,
        ending: Ending,
        court: &Court,
    ) -> Option<Event> {
        let vassal = court.get(key)?;
        let Found { answer, bound } = read_answer(link, ending);
        if self.launch.confinement.tyrant.is_some() {
            self.was_searched(key, vassal, bound.as_ref());
        }
        match self.settle(key, vassal, answer) {
            Agreement::Refused => Some(Event::NotStarted(key, false)),
            agreement => self.spawn_on(key, court, agreement),
        }
    }

    fn settle(&mut self, key: Key, vassal: &Vassal, answer: Answer) -> Agreement {
        match answer {
            Answer::Nothing => {
                self.held.slot(key).asks_nothing = version(&vassal.identity);
                Agreement::Nothing
            }
            Answer::NothingNow => Agreement::Nothing,
            Answer::Terms(terms) => {
                for line in &terms.left_out {
                    let line = legible(line);
                    warn!("[emperor] vassal {}: {line}", vassal.name);
                    self.tell_of(&vassal.name, Some(vassal), Kind::Warning, line);
                }
                Agreement::Terms(terms)
            }
            Answer::Refused(why) => {
                self.hinder(key, vassal, legible(&why));
                Agreement::Refused
            }
        }
    }
}

impl Launch {
    /// Whether something else that a vassal reads than its file may ask on its behalf.
    fn others_may_ask(&self) -> bool {
        let Templates { inherit_before, include_before, set, inherit, include, .. } = &self.templates;
        [inherit_before, include_before, set, inherit, include].iter().any(|list| !list.is_empty())
            || self.environment.may_ask()
            || !self.on_demand.all.is_nothing()
    }
}

/// Text of another process in a log line.
pub(super) fn legible(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MOST_REASON).collect()
}

/// The file that a vassal, or the vassal that it reinforces, stands for.
pub(super) fn base_name(vassal: &Vassal) -> &[u8] {
    let name = vassal.name.as_bytes();
    vassal.zerg.map_or(name, |zerg| zerg.role.base_of(name))
}

/// The name by which a vassal's process knows itself: a successor is what the one before it was.
pub(super) fn own_name(vassal: &Vassal) -> &[u8] {
    if vassal.is_successor() { base_name(vassal) } else { vassal.name.as_bytes() }
}

/// The bytes are a tenant's: what is no answer is refused.
pub(super) fn read_answer(link: &OwnedFd, ending: Ending) -> Found {
    let found = read_text(link, ending).and_then(|text| parse(&text));
    found.unwrap_or_else(|why| Found { answer: Answer::Refused(why), bound: None })
}

/// What a process that has looked at a tenant's file has written down.
///
/// # Errors
/// Why there is nothing.
pub(super) fn read_text(link: &OwnedFd, ending: Ending) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; MOST_ANSWER + 1];
    let mut length = 0;
    while let Ok(count @ 1..) = recv(link.as_raw_fd(), &mut bytes[length..], MsgFlags::MSG_DONTWAIT) {
        length += count;
    }
    let mut reports = Reports::default();
    let (reports, text) = reports.feed(&bytes[..length]);
    if let Some(LaunchReport::Failed(failure)) = reports.into_iter().find(|it| *it != LaunchReport::Launched)
    {
        return Err(failure.to_string());
    }
    match ending {
        Ending::Exited(0) if text.len() <= MOST_ANSWER => Ok(text.to_vec()),
        Ending::Exited(0) => Err("its file asks for too much".into()),
        ending => Err(format!("the process that looked at its file {ending}")),
    }
}

/// # Errors
/// It is none.
pub(super) fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    serde_json::from_slice(text)
        .map_err(|error| format!("what its file asks for cannot be understood: {error}"))
}

/// A number for a version of a file, never 0.
pub(super) fn version(identity: &Identity) -> u64 {
    let mut hasher = DefaultHasher::new();
    identity.hash(&mut hasher);
    hasher.finish() | 1
}
