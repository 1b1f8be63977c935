//! What has happened to the vassals: the newest events, in one store that is bounded in all.
//!
//! It stands beside the court, and costs a vassal that is well next to nothing: what is usual (it was found, started, is
//! ready) and what is trouble have a ring each, so that a thousand vassals that start do not push out why one has
//! failed. In both together no vassal has more than `MOST_OF_ONE`.
//!
//! Callers: the hands and the loop. Whoever follows reads from a bounded channel; one who is too slow is cut off.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::control::{escape, unescape};
use super::source::VassalName;
use crate::sys::clock;

/// How many usual events are kept.
const MOST_USUAL: usize = 1024;
/// How many troubles.
const MOST_TROUBLE: usize = 4096;
/// How many of one vassal.
const MOST_OF_ONE: usize = 40;
/// How many groups the names fall into whose events are counted together.
const GROUPS: usize = 4096;
/// The longest text, bytes. What is longer was written by a tenant.
const MOST_TEXT: usize = 1000;
/// How many events one who follows may be behind.
const MOST_BEHIND: usize = 1024;

/// What kind of event it is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Its file came, changed or went.
    File,
    /// A process was made for it.
    Started,
    /// It has shown that it works.
    Ready,
    /// It was told something: to reload, to stop.
    Told,
    /// Somebody has operated it.
    Operated,
    /// It has ended as it should.
    Ended,
    /// What comes next.
    Next,
    /// It has ended otherwise.
    Failed,
    /// It could not be started, or told.
    Refused,
    /// What is suspected, or left out.
    Warning,
}

impl Kind {
    fn is_trouble(self) -> bool {
        matches!(self, Self::Failed | Self::Refused | Self::Warning | Self::Operated | Self::Next)
    }

    /// The word in the documents.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Started => "started",
            Self::Ready => "ready",
            Self::Told => "told",
            Self::Operated => "operated",
            Self::Ended => "ended",
            Self::Next => "next",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Warning => "warning",
        }
    }
}

/// One event.
#[derive(Clone, Debug)]
pub struct Happening {
    /// When, milliseconds since the epoch.
    pub at_ms: u64,
    /// Whose vassal it is: the user to whom its file belongs.
    pub owner: u32,
    /// What kind.
    pub kind: Kind,
    /// Which vassal.
    pub name: VassalName,
    /// Its process, where the event has one; else 0.
    pub pid: i32,
    /// How long the emperor's log was, if that is a file; else 0.
    pub log_at: u64,
    /// In words.
    pub text: Cow<'static, str>,
}

/// The same for the documents.
#[derive(Serialize)]
struct Shown<'a> {
    number: u64,
    at: f64,
    vassal: Cow<'a, str>,
    id: String,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    text: &'a str,
}

/// The same for the program that takes this one's place.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct HappeningRecord {
    number: u64,
    at_ms: u64,
    owner: u32,
    kind: Kind,
    id: String,
    #[serde(default)]
    pid: i32,
    #[serde(default)]
    log_at: u64,
    text: String,
}

/// One line for those who follow.
#[derive(Debug)]
pub struct Line {
    /// Whose vassal it is.
    pub owner: u32,
    /// The event as JSON, with its newline.
    pub text: Vec<u8>,
}

/// Those who follow get their lines from this.
pub type Follower = broadcast::Receiver<Arc<Line>>;

/// The store.
#[derive(Debug)]
pub struct Story(RefCell<Rings>);

#[derive(Debug)]
struct Rings {
    last: u64,
    usual: Ring,
    trouble: Ring,
    /// How many events there are of each group of names. A vassal that has more than it may is in a group that has, and
    /// only then all events are looked through: no vassal costs anything but its events.
    counts: Vec<u16>,
    groups: RandomState,
    followers: broadcast::Sender<Arc<Line>>,
}

/// Events with their numbers, which rise.
type Ring = VecDeque<(u64, Happening)>;

impl Default for Story {
    fn default() -> Self {
        let (followers, _) = broadcast::channel(MOST_BEHIND);
        Self(RefCell::new(Rings {
            last: 0,
            usual: Ring::new(),
            trouble: Ring::new(),
            counts: vec![0; GROUPS],
            groups: RandomState::new(),
            followers,
        }))
    }
}

impl Story {
    /// Something happened now.
    pub fn note(&self, name: &VassalName, owner: u32, kind: Kind, text: impl Into<Cow<'static, str>>) {
        self.note_process(name, owner, kind, text, (0, 0));
    }

    /// The same with a process, and how long the emperor's log was.
    pub fn note_process(
        &self,
        name: &VassalName,
        owner: u32,
        kind: Kind,
        text: impl Into<Cow<'static, str>>,
        (pid, log_at): (i32, u64),
    ) {
        let (name, text) = (name.clone(), shortened(text.into()));
        let at_ms = clock::epoch_millis();
        self.0.borrow_mut().put(Happening { at_ms, owner, kind, name, pid, log_at, text });
    }

    /// What is known of one vassal, oldest first.
    #[must_use]
    pub fn of(&self, name: &VassalName) -> Vec<(u64, Happening)> {
        self.0.borrow().of(name).cloned().collect()
    }

    /// Whose vassal it was when something happened to it last.
    #[must_use]
    pub fn owner_of(&self, name: &VassalName) -> Option<u32> {
        self.0.borrow().of(name).last().map(|(_, happening)| happening.owner)
    }

    /// All events that somebody may see, one JSON object a line, oldest first.
    #[must_use]
    pub fn lines(&self, may: impl Fn(u32) -> bool) -> Vec<u8> {
        let rings = self.0.borrow();
        let seen = rings.all().filter(|(_, happening)| may(happening.owner));
        seen.flat_map(|(number, happening)| line(*number, happening)).collect()
    }

    /// From now on.
    #[must_use]
    pub fn follow(&self) -> Follower {
        self.0.borrow().followers.subscribe()
    }

    /// Everything, for the program that takes this one's place.
    #[must_use]
    pub fn records(&self) -> Vec<HappeningRecord> {
        let rings = self.0.borrow();
        let record = |(number, it): &(u64, Happening)| HappeningRecord {
            number: *number,
            at_ms: it.at_ms,
            owner: it.owner,
            kind: it.kind,
            id: escape(it.name.as_bytes()),
            pid: it.pid,
            log_at: it.log_at,
            text: it.text.clone().into_owned(),
        };
        rings.all().map(record).collect()
    }

    /// What the program before this one has recorded. Before anything happens.
    pub fn restore(&self, records: Vec<HappeningRecord>) {
        let mut rings = self.0.borrow_mut();
        for record in records {
            let HappeningRecord { number, at_ms, owner, kind, id, pid, log_at, text } = record;
            let Some(name) = unescape(&id) else { continue };
            rings.last = rings.last.max(number.saturating_sub(1));
            let (name, text) = (VassalName::new(&name), shortened(text.into()));
            rings.put(Happening { at_ms, owner, kind, name, pid, log_at, text });
        }
    }
}

impl Rings {
    /// All events, oldest first.
    fn all(&self) -> impl Iterator<Item = &(u64, Happening)> {
        let (mut usual, mut trouble) = (self.usual.iter().peekable(), self.trouble.iter().peekable());
        std::iter::from_fn(move || match (usual.peek(), trouble.peek()) {
            (Some((one, _)), Some((other, _))) if one < other => usual.next(),
            (_, Some(_)) => trouble.next(),
            _ => usual.next(),
        })
    }

    /// Those of one vassal.
    fn of(&self, name: &VassalName) -> impl Iterator<Item = &(u64, Happening)> {
        self.all().filter(move |(_, happening)| happening.name == *name)
    }

    fn ring(&mut self, kind: Kind) -> (&mut Ring, usize) {
        match kind.is_trouble() {
            true => (&mut self.trouble, MOST_TROUBLE),
            false => (&mut self.usual, MOST_USUAL),
        }
    }

    /// How many events there are of a vassal's group.
    fn count(&mut self, name: &VassalName) -> &mut u16 {
        let hash = self.groups.hash_one(name);
        // The remainder is less than GROUPS.
        &mut self.counts[usize::try_from(hash % GROUPS as u64).unwrap_or(0)]
    }

    fn put(&mut self, happening: Happening) {
        self.last += 1;
        let number = self.last;
        if self.followers.receiver_count() > 0 {
            let line = Line { owner: happening.owner, text: line(number, &happening) };
            // Whoever follows may have gone just now.
            let _ = self.followers.send(Arc::new(line));
        }
        let count = self.count(&happening.name);
        *count += 1; // of all events together there are fewer than it can count
        if usize::from(*count) > MOST_OF_ONE {
            self.thin_out(&happening.name);
        }
        let (ring, most) = self.ring(happening.kind);
        ring.push_back((number, happening));
        if ring.len() > most
            && let Some((_, happening)) = ring.pop_front()
        {
            *self.count(&happening.name) -= 1;
        }
    }

    /// Makes room for one more of a vassal's. The last of those kinds stay that have begun it all.
    fn thin_out(&mut self, name: &VassalName) {
        let all: Vec<_> = self.of(name).map(|(number, it)| (*number, it.kind)).collect();
        if all.len() < MOST_OF_ONE {
            return; // others of its group have so many
        }
        let last = |wanted| all.iter().rev().find(|(_, kind)| *kind == wanted);
        let begins = [Kind::File, Kind::Warning, Kind::Operated].map(last);
        let Some(&(oldest, kind)) = all.iter().find(|it| !begins.contains(&Some(it))) else { return };
        let (ring, _) = self.ring(kind);
        if let Ok(at) = ring.binary_search_by_key(&oldest, |(number, _)| *number) {
            ring.remove(at);
            *self.count(name) -= 1;
        }
    }
}

/// An event as it stands in the documents.
#[must_use]
pub fn shown(number: u64, happening: &Happening) -> impl Serialize {
    let name = happening.name.as_bytes();
    Shown {
        number,
        at: Milliseconds(happening.at_ms).as_seconds(),
        vassal: String::from_utf8_lossy(name),
        id: escape(name),
        kind: happening.kind,
        pid: (happening.pid > 0).then_some(happening.pid),
        text: &happening.text,
    }
}

struct Milliseconds(u64);

impl Milliseconds {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of this epoch fit for 285,000 years")]
    fn as_seconds(&self) -> f64 {
        self.0 as f64 / 1000.0
    }
}

fn line(number: u64, happening: &Happening) -> Vec<u8> {
    // Plain data into memory: it cannot fail.
    let mut text = serde_json::to_vec(&shown(number, happening)).unwrap_or_default();
    text.push(b'\n');
    text
}

fn shortened(text: Cow<'static, str>) -> Cow<'static, str> {
    match text {
        Cow::Owned(mut text) if text.len() > MOST_TEXT => {
            let cut = (0..=MOST_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(cut);
            text.push('…');
            text.into()
        }
        text => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> VassalName {
        VassalName::new(text.as_bytes())
    }

    fn texts(story: &Story, of: &str) -> Vec<String> {
        story.of(&name(of)).into_iter().map(|(_, it)| it.text.into_owned()).collect()
    }

    #[test]
    fn of_each_vassal_the_newest_are_kept() {
        let story = Story::default();
        story.note(&name("b"), 7, Kind::Failed, "first");
        for number in 0..1000 {
            story.note(&name("a"), 7, Kind::Failed, number.to_string());
        }
        let kept = texts(&story, "a");
        assert_eq!((kept.len(), kept[0].as_str()), (MOST_OF_ONE, "960"));
        assert_eq!(texts(&story, "b"), ["first"]);
        assert!(texts(&story, "c").is_empty());
    }

    #[test]
    fn what_began_it_all_is_kept_however_often_it_fails() {
        let story = Story::default();
        story.note(&name("a"), 7, Kind::File, "found");
        story.note(&name("a"), 7, Kind::File, "changed");
        story.note(&name("a"), 7, Kind::Warning, "perhaps for this");
        for _ in 0..100 {
            story.note(&name("a"), 7, Kind::Started, "started");
            story.note(&name("a"), 7, Kind::Failed, "failed");
        }
        let kept = texts(&story, "a");
        assert_eq!(
            (kept.len(), &kept[..2]),
            (MOST_OF_ONE, &["changed".into(), "perhaps for this".into()][..])
        );
    }

    #[test]
    fn what_is_usual_pushes_no_trouble_out_and_all_is_bounded() {
        let story = Story::default();
        story.note(&name("bad"), 7, Kind::Failed, "exited with status 1");
        for number in 0..100_000 {
            story.note(&name(&number.to_string()), 7, Kind::Started, "a process was made for it");
        }
        assert_eq!(texts(&story, "bad"), ["exited with status 1"]);
        for number in 0..10_000 {
            story.note(&name(&format!("bad{number}")), 7, Kind::Failed, "x".repeat(5000));
        }
        assert!(texts(&story, "bad").is_empty());
        let rings = story.0.borrow();
        assert_eq!((rings.usual.len(), rings.trouble.len()), (MOST_USUAL, MOST_TROUBLE));
        let counted: usize = rings.counts.iter().map(|count| usize::from(*count)).sum();
        assert_eq!(counted, MOST_USUAL + MOST_TROUBLE, "nothing is left of those who are pushed out");
        assert!(rings.trouble.iter().all(|(_, it)| it.text.len() <= MOST_TEXT + "…".len()));
    }

    #[test]
    fn a_line_is_one_json_object_and_each_sees_his_own() {
        let story = Story::default();
        story.note(&VassalName::new(b"a\n\xff"), 7, Kind::Refused, "no\nway");
        story.note(&name("b"), 8, Kind::Ready, "it is ready");
        let lines = String::from_utf8(story.lines(|owner| owner == 7)).unwrap();
        let value: serde_json::Value = serde_json::from_str(&lines).unwrap();
        assert_eq!(
            (&value["id"], &value["kind"], &value["text"], lines.matches('\n').count()),
            (&"a%0A%FF".into(), &"refused".into(), &"no\nway".into(), 1)
        );
        assert_eq!(String::from_utf8(story.lines(|_| true)).unwrap().lines().count(), 2);
    }

    #[test]
    fn the_next_program_knows_what_this_one_knew() {
        let story = Story::default();
        story.note_process(&name("a"), 7, Kind::Started, "a process was made for it", (123, 4));
        story.note(&VassalName::new(b"\xff"), 8, Kind::Failed, "exited");
        let text = serde_json::to_string(&story.records()).unwrap();
        let next = Story::default();
        next.restore(serde_json::from_str(&text).unwrap());
        assert_eq!(story.lines(|_| true), next.lines(|_| true));
        next.note(&name("a"), 7, Kind::Ready, "it is ready");
        let numbers: Vec<_> = next.of(&name("a")).iter().map(|(number, it)| (*number, it.pid)).collect();
        assert_eq!(numbers, [(1, 123), (3, 0)]);
    }

    #[test]
    fn who_follows_gets_what_happens_and_who_does_not_read_is_cut_off() {
        let story = Story::default();
        let (mut quick, mut slow) = (story.follow(), story.follow());
        for _ in 0..=MOST_BEHIND {
            story.note(&name("a"), 7, Kind::Ready, "it is ready");
            let line = quick.try_recv().unwrap();
            assert!(line.owner == 7 && line.text.ends_with(b"\"it is ready\"}\n"));
        }
        assert!(matches!(slow.try_recv(), Err(broadcast::error::TryRecvError::Lagged(_))));
    }
}
