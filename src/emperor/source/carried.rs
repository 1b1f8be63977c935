//! Sources without files: they supply the configurations of their vassals as texts.
//!
//! Reading such a source means to wait for somebody else, so a task beside the loop does it, the *carrier*. The loop
//! wishes for a look; the carrier sends what it has found, whole, and what keeps it from looking. Its messages are
//! bounded in number here and in size by the carrier, which waits when the loop has not taken the last ones.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

use super::name::{self, Names};
use super::sources::Sources;
use super::{DEMAND, Identity, Oddity, Report, SourceId, VassalName};
use crate::vassal::link::MOST_CONFIG_BYTES;

/// What a source supplies for one vassal. Cheap to clone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Supply {
    text: Arc<[u8]>,
    socket: Option<Arc<str>>,
}

/// What a source supplies, by the names of its vassals.
pub type Supplies = HashMap<VassalName, Supply>;

impl Supply {
    /// Takes a text and the address of an on-demand socket; an empty address is none.
    ///
    /// # Errors
    /// The text cannot be sent to a vassal.
    pub fn new(text: &[u8], socket: Option<&str>) -> Result<Self, Oddity> {
        match text.len() {
            0 => Err(Oddity::NoText),
            length if length > MOST_CONFIG_BYTES => Err(Oddity::TextTooLong(length)),
            _ => Ok(Self {
                text: text.into(),
                socket: socket.map(str::trim).filter(|socket| !socket.is_empty()).map(Arc::from),
            }),
        }
    }

    /// The configuration: 1 to 65535 bytes.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The address of its on-demand socket, if it has one.
    #[must_use]
    pub fn socket(&self) -> Option<&str> {
        self.socket.as_deref()
    }
}

/// One vassal as a carrier has found it.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) name: Vec<u8>,
    pub(super) text: Vec<u8>,
    pub(super) mtime_ns: i64,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) socket: Option<String>,
}

/// What a carrier has to say.
#[derive(Debug)]
pub(super) enum News {
    /// Everything there is.
    Rows(Vec<Row>),
    /// It cannot look, and why; what was found before stays.
    Trouble(String),
    /// Something to know.
    Remark(String),
}

/// How a carrier reaches the loop.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    source: usize,
    messages: mpsc::Sender<(usize, News)>,
}

impl Outbox {
    /// `false` if there is nobody any more who would want to know.
    pub(super) async fn send(&self, news: News) -> bool {
        self.messages.send((self.source, news)).await.is_ok()
    }
}

/// What the loop holds of a source without files.
#[derive(Clone, Debug)]
pub(super) struct Carrier {
    #[cfg(feature = "postgres")]
    pub(super) query: super::pg::Query,
    /// Wishes for a look; none before the first, with which the task begins.
    pub(super) wish: Option<Arc<Notify>>,
}

/// What all carriers have sent.
#[derive(Debug)]
pub(super) struct Inbox {
    sender: mpsc::Sender<(usize, News)>,
    receiver: mpsc::Receiver<(usize, News)>,
    taken: Option<(usize, News)>,
}

/// Messages that may wait for the loop; each holds everything a source has.
const WAITING: usize = 2;

impl Default for Inbox {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self { sender, receiver, taken: None }
    }
}

impl Inbox {
    pub(super) fn outbox(&self, source: usize) -> Outbox {
        Outbox { source, messages: self.sender.clone() }
    }

    /// Resolves when there is a message. Cancel-safe.
    pub(super) async fn filled(&mut self) {
        if self.taken.is_none() {
            self.taken = self.receiver.recv().await;
        }
    }

    fn take(&mut self) -> Option<(usize, News)> {
        self.taken.take().or_else(|| self.receiver.try_recv().ok())
    }
}

impl Sources {
    /// Has the carrier of a source look. `false` if the source has none.
    pub(super) fn wish(&mut self, at: usize) -> bool {
        let source = &mut self.sources[at];
        let Some(carrier) = &mut source.carrier else { return false };
        source.scan_at = None;
        match &carrier.wish {
            Some(wish) => wish.notify_one(),
            None => {
                let wish = Arc::new(Notify::new());
                #[cfg(feature = "postgres")]
                tokio::spawn(carrier.query.clone().carry(
                    self.poll,
                    Arc::clone(&wish),
                    self.inbox.outbox(at),
                ));
                carrier.wish = Some(wish);
            }
        }
        true
    }

    /// Reports what carriers have sent.
    pub(super) fn unpack(&mut self, report: &mut dyn FnMut(Report)) {
        while let Some((at, news)) = self.inbox.take() {
            let id = Self::id(at);
            let Some(source) = self.sources.get_mut(at) else { continue };
            match news {
                News::Rows(rows) => {
                    if source.trouble.take().is_some() {
                        report(Report::Remark(id, format!("{} answers again", source.info.argument)));
                    }
                    look_over(id, rows, &self.names, self.tyrant, report);
                }
                News::Trouble(text) => {
                    if source.trouble.as_ref() != Some(&text) {
                        report(Report::Trouble(id, text.clone()));
                    }
                    source.trouble = Some(text);
                }
                News::Remark(text) => report(Report::Remark(id, text)),
            }
        }
    }
}

/// Reports all that a source has, in the order of the names.
fn look_over(id: SourceId, rows: Vec<Row>, names: &Names, tyrant: bool, report: &mut dyn FnMut(Report)) {
    let mut found: BTreeMap<Vec<u8>, Result<Row, Oddity>> = BTreeMap::new();
    for row in rows.into_iter().filter(|row| names.accepts(&row.name)) {
        let name = row.name.clone();
        found.entry(name).and_modify(|there| *there = Err(Oddity::Twice)).or_insert(Ok(row));
    }
    let (mut supplies, mut reports) = (Supplies::new(), Vec::new());
    for (name, row) in found {
        let vassal = VassalName::new(&name);
        let odd = name::oddity(&name).or_else(|| match &row {
            Ok(row) if tyrant && row.owner.is_none() => Some(Oddity::NoOwner),
            _ => None,
        });
        if let Some(oddity) = odd {
            reports.push(Report::Odd(id, vassal, oddity));
            continue;
        }
        let row = row.and_then(|row| Ok((Supply::new(&row.text, row.socket.as_deref())?, row)));
        match row {
            Ok((supply, row)) => {
                reports.push(Report::Seen(id, vassal.clone(), identity(&row, &supply)));
                supplies.insert(vassal, supply);
            }
            Err(oddity) => reports.push(Report::Unusable(id, vassal, oddity)),
        }
    }
    report(Report::ScanBegan(id));
    report(Report::Supplies(id, supplies));
    reports.into_iter().for_each(&mut *report);
    report(Report::ScanEnded(id));
}

/// A text stands in for an inode: what differs in it is another one, whatever its date says.
fn identity(row: &Row, supply: &Supply) -> Identity {
    let (uid, gid) = row.owner.unwrap_or_default();
    Identity {
        mtime_ns: row.mtime_ns,
        ctime_ns: 0,
        device: supply.socket().map_or(0, |socket| digest(socket.as_bytes()) | DEMAND),
        inode: digest(supply.text()),
        size: supply.text().len() as u64,
        uid,
        gid,
    }
}

/// FNV-1a: it tells texts apart, and is the same in every version of this program, one of which may go on with what
/// another has left. Who makes two texts on purpose that it takes for one keeps himself from being reloaded.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, text: &str) -> Row {
        Row { name: name.into(), text: text.into(), mtime_ns: 5, owner: Some((7, 8)), socket: None }
    }

    fn reports(rows: Vec<Row>, tyrant: bool) -> Vec<Report> {
        let mut all = Vec::new();
        look_over(SourceId(3), rows, &Names::new(&[]), tyrant, &mut |report| all.push(report));
        assert!(matches!(all.first(), Some(Report::ScanBegan(SourceId(3)))));
        assert!(matches!(all.last(), Some(Report::ScanEnded(SourceId(3)))));
        all
    }

    fn words(rows: Vec<Row>, tyrant: bool) -> Vec<String> {
        let word = |report: &Report| match report {
            Report::Seen(_, name, identity) => Some(format!("{name} {}:{}", identity.uid, identity.gid)),
            Report::Odd(_, name, oddity) => Some(format!("{name} odd {oddity:?}")),
            Report::Unusable(_, name, oddity) => Some(format!("{name} unusable {oddity:?}")),
            _ => None,
        };
        reports(rows, tyrant).iter().filter_map(word).collect()
    }

    fn seen(row: Row) -> Identity {
        let all = reports(vec![row], false);
        let identity = |report: &Report| match report {
            Report::Seen(_, _, identity) => Some(*identity),
            _ => None,
        };
        all.iter().find_map(identity).unwrap()
    }

    #[test]
    fn rows_are_reported_in_the_order_of_their_names_and_others_are_passed_over() {
        let rows = vec![row("b.ini", "x"), row("notes.txt", "x"), row("a.yml", "x")];
        assert_eq!(words(rows, false), ["a.yml 7:8", "b.ini 7:8"]);
    }

    #[test]
    fn what_cannot_be_used_is_named_and_does_not_count_as_gone() {
        let long = "x".repeat(MOST_CONFIG_BYTES + 1);
        let rows = vec![row("a.ini", &long), row("b.ini", ""), row("c.ini", "1"), row("c.ini", "2")];
        assert_eq!(
            words(rows, false),
            ["a.ini unusable TextTooLong(65536)", "b.ini unusable NoText", "c.ini unusable Twice"]
        );
        assert_eq!(words(vec![row("a.ini", &long[1..])], false), ["a.ini 7:8"]);
    }

    #[test]
    fn in_tyrant_mode_a_row_without_an_owner_is_none() {
        let nobody = |name: &str| Row { owner: None, ..row(name, "x") };
        assert_eq!(words(vec![nobody("a.ini")], true), ["a.ini odd NoOwner"]);
        assert_eq!(words(vec![nobody("a.ini")], false), ["a.ini 0:0"]);
        assert_eq!(words(vec![nobody("a:b.ini")], true), ["a:b.ini odd Colon"]);
    }

    #[test]
    fn another_text_date_owner_or_socket_is_another_identity() {
        let before = seen(row("a.ini", "x"));
        assert_eq!(before, seen(row("a.ini", "x")));
        let socket = |text: &str| Row { socket: Some(text.into()), ..row("a.ini", "x") };
        for other in [
            row("a.ini", "y"),
            Row { mtime_ns: 6, ..row("a.ini", "x") },
            Row { owner: Some((7, 9)), ..row("a.ini", "x") },
            socket("/run/a.sock"),
        ] {
            assert!(before.differs(&seen(other.clone())), "{other:?}");
        }
        assert_eq!(seen(socket("")), before);
        assert_eq!(seen(socket("  ")), before);
    }
}
