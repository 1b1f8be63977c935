//! Stats of vassals, on their way from whoever asks to those who gather them.

use std::error::Error;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use tokio::sync::mpsc;
use tracing::{error, info};

use super::Reign;
use crate::emperor::control::{Answer, Asked, Peer, Route};
use crate::emperor::court::Key;
use crate::emperor::forward::{Desk, Job, Paper, Whereabouts};
use crate::emperor::listen::{ListenError, Options, Server, Visitor};
use crate::emperor::source::VassalName;
use crate::emperor::stats::{self, Itself};

/// How long a question waits for those who look for stats servers. It takes them milliseconds each, once.
const SEEKING: Duration = Duration::from_secs(1);
/// How many questions may wait for that, and how many may be on their way here.
const WAITING: usize = 64;

/// What is under way.
#[derive(Debug)]
pub(super) struct Forwarding {
    desk: Desk,
    server: Option<Server>,
    sender: mpsc::Sender<Asked>,
    asked: mpsc::Receiver<Asked>,
    /// Questions that wait until it is known where stats servers are, and how long they do.
    parked: Vec<(Instant, Asked)>,
}

/// What comes of it in the loop.
pub(super) enum Arrived {
    Visitor(Visitor),
    Asked(Asked),
}

impl Forwarding {
    /// Listens where `emperor-stats-full` says. `goes_on` if vassals are governed already: then no trouble is a reason
    /// to end.
    ///
    /// # Errors
    /// [`ListenError`].
    pub(super) fn open(options: Option<Options>, goes_on: bool) -> Result<Self, ListenError> {
        let server = match options.map(Server::bind).transpose() {
            Err(error) if goes_on => {
                error!("[emperor] {error}: {}", error.source().map(ToString::to_string).unwrap_or_default());
                None
            }
            server => server?,
        };
        if let Some(server) = &server {
            info!("[emperor] stats of all vassals: {}", server.address());
        }
        let (sender, asked) = mpsc::channel(WAITING);
        Ok(Self { desk: Desk::default(), server, sender, asked, parked: Vec::new() })
    }

    /// What comes next; never without a server. Cancel-safe.
    pub(super) async fn next(&mut self) -> Arrived {
        let Some(server) = &self.server else { return std::future::pending().await };
        tokio::select! {
            visitor = server.accept() => Arrived::Visitor(visitor),
            Some(asked) = self.asked.recv() => Arrived::Asked(asked),
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.parked.iter().map(|(until, _)| *until).min()
    }

    /// What a client wants is learnt beside the loop.
    fn receive(&self, visitor: Visitor) {
        let sender = self.sender.clone();
        tokio::spawn(visitor.converse(move |path: String| async move {
            let answer = match Route::of_stats(&path) {
                Ok(route) => ask(sender, route).await,
                Err(refusal) => refusal,
            };
            (answer.status(), answer.into_document())
        }));
    }
}

async fn ask(sender: mpsc::Sender<Asked>, route: Route) -> Answer {
    let (asked, answer) = Asked::new(Peer::Master, route);
    let answered = async {
        sender.send(asked).await.ok()?;
        answer.await.ok()
    };
    answered.await.unwrap_or_else(|| {
        Answer::problem(StatusCode::SERVICE_UNAVAILABLE, "the emperor does not answer; ask again")
    })
}

impl Reign {
    pub(super) fn forward(&mut self, arrived: Arrived) {
        match arrived {
            Arrived::Visitor(visitor) => self.forwarding.receive(visitor),
            Arrived::Asked(asked) => self.answer(asked),
        }
    }

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
