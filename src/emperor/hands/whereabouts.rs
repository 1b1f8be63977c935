//! Where vassals' stats servers are: asked for only when somebody wants stats.
//!
//! Files that we may read are read by the thread that gathers. In tyrant mode a file is a tenant's: a process that has
//! become that tenant reads it, once for each time that the vassal reads it itself.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::config_pipe::ConfigPipe;
use super::side::Errand;
use super::{Hands, agree, judge, life};
use crate::emperor::court::{Court, Key, Vassal};
use crate::emperor::forward::wish::Wish;
use crate::emperor::forward::{Question, Subject, Whereabouts};
use crate::sys::wait::Ending;
use crate::vassal::plan::{Exec, Text, VassalOrder};

/// How many tenants' files are read at once.
const AT_ONCE: usize = 8;

/// What is known in tyrant mode.
#[derive(Debug, Default)]
pub(super) struct Sought {
    found: HashMap<Key, Found>,
    waiting: VecDeque<Key>,
    running: usize,
    environment: Option<Arc<Vec<Vec<u8>>>>,
}

#[derive(Debug)]
struct Found {
    /// Which reading of the file this is.
    version: u64,
    /// None while a process is looking.
    wish: Option<Result<Arc<Wish>, Box<str>>>,
}

impl Hands {
    /// A vassal, for those who gather.
    pub fn stats_subject(&mut self, key: Key, vassal: &Vassal) -> Subject {
        let version = version(vassal);
        Subject {
            id: key.to_bits(),
            version,
            name: vassal.name.as_bytes().into(),
            pid: vassal.pid,
            tenant: self.launch.confinement.tyrant.map(|_| (vassal.identity.uid, vassal.identity.gid)),
            group: self.group_directory(key),
            whereabouts: self.whereabouts(key, vassal, version),
        }
    }

    /// Whether processes still look for where stats servers are.
    #[must_use]
    pub fn seek_stats(&self) -> bool {
        self.sought.running > 0
    }

    fn whereabouts(&mut self, key: Key, vassal: &Vassal, version: u64) -> Whereabouts {
        if vassal.pid <= 0 || life::is_program(vassal) {
            return Whereabouts::Nowhere;
        }
        if self.launch.confinement.tyrant.is_none() {
            let Some(place) = self.launch.places.get(usize::from(vassal.source.0)) else {
                return Whereabouts::Nowhere;
            };
            let directory = place.path().to_owned();
            let base = &self.launch.environment;
            let environment =
                self.sought.environment.get_or_insert_with(|| Arc::new(base.of(false, None))).clone();
            let arguments = self.launch.templates.arguments(self.launch.subject(vassal));
            let sent = self.text_of(vassal).map(<[u8]>::to_vec);
            return Whereabouts::Written(Box::new(Question {
                directory,
                arguments,
                environment,
                sent,
                in_uwsgis_words: self.launch.engine.reads_uwsgi_files(),
            }));
        }
        match self.sought.found.get(&key) {
            Some(Found { version: of, wish }) if *of == version => match wish {
                Some(wish) => return Whereabouts::Found(wish.clone()),
                None => return Whereabouts::Sought,
            },
            _ => {}
        }
        self.sought.found.insert(key, Found { version, wish: None });
        if self.sought.running < AT_ONCE {
            self.seek(key, vassal);
        } else {
            self.sought.waiting.push_back(key);
        }
        Whereabouts::Sought
    }

    /// Has a process look that becomes the tenant first.
    fn seek(&mut self, key: Key, vassal: &Vassal) {
        if let Err(cause) = self.try_seek(key, vassal) {
            let why = format!("nobody can look at its file: {cause}");
            if let Some(found) = self.sought.found.get_mut(&key) {
                found.wish = Some(Err(agree::legible(&why).into()));
            }
        }
    }

    fn try_seek(&mut self, key: Key, vassal: &Vassal) -> Result<(), Box<dyn std::error::Error>> {
        let tyrant = self.tyrant(vassal).ok_or("it belongs to root")?;
        let place = self.launch.places.get(usize::from(vassal.source.0));
        let carries = self.launch.carries(vassal.source);
        let arguments = self.launch.templates.arguments(self.launch.subject(vassal));
        let words = [&b"judge"[..], b"--stats"].into_iter().chain(arguments.iter().map(Vec::as_slice));
        let order = VassalOrder {
            name: Text::from(vassal.name.as_path().as_os_str()),
            directory: place.map(|place| Text::from(place.path().as_os_str())),
            end_after: Some(u32::try_from(judge::PATIENCE.as_secs()).unwrap_or(u32::MAX)),
            tyrant: Some(tyrant),
            environment: self.launch.variables(carries, None),
            config_pipe: carries,
            exec: Exec {
                programs: vec![Text::from(OsStr::new(super::start::OWN_PROGRAM))],
                args: words.map(|word| Text::from(OsStr::from_bytes(word))).collect(),
                magic: None,
            },
            ..VassalOrder::default()
        };
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
        // What is in this pipe stays there when the end here is closed.
        let config = self.text_of(vassal).map(ConfigPipe::filled).transpose()?;
        let (config, what) = (config.as_ref(), format!("the look for the stats server of {}", vassal.name));
        let errand = Errand::Stats(key, ours);
        self.try_beside(&order.plan(), config.map(AsFd::as_fd), &what, theirs.as_fd(), errand)?;
        self.sought.running += 1;
        Ok(())
    }

    /// What such a process has found; then the next one looks.
    pub(super) fn note_whereabouts(&mut self, key: Key, link: &OwnedFd, ending: Ending, court: &Court) {
        self.sought.running = self.sought.running.saturating_sub(1);
        let text = agree::read_text(link, ending);
        let wish = text.and_then(|text| agree::parse::<Result<Wish, String>>(&text)).and_then(|wish| wish);
        let wish =
            wish.or_else(
                |why| {
                    if self.launch.engine.reads_uwsgi_files() { Err(why) } else { Ok(Wish::default()) }
                },
            );
        if let Some(found) = self.sought.found.get_mut(&key) {
            found.wish = Some(wish.map(Arc::new).map_err(|why| agree::legible(&why).into()));
        }
        while self.sought.running < AT_ONCE {
            let Some(next) = self.sought.waiting.pop_front() else { return };
            if let Some(vassal) = court.get(next) {
                self.seek(next, vassal);
            }
        }
    }

    pub(super) fn forget_whereabouts(&mut self, key: Key) {
        self.sought.found.remove(&key);
    }
}

/// A number for one reading of a vassal's configuration, never 0.
fn version(vassal: &Vassal) -> u64 {
    let mut hasher = DefaultHasher::new();
    (vassal.identity, vassal.pid, vassal.last_run, vassal.respawns).hash(&mut hasher);
    hasher.finish() | 1
}
