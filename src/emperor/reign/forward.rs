//! Stats of vassals, on their way from whoever asks to those who gather them.

use std::error::Error;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use tokio::sync::mpsc;
use tracing::{error, info};

use super::{Reign, ReignError};
use crate::emperor::control::{Answer, Asked, Peer, Route};
use crate::emperor::court::Key;
use crate::emperor::forward::{Desk, Job, Paper, PostOptions, Posts, Whereabouts, apart};
use crate::emperor::listen::{ListenError, Options, Server, Visitor};
use crate::emperor::source::VassalName;
use crate::emperor::stats::{self, Itself};
use crate::vassal::socket::SocketFile;

/// How long a question waits for those who look for stats servers. It takes them milliseconds each, once.
const SEEKING: Duration = Duration::from_secs(1);
/// How many questions may wait for that, and how many may be on their way here.
const WAITING: usize = 64;

/// What is under way.
#[derive(Debug)]
pub(super) struct Forwarding {
    desk: Desk,
    /// The file of the socket that `emperor-stats-full` names; it goes with this value.
    _file: Option<SocketFile>,
    sender: mpsc::Sender<Asked>,
    asked: mpsc::Receiver<Asked>,
    posts: Option<Posts>,
    /// Vassals that may have come, gone or changed their owner; none of them while that may be any.
    changed: Option<Vec<Key>>,
    /// Questions that wait until it is known where stats servers are, and how long they do.
    parked: Vec<(Instant, Asked)>,
}

impl Forwarding {
    /// Listens where `emperor-stats-full` says, and makes ready for `emperor-stats-directory`. `goes_on` if vassals are
    /// governed already: then no trouble is a reason to end.
    ///
    /// # Errors
    /// It cannot listen there.
    pub(super) fn open(
        options: Option<Options>,
        posts: Option<PostOptions>,
        goes_on: bool,
    ) -> Result<Self, ReignError> {
        let (sender, asked) = mpsc::channel(WAITING);
        let served = options.map(|options| serve_apart(options, sender.clone()));
        let file = suffered(served.transpose(), goes_on)?.flatten();
        let posts = suffered(posts.map(Posts::open).transpose(), goes_on)?;
        Ok(Self {
            desk: Desk::default(),
            _file: file,
            sender,
            asked,
            posts,
            changed: None,
            parked: Vec::new(),
        })
    }

    /// Something happens to a vassal.
    pub(super) fn touch(&mut self, key: Option<Key>) {
        if let (Some(_), Some(changed)) = (&self.posts, &mut self.changed)
            && changed.last().copied() != key
        {
            changed.extend(key);
        }
    }

    /// The next question; never without anybody who could ask. Cancel-safe.
    pub(super) async fn next(&mut self) -> Asked {
        match self.asked.recv().await {
            Some(asked) => asked,
            None => std::future::pending().await, // the other end is here, too
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.parked.iter().map(|(until, _)| *until).min()
    }
}

/// Serves `emperor-stats-full` in a thread of its own: documents are long, and whoever writes one to many has no time
/// for vassals. Gives the file of the socket.
fn serve_apart(options: Options, sender: mpsc::Sender<Asked>) -> Result<Option<SocketFile>, ListenError> {
    let failed = {
        let options = options.clone();
        move |error| ListenError::new(&options, error)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(&failed)?;
    let (tell, told) = std::sync::mpsc::channel();
    let serve = async move {
        let mut server = match Server::bind(options) {
            Ok(server) => server,
            Err(error) => return tell.send(Err(error)).unwrap_or(()),
        };
        info!("[emperor] stats of all vassals: {}", server.address());
        // Nobody has gone: it is awaited.
        let _ = tell.send(Ok(server.take_file()));
        loop {
            let visitor = server.accept().await;
            tokio::spawn(receive(visitor, sender.clone()));
        }
    };
    apart("stats-clients", move || runtime.block_on(serve)).map_err(&failed)?;
    told.recv().unwrap_or_else(|_| Err(failed(std::io::ErrorKind::BrokenPipe.into())))
}

/// One client, to its end.
async fn receive(visitor: Visitor, sender: mpsc::Sender<Asked>) {
    let answer = move |path: String| async move {
        let answer = match Route::of_stats(&path) {
            Ok(route) => ask(sender, Peer::Master, route).await,
            Err(refusal) => refusal,
        };
        (answer.status(), answer.into_document())
    };
    visitor.converse(answer).await;
}

/// Where vassals are governed already, seen or not, no trouble is a reason to end.
pub(super) fn suffered<T, E: Error>(opened: Result<Option<T>, E>, goes_on: bool) -> Result<Option<T>, E> {
    match opened {
        Err(error) if goes_on => {
            error!("[emperor] {error}: {}", error.source().map(ToString::to_string).unwrap_or_default());
            Ok(None)
        }
        opened => opened,
    }
}

async fn ask(sender: mpsc::Sender<Asked>, peer: Peer, route: Route) -> Answer {
    let (asked, answer) = Asked::new(peer, route);
    let answered = async {
        sender.send(asked).await.ok()?;
        answer.await.ok()
    };
    answered.await.unwrap_or_else(|| {
        Answer::problem(StatusCode::SERVICE_UNAVAILABLE, "the emperor does not answer; ask again")
    })
}

impl Reign {
    /// A question for stats. It goes on as soon as it is known where stats servers are, or may wait no longer.
    pub(super) fn gather(&mut self, asked: Asked) {
        let until = Instant::now() + SEEKING;
        self.gather_until(until, asked);
    }

    /// Those that have waited long enough, or need not any more.
    pub(super) fn go_on_gathering(&mut self) {
        if self.forwarding.parked.is_empty() {
            return;
        }
        let (now, none_sought) = (Instant::now(), !self.hands.seek_stats());
        let parked = std::mem::take(&mut self.forwarding.parked);
        for (until, asked) in parked {
            if none_sought || until <= now {
                self.gather_until(until, asked);
            } else {
                self.forwarding.parked.push((until, asked));
            }
        }
    }

    /// Each vassal has its socket in the directory, where there is one.
    pub(super) fn tend_posts(&mut self) {
        let Forwarding { posts: Some(posts), changed, sender, .. } = &mut self.forwarding else { return };
        let keys = match changed.replace(Vec::new()) {
            Some(keys) => keys,
            None => self.court.vassals().map(|(key, _)| key).collect(),
        };
        for key in keys {
            let Some(vassal) = self.court.get(key) else {
                posts.remove(key.to_bits());
                continue;
            };
            let owner = self.itself.tyrant.then_some((vassal.identity.uid, vassal.identity.gid));
            // Another's may have the name by the time that it is asked.
            let peer = owner.map_or(Peer::Master, |(uid, _)| Peer::Tenant(uid));
            let (sender, name) = (sender.clone(), vassal.name.as_bytes().to_vec());
            posts.put(key.to_bits(), vassal.name.as_bytes(), owner, move |visitor| {
                let (sender, route) = (sender.clone(), Route::Document(name.clone()));
                visitor.converse(move |_| async move {
                    let answer = ask(sender, peer, route).await;
                    // Who reads there reads documents: one that is none says nothing.
                    let fine = answer.status() == StatusCode::OK;
                    (answer.status(), if fine { answer.into_document() } else { Vec::new() })
                })
            });
        }
    }

    fn gather_until(&mut self, until: Instant, asked: Asked) {
        let (paper, keys) = match asked.route {
            Route::Metrics => {
                self.hands.measure(super::MEASURING);
                let counts = || self.times.counts();
                let (snapshot, keys) = self.with_view(|view| view.metrics(asked.peer, &counts));
                (Some(Paper::Metrics(Box::new(snapshot))), Some(keys))
            }
            _ => (None, self.meant(&asked)),
        };
        let Some(keys) = keys else {
            let (Route::Stats(name) | Route::Document(name)) = &asked.route else { return };
            let answer = Answer::unknown(&VassalName::new(name));
            return asked.answer(answer);
        };
        let Self { hands, court, .. } = self;
        let subjects: Vec<_> =
            keys.iter().filter_map(|key| Some(hands.stats_subject(*key, court.get(*key)?))).collect();
        let sought = subjects.iter().any(|subject| matches!(subject.whereabouts, Whereabouts::Sought));
        if sought && until > Instant::now() && self.forwarding.parked.len() < WAITING {
            self.forwarding.parked.push((until, asked));
            return;
        }
        let paper = paper.unwrap_or_else(|| match asked.route {
            Route::Stats(_) => Paper::One,
            Route::Document(_) => Paper::Document,
            Route::Full => Paper::Full(self.own_document()),
            _ => Paper::List,
        });
        self.forwarding.desk.put(Job { subjects, paper, reply: asked.into_reply() });
    }

    /// The vassals that a question is for, as far as whoever asks may know of them; `None` if there is none of that name.
    fn meant(&self, asked: &Asked) -> Option<Vec<Key>> {
        let may = |key: &Key| self.court.get(*key).is_some_and(|it| asked.peer.may(it.identity.uid));
        match &asked.route {
            Route::Stats(name) | Route::Document(name) => {
                Some(vec![self.court.find(&VassalName::new(name)).filter(may)?])
            }
            _ => Some(self.court.vassals().map(|(key, _)| key).filter(may).collect()),
        }
    }

    /// The emperor's own document, for others to read on.
    fn own_document(&mut self) -> Vec<u8> {
        self.hands.measure(super::MEASURING);
        let itself = Itself { minified: true, ..self.itself.clone() };
        let sources: Vec<_> = self.sources.infos().map(|(_, info)| info).collect();
        stats::document(&itself, &sources, &self.court, &|key| self.told(key))
    }
}
