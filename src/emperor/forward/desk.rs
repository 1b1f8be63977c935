//! The thread that gathers. The loop hands over who is meant and goes on; what could take time, or wait for a tenant,
//! is done here, and the answer goes from here to whoever has asked.
//!
//! The thread begins with the first question and ends when there was none for a while: who does not ask pays nothing.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::error;

use super::ask::{self, Bounds};
use super::look::{self, Queues};
use super::paper::{self, Paper};
use super::reach::Party;
use super::wish::{self, Wish};
use super::{Document, Processes, Row};
use crate::emperor::control::Answer;
use crate::sys::clock;
use crate::sys::sock_diag::{self, Listening};

/// For so long a row is as good as new.
const FRESH: Duration = Duration::from_secs(1);
/// The thread ends after so long without a question: longer than most who ask regularly leave between two.
const IDLE: Duration = Duration::from_secs(90);
/// Threads for what may block: files of tenants, long documents.
const HELPERS: usize = 8;
/// Documents that are kept, bytes in sum. Beyond it the longest are let go.
const MOST_KEPT: usize = 64 << 20;

/// A vassal, as it is when somebody asks.
#[derive(Clone, Debug)]
pub struct Subject {
    /// A number that no other vassal has.
    pub id: u64,
    /// A number that changes when it reads its configuration again.
    pub version: u64,
    /// Its name.
    pub name: Box<[u8]>,
    /// Its process; -1 without one.
    pub pid: i32,
    /// Its user and group, in tyrant mode.
    pub tenant: Option<(u32, u32)>,
    /// The directory of its control group.
    pub group: Option<PathBuf>,
    /// Where its stats server is.
    pub whereabouts: Whereabouts,
}

/// What is known of where a vassal's stats server is.
#[derive(Clone, Debug)]
pub enum Whereabouts {
    /// It has none: it is no uWSGI.
    Nowhere,
    /// It is being looked for.
    Sought,
    /// This was found.
    Found(Result<Arc<Wish>, Box<str>>),
    /// It stands in files that we may read.
    Written(Box<Question>),
}

/// What it takes to read a vassal's configuration.
#[derive(Clone, Debug)]
pub struct Question {
    /// Where it starts.
    pub directory: PathBuf,
    /// Its arguments.
    pub arguments: Vec<Vec<u8>>,
    /// Its environment.
    pub environment: Arc<Vec<Vec<u8>>>,
    /// What it reads from its config pipe.
    pub sent: Option<Vec<u8>>,
    /// Whether its engine reads that language. Otherwise what cannot be read names no stats server.
    pub in_uwsgis_words: bool,
}

/// One question.
#[derive(Debug)]
pub struct Job {
    /// Of whom.
    pub subjects: Vec<Subject>,
    /// What the answer is to be like.
    pub paper: Paper,
    /// Where it goes.
    pub reply: oneshot::Sender<Answer>,
}

/// The way to the thread.
#[derive(Debug, Default)]
pub struct Desk(Option<mpsc::UnboundedSender<Job>>);

impl Desk {
    /// Hands over a question. It does not wait.
    pub fn put(&mut self, job: Job) {
        let job = match &self.0 {
            Some(sender) => match sender.send(job) {
                Ok(()) => return,
                Err(unsent) => unsent.0, // the thread has ended meanwhile
            },
            None => job,
        };
        let (sender, jobs) = mpsc::unbounded_channel();
        // It cannot fail: the other end is here. How many there can be, those know who take questions.
        let _ = sender.send(job);
        match begin(jobs) {
            Ok(()) => self.0 = Some(sender),
            Err(cause) => error!("[emperor] stats of vassals cannot be gathered: {cause}"),
        }
    }
}

fn begin(jobs: mpsc::UnboundedReceiver<Job>) -> std::io::Result<()> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_io().enable_time().max_blocking_threads(HELPERS).thread_keep_alive(FRESH);
    let runtime = builder.build()?;
    apart("stats", move || {
        runtime.block_on(attend(jobs));
        // One that hangs on a file of a tenant's is not waited for.
        runtime.shutdown_background();
    })
}

/// Does this in a thread of its own, which takes no signals: those are the loop's.
///
/// # Errors
/// There can be no more threads.
pub fn apart(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    // A thread begins with the mask of the one that makes it.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let begun = std::thread::Builder::new().name(name.into()).spawn(work);
    before.thread_set_mask()?;
    begun.map(drop)
}

async fn attend(mut jobs: mpsc::UnboundedReceiver<Job>) {
    let books = Arc::new(Books::default());
    let mut answering = JoinSet::new();
    loop {
        while answering.try_join_next().is_some() {}
        let next = match timeout(FRESH, jobs.recv()).await {
            Ok(next) => next,
            Err(_) => {
                books.forget_rows().await;
                match timeout(IDLE, jobs.recv()).await {
                    Ok(next) => next,
                    Err(_) => {
                        // One may be on its way.
                        jobs.close();
                        jobs.recv().await
                    }
                }
            }
        };
        let Some(job) = next else { break };
        answering.spawn(answer(books.clone(), job));
    }
    while answering.join_next().await.is_some() {}
}

async fn answer(books: Arc<Books>, job: Job) {
    let Job { subjects, paper, reply } = job;
    let rows = books.gather(&subjects).await;
    let names: Vec<_> = subjects.into_iter().map(|subject| subject.name).collect();
    let write = move || paper::write(paper, &names, &rows);
    let written = tokio::task::spawn_blocking(write).await;
    if let Ok(answer) = written {
        let _ = reply.send(answer); // whoever has asked may have gone
    }
}

/// What is kept from one question to the next.
#[derive(Default)]
struct Books {
    cards: Mutex<HashMap<u64, Arc<Mutex<Card>>>>,
    bounds: Bounds,
}

/// What is kept of one vassal. Whoever holds it asks the vassal; the others wait for what he learns.
#[derive(Default)]
struct Card {
    version: u64,
    pid: i32,
    wish: Option<Result<Arc<Wish>, Box<str>>>,
    row: Option<(Instant, Row)>,
    late: bool,
}

impl Books {
    async fn gather(self: &Arc<Self>, subjects: &[Subject]) -> Vec<Row> {
        let listening = Arc::new(sock_diag::listening().unwrap_or_default());
        let queues = Arc::new(look::queues(&listening));
        let cards = self.cards(subjects).await;
        let mut order = Vec::with_capacity(subjects.len());
        for (place, card) in cards.iter().enumerate() {
            order.push((card.try_lock().is_ok_and(|card| card.late), place));
        }
        order.sort_unstable(); // who was late last time is asked after the others
        let mut asking = JoinSet::new();
        for (_, place) in order {
            let (books, card, subject) = (self.clone(), cards[place].clone(), subjects[place].clone());
            let (listening, queues) = (listening.clone(), queues.clone());
            asking.spawn(async move { (place, books.row(card, subject, &listening, queues).await) });
        }
        let mut rows = vec![Row::default(); subjects.len()];
        while let Some(answered) = asking.join_next().await {
            if let Ok((place, row)) = answered {
                rows[place] = row;
            }
        }
        keep_within(&mut rows, MOST_KEPT);
        rows
    }

    async fn cards(&self, subjects: &[Subject]) -> Vec<Arc<Mutex<Card>>> {
        let mut cards = self.cards.lock().await;
        subjects.iter().map(|subject| cards.entry(subject.id).or_default().clone()).collect()
    }

    /// Rows are let go, and vassals of which nothing else is known.
    async fn forget_rows(&self) {
        let mut cards = self.cards.lock().await;
        cards.retain(|_, card| {
            let Ok(mut card) = card.try_lock() else { return true };
            card.row = None;
            card.wish.is_some() || card.late
        });
    }

    async fn row(
        &self,
        card: Arc<Mutex<Card>>,
        subject: Subject,
        listening: &[Listening],
        queues: Arc<Queues>,
    ) -> Row {
        let mut card = card.lock().await;
        if (card.version, card.pid) != (subject.version, subject.pid) {
            *card = Card { version: subject.version, pid: subject.pid, late: card.late, ..Card::default() };
        }
        if let Some((at, row)) = &card.row
            && at.elapsed() < FRESH
        {
            return row.clone();
        }
        let row = self.look(&mut card, subject, listening, queues).await;
        // While it is being looked for where it is, nothing is settled.
        card.row = Some((Instant::now(), row.clone())).filter(|_| card.wish.is_some());
        row
    }

    async fn look(
        &self,
        card: &mut Card,
        subject: Subject,
        listening: &[Listening],
        queues: Arc<Queues>,
    ) -> Row {
        let mut row = Row { read_at: clock::epoch_seconds(), ..Row::default() };
        let Subject { pid, tenant, group, whereabouts, .. } = subject;
        let nothing = || Ok(Arc::new(Wish::default()));
        let found = match whereabouts {
            Whereabouts::Nowhere => Some(nothing()),
            Whereabouts::Found(found) => Some(found),
            Whereabouts::Sought => None,
            Whereabouts::Written(_) if card.wish.is_some() => card.wish.take(),
            Whereabouts::Written(question) => Some(read(*question).await),
        };
        card.wish.clone_from(&found);
        let kernels = tokio::task::spawn_blocking(move || processes(pid, group, &queues));
        match found {
            None => row.error = Some("its file is still being looked at: ask again".into()),
            Some(Err(why)) => row.error = Some(why),
            Some(Ok(wish)) => {
                if let Some(address) = &wish.address {
                    row.address = Some(legible(&String::from_utf8_lossy(address)));
                    card.late =
                        self.own_word(&mut row, address, &wish, Party { pid, tenant }, listening).await;
                }
            }
        }
        row.process = kernels.await.ok().flatten();
        row
    }

    /// Asks the vassal. Whether it was late.
    async fn own_word(
        &self,
        row: &mut Row,
        address: &[u8],
        wish: &Wish,
        party: Party,
        listening: &[Listening],
    ) -> bool {
        if party.pid <= 0 {
            row.error = Some("it has no process".into());
            return false;
        }
        match ask::ask(address, wish, party, listening, &self.bounds).await {
            Ok((document, figures)) => {
                (row.document, row.figures) = (Some(document), Some(figures));
                false
            }
            Err(silence) => {
                row.error = Some(legible(&silence.why));
                silence.late
            }
        }
    }
}

async fn read(question: Question) -> Result<Arc<Wish>, Box<str>> {
    let Question { directory, arguments, environment, sent, in_uwsgis_words } = question;
    let look = move || wish::look(&directory, &arguments, &environment, sent.as_deref());
    match tokio::task::spawn_blocking(look).await {
        Err(_) | Ok(Err(_)) if !in_uwsgis_words => Ok(Arc::default()),
        Ok(found) => found.map(Arc::new).map_err(|why| legible(&why)),
        Err(error) => Err(error.to_string().into()),
    }
}

fn processes(pid: i32, group: Option<PathBuf>, queues: &Queues) -> Option<Processes> {
    if pid > 0 { look::look(pid, group.as_deref(), queues) } else { None }
}

/// Text that holds a tenant's.
fn legible(text: &str) -> Box<str> {
    text.chars().filter(|c| !c.is_control()).take(500).collect::<String>().into()
}

/// Lets the longest documents go until the rest is no longer than this in sum.
fn keep_within(rows: &mut [Row], most: usize) {
    let length = |row: &Row| row.document.as_ref().map_or(0, |document: &Document| document.get().len());
    let mut sum: usize = rows.iter().map(length).sum();
    while sum > most {
        let Some(longest) = rows.iter_mut().max_by_key(|row| length(row)) else { return };
        let bytes = length(longest);
        longest.document = None;
        longest.error = Some(
            format!("its document of {bytes} bytes is left out: all together are longer than {most}").into(),
        );
        sum -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Figures;
    use super::*;
    use serde_json::value::RawValue;

    fn row(bytes: usize) -> Row {
        let text = format!("\"{}\"", "x".repeat(bytes - 2));
        let document: Document = RawValue::from_string(text).unwrap().into();
        Row { document: Some(document), figures: Some(Figures::default()), ..Row::default() }
    }

    #[test]
    fn long_documents_make_way_for_the_others() {
        let mut rows = [row(10), row(500), row(20), row(400)];
        keep_within(&mut rows, 430);
        let left: Vec<_> = rows.iter().map(|row| row.document.is_some()).collect();
        assert_eq!(left, [true, false, true, true]);
        assert!(rows[1].error.as_deref().unwrap().contains("500 bytes") && rows[1].figures.is_some());
        keep_within(&mut rows, 100);
        assert!(rows[0].document.is_some() && rows[2].document.is_some() && rows[3].document.is_none());
    }

    #[test]
    fn what_a_tenant_writes_into_a_reason_stays_on_one_line() {
        assert_eq!(&*legible("a\nb\u{1b}[31m"), "ab[31m");
        assert_eq!(legible(&"x".repeat(10_000)).len(), 500);
    }
}
