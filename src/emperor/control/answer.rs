//! What is answered: the emperor and its vassals as JSON, and problems (RFC 9457).

use std::borrow::Cow;

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::{Peer, escape};
use crate::emperor::cgroup::Usage;
use crate::emperor::court::{Court, Key, Now, Rest, State, Then, Vassal};
use crate::emperor::metrics::{self, Counts, Snapshot};
use crate::emperor::source::{SourceInfo, VassalName};
use crate::emperor::story::Follower;

pub use crate::emperor::stats::Itself;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    allow: Option<Method>,
    content: Content,
}

/// What an answer says.
#[derive(Debug)]
pub(super) enum Content {
    Document(Vec<u8>),
    /// Lines that are there, and those to come.
    Events {
        past: Vec<u8>,
        follower: Option<(Follower, Peer)>,
    },
    /// To be written beside the loop.
    Metrics(Box<Snapshot>),
}

impl Answer {
    /// A document.
    #[must_use]
    pub fn document(document: &impl Serialize) -> Self {
        // Plain data into memory: it cannot fail.
        let mut body = serde_json::to_vec(document).unwrap_or_default();
        body.push(b'\n');
        Self { status: StatusCode::OK, allow: None, content: Content::Document(body) }
    }

    /// What can be asked for.
    #[must_use]
    pub fn description() -> Self {
        let content = Content::Document(super::routes::DESCRIPTION.into());
        Self { status: StatusCode::OK, allow: None, content }
    }

    /// The empire in numbers.
    #[must_use]
    pub fn metrics(snapshot: Snapshot) -> Self {
        Self { status: StatusCode::OK, allow: None, content: Content::Metrics(Box::new(snapshot)) }
    }

    /// A renewal that is about to be: more is known when it is done.
    #[must_use]
    pub fn accepted(reloads: &Reloads) -> Self {
        Self { status: StatusCode::ACCEPTED, ..Self::document(reloads) }
    }

    /// Events, one JSON object a line; with those to come, as far as somebody may see them.
    #[must_use]
    pub fn events(past: Vec<u8>, follower: Option<(Follower, Peer)>) -> Self {
        Self { status: StatusCode::OK, allow: None, content: Content::Events { past, follower } }
    }

    /// Why something cannot be had, or done.
    #[must_use]
    pub fn problem(status: StatusCode, detail: &str) -> Self {
        let title = status.canonical_reason().unwrap_or_default();
        let problem = Problem { kind: "about:blank", title, status: status.as_u16(), detail };
        Self { status, ..Self::document(&problem) }
    }

    /// There is something, but not with this method.
    #[must_use]
    pub fn not_allowed(wanted: &Method) -> Self {
        let problem =
            Self::problem(StatusCode::METHOD_NOT_ALLOWED, &format!("this path is for {wanted} alone"));
        Self { allow: Some(wanted.clone()), ..problem }
    }

    /// There is no such vassal, or none that the asker may know of.
    #[must_use]
    pub fn unknown(name: &VassalName) -> Self {
        Self::problem(StatusCode::NOT_FOUND, &format!("there is no vassal {name}"))
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn allow(&self) -> Option<&Method> {
        self.allow.as_ref()
    }

    /// Who follows it, if it goes on.
    pub(super) fn follower(&self) -> Option<Peer> {
        match &self.content {
            Content::Events { follower: Some((_, peer)), .. } => Some(*peer),
            _ => None,
        }
    }

    pub(super) fn into_content(self) -> Content {
        self.content
    }

    /// What a document or a problem says; nothing of what is yet to be written.
    pub(in crate::emperor) fn into_document(self) -> Vec<u8> {
        match self.content {
            Content::Document(body) => body,
            Content::Events { past, .. } => past,
            Content::Metrics(_) => Vec::new(),
        }
    }
}

/// What has come of the wish that the emperor read its configuration and its program anew.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Reloads {
    /// How often another program has taken the place of the first.
    #[serde(rename = "reloads")]
    pub count: u32,
    /// Why the last one was refused; none if it was not.
    #[serde(rename = "reload_refused")]
    pub refused: Option<String>,
    /// Options that only a restart can change, with what they say and said.
    pub needs_restart: Vec<String>,
}

#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
}

/// What answers are made from.
#[expect(missing_debug_implementations, reason = "it borrows for the time of one answer, functions among it")]
pub struct View<'a> {
    /// The emperor.
    pub itself: &'a Itself,
    /// How its renewals went.
    pub reloads: &'a Reloads,
    /// Its sources.
    pub sources: &'a [&'a SourceInfo],
    /// Its vassals.
    pub court: &'a Court,
    /// The moment.
    pub now: Now,
    /// The address of a vassal's on-demand socket; empty if it has none.
    pub on_demand: &'a dyn Fn(Key) -> &'a str,
    /// How a vassal's last process failed, if it did.
    pub cause: &'a dyn Fn(Key) -> Option<String>,
    /// Why the process did not take its place that was to.
    pub not_replaced: &'a dyn Fn(Key) -> Option<&'a str>,
    /// What is wrong with the sockets that it has.
    pub lost: &'a dyn Fn(Key) -> Option<&'a str>,
    /// Who wants one of them as well.
    pub contested: &'a dyn Fn(Key) -> Option<String>,
    /// The status that it ended with then, in the shell's numbers.
    pub last_exit: &'a dyn Fn(Key) -> Option<u8>,
    /// What a vassal's control group uses.
    pub usage: &'a dyn Fn(Key) -> Option<&'a Usage>,
}

#[derive(Serialize)]
struct Emperor<'a> {
    version: &'a str,
    pid: u32,
    uid: u32,
    gid: u32,
    tyrant: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    monitors: Vec<&'a str>,
    vassals: usize,
    running: usize,
    #[serde(flatten)]
    reloads: Option<&'a Reloads>,
}

#[derive(Serialize)]
struct Vassals<'a> {
    vassals: Vec<Row<'a>>,
}

/// One vassal. Times are seconds since the epoch.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    name: Cow<'a, str>,
    id: String,
    pub(super) state: &'static str,
    since: u64,
    pid: Option<i32>,
    ready: bool,
    accepting: bool,
    loyal: bool,
    restarts: u32,
    failures: u32,
    pub(super) next_start_in: Option<f64>,
    pub(super) cause: Option<String>,
    note: Option<String>,
    on_demand: Option<&'a str>,
    reinforces: Option<String>,
    monitor: &'a str,
    uid: u32,
    gid: u32,
}

impl View<'_> {
    /// The emperor, as far as somebody may see it.
    #[must_use]
    pub fn emperor(&self, peer: Peer) -> Answer {
        let Itself { version, pid, uid, gid, tyrant, .. } = *self.itself;
        let all = peer.may_see_all();
        let visible = || self.visible(peer);
        Answer::document(&Emperor {
            version,
            pid,
            uid,
            gid,
            tyrant,
            monitors: self.sources.iter().filter(|_| all).map(|source| &*source.argument).collect(),
            vassals: visible().count(),
            running: visible().filter(|(_, vassal)| vassal.pid > 0).count(),
            reloads: all.then_some(self.reloads),
        })
    }

    /// All vassals that somebody may see.
    #[must_use]
    pub fn vassals(&self, peer: Peer) -> Answer {
        Answer::document(&Vassals {
            vassals: self.visible(peer).map(|(key, vassal)| self.row(key, vassal)).collect(),
        })
    }

    /// The empire in numbers, as far as somebody may see it, and the vassals that have series, in their order.
    #[must_use]
    pub fn metrics(&self, peer: Peer, counts: &dyn Fn() -> Counts) -> (Snapshot, Vec<Key>) {
        let counts = peer.may_see_all().then(counts);
        let mut snapshot = Snapshot::new(self.itself.version, &STATES, self.itself.tyrant, counts);
        let mut keys = Vec::new();
        for (key, vassal) in self.visible(peer) {
            let state = state(vassal);
            let has_series = snapshot.add(state, vassal.identity.uid, || metrics::Row {
                vassal: String::from_utf8_lossy(vassal.name.as_bytes()).into_owned(),
                state,
                since: vassal.since(self.now),
                restarts: vassal.restarts(),
                failures: vassal.failures(),
                runs_old_file: vassal.runs_old_file(),
                backoff: vassal.pause_left(self.now).map(|left| left.as_secs_f64()),
                last_exit: (self.last_exit)(key),
                usage: (self.usage)(key).cloned(),
                ..metrics::Row::default()
            });
            if has_series {
                keys.push(key);
            }
        }
        (snapshot, keys)
    }

    /// One vassal.
    #[must_use]
    pub fn vassal(&self, key: Key) -> Option<Answer> {
        Some(Answer::document(&self.row(key, self.court.get(key)?)))
    }

    /// Whether there is nothing to say against a vassal.
    #[must_use]
    pub fn is_well(&self, key: Key) -> bool {
        let known = |vassal| cause(vassal, (self.cause)(key).as_deref(), self.now).is_none();
        self.court.get(key).is_none_or(known)
    }

    fn visible(&self, peer: Peer) -> impl Iterator<Item = (Key, &Vassal)> {
        self.court.vassals().filter(move |(_, vassal)| peer.may_see(vassal.identity.uid))
    }

    pub(super) fn row<'v>(&'v self, key: Key, vassal: &'v Vassal) -> Row<'v> {
        let name = vassal.name.as_bytes();
        let on_demand = (self.on_demand)(key);
        let source = self.sources.get(usize::from(vassal.source.0));
        let base = vassal.zerg.and_then(|zerg| self.court.get(zerg.base));
        let accepts = vassal.pid > 0;
        Row {
            name: String::from_utf8_lossy(name),
            id: escape(name),
            state: state(vassal),
            since: vassal.since(self.now),
            pid: (vassal.pid > 0).then_some(vassal.pid),
            ready: accepts && vassal.instance.ready,
            accepting: accepts && vassal.instance.accepting,
            loyal: accepts && vassal.instance.loyal,
            restarts: vassal.restarts(),
            failures: vassal.failures(),
            next_start_in: vassal
                .pause_left(self.now)
                .map(|left| (left.as_secs_f64() * 1000.0).round() / 1000.0),
            cause: (self.not_replaced)(key)
                .map(|why| {
                    format!("its rolling reload has failed, so it goes on as it was; the new process: {why}")
                })
                .or_else(|| cause(vassal, (self.cause)(key).as_deref(), self.now))
                .or_else(|| (self.lost)(key).map(str::to_owned)),
            note: (self.contested)(key),
            on_demand: (!on_demand.is_empty()).then_some(on_demand),
            reinforces: base.map(|base| escape(base.name.as_bytes())),
            monitor: source.map_or("", |source| &source.argument),
            uid: vassal.identity.uid,
            gid: vassal.identity.gid,
        }
    }
}

/// All words for what a vassal can be doing.
const STATES: [&str; 14] = [
    "starting",
    "reloading",
    "running",
    "queued",
    "on-demand",
    "frozen",
    "backing-off",
    "cursed",
    "restarting",
    "stopping",
    "idle",
    "refused",
    "failed",
    "stopped",
];

/// One word for what a vassal is doing.
fn state(vassal: &Vassal) -> &'static str {
    match vassal.state {
        State::Up if vassal.pid <= 0 || vassal.is_starting() => "starting",
        State::Up if vassal.is_reloading() => "reloading",
        State::Up if vassal.is_frozen() => "frozen",
        State::Up => "running",
        State::Admitting | State::Queued => "queued",
        State::Waiting => "on-demand",
        State::Paused => "backing-off",
        State::Cursed => "cursed",
        State::Stopping(Then::Restart) => "restarting",
        State::Stopping(_) => "stopping",
        State::Resting(Rest::Idle) => "idle",
        State::Resting(Rest::Refused) => "refused",
        State::Resting(Rest::Abandoned) => "failed",
        State::Resting(Rest::ByHand) => "stopped",
    }
}

/// How long a vassal that has failed before must run until it counts as well, if it does not say so: seconds.
const PROBATION: u64 = 60;

/// Whether it runs after failures, and it has yet to show that this goes better.
fn is_on_probation(vassal: &Vassal, now: Now) -> bool {
    let shown = vassal.instance.accepting || vassal.instance.loyal;
    vassal.failures() > 1 && !shown && vassal.since(now) + PROBATION > now.epoch
}

/// Why it is not well, and what can be done about it.
fn cause(vassal: &Vassal, last: Option<&str>, now: Now) -> Option<String> {
    let ended = last.unwrap_or("its last process ended");
    let failures = vassal.failures();
    Some(match vassal.state {
        State::Up if vassal.runs_old_file() => {
            "its changed file would not start, so it goes on with the old one: mend the file".into()
        }
        State::Up if is_on_probation(vassal, now) => {
            format!("it has failed {failures} times in a row, and is tried again: {ended}")
        }
        State::Paused => {
            let left = vassal.pause_left(now).unwrap_or_default().as_secs_f64();
            match failures {
                0 | 1 => format!("{ended}; starts again in {left:.1} s"),
                more => format!("{ended}; {more} failures in a row, starts again in {left:.1} s"),
            }
        }
        State::Cursed => {
            "it has closed its link, missed its heartbeat or says that it ends: its end is awaited".into()
        }
        State::Resting(Rest::Abandoned) => {
            format!(
                "{ended}; {failures} failures in a row, and it is given up until it is started or its file changes"
            )
        }
        State::Resting(Rest::Refused) => {
            "its file belongs to root, as whom no vassal runs in tyrant mode: give the file to its user"
                .into()
        }
        State::Resting(Rest::ByHand) => "stopped by hand until it is started or its file changes".into(),
        State::Queued | State::Admitting | State::Waiting | State::Up | State::Stopping(_) => return None,
        State::Resting(Rest::Idle) => return None,
    })
}
