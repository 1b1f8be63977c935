//! Clients that connect, ask and listen without a pause, and what became of each of their requests.

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::support::load::Target;

/// Who answered: the master, the worker, and the version of the vassal's file that it had read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Who {
    pub(crate) master: i32,
    pub(crate) worker: i32,
    pub(crate) version: u32,
}

/// Why there is no answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    /// Nobody took the connection.
    Refused(ErrorKind),
    /// It was taken, and ended before it was answered; the client's port, if it has one.
    Lost { port: Option<u16>, what: String },
    /// Nothing came within the test's patience.
    Late,
}

/// One whole request and its whole answer.
pub(crate) fn ask(target: &Target, path: &str) -> Result<Who, Failure> {
    let mut stream = target.connect().map_err(|cause| match cause.kind() {
        ErrorKind::TimedOut => Failure::Late,
        kind => Failure::Refused(kind),
    })?;
    let port = stream.own_port();
    let mut text = String::new();
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    let heard = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut text));
    match heard {
        Err(cause) if matches!(cause.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Err(Failure::Late)
        }
        Err(cause) => Err(Failure::Lost { port, what: cause.to_string() }),
        Ok(_) => who(&text, path).ok_or(Failure::Lost { port, what: format!("{text:?}") }),
    }
}

fn who(text: &str, path: &str) -> Option<Who> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut words = body.strip_suffix('\n')?.split(' ');
    let mut number = || words.next()?.parse().ok();
    let (master, worker, version) = (number()?, number()?, number()?);
    let whole = head.split(' ').nth(1) == Some("200") && words.next() == Some(path);
    whole.then_some(Who { master, worker, version: u32::try_from(version).ok()? })
}

/// What became of the requests to one vassal since it was last asked.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) answered: usize,
    pub(crate) failures: Vec<Failure>,
    pub(crate) longest: Duration,
    /// Who answered last.
    pub(crate) last: Who,
}

#[derive(Default)]
struct Shared {
    mood: Mutex<Mood>,
    changed: Condvar,
    tallies: Vec<Mutex<Tally>>,
    asked: AtomicUsize,
}

#[derive(Default)]
struct Mood {
    rests: bool,
    over: bool,
    busy: usize,
}

/// Clients of several vassals, until they are told to rest or to end.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn new(places: &[Target], each: usize) -> Self {
        let tallies = places.iter().map(|_| Mutex::default()).collect();
        let shared = Arc::new(Shared { tallies, ..Shared::default() });
        let clients = places.iter().enumerate().flat_map(|place| std::iter::repeat_n(place, each));
        let clients = clients.map(|(n, at)| {
            let (shared, at) = (Arc::clone(&shared), at.clone());
            std::thread::spawn(move || while shared.asks(n, &at) {})
        });
        let clients = clients.collect();
        Self { shared, clients }
    }

    /// Returns when nobody asks any more.
    pub(crate) fn rest(&self) {
        let mut mood = self.shared.mood.lock().expect("the mood");
        mood.rests = true;
        drop(self.shared.changed.wait_while(mood, |mood| mood.busy > 0).expect("the mood"));
    }

    pub(crate) fn go_on(&self) {
        self.shared.mood.lock().expect("the mood").rests = false;
        self.shared.changed.notify_all();
    }

    /// What has become of the requests to this vassal so far.
    pub(crate) fn look<T>(&self, vassal: usize, ask: impl FnOnce(&Tally) -> T) -> T {
        ask(&self.shared.tallies[vassal].lock().expect("a tally"))
    }

    /// The same, and it begins anew.
    pub(crate) fn take(&self, vassal: usize) -> Tally {
        let mut tally = self.shared.tallies[vassal].lock().expect("a tally");
        let last = tally.last;
        std::mem::replace(&mut *tally, Tally { last, ..Tally::default() })
    }

    /// Everybody has had his last answer, or none.
    pub(crate) fn end(&mut self) {
        self.shared.mood.lock().expect("the mood").over = true;
        self.shared.changed.notify_all();
        self.clients.drain(..).for_each(|client| client.join().expect("a client"));
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // A test that fails does not wait for its clients.
        if let Ok(mut mood) = self.shared.mood.lock() {
            mood.over = true;
        }
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// One request; whether there is to be another.
    fn asks(&self, vassal: usize, at: &Target) -> bool {
        let mood = self.mood.lock().expect("the mood");
        let mut mood = self.changed.wait_while(mood, |mood| mood.rests && !mood.over).expect("the mood");
        if mood.over {
            return false;
        }
        mood.busy += 1;
        drop(mood);
        let began = Instant::now();
        let done = ask(at, &format!("/{}", self.asked.fetch_add(1, Ordering::Relaxed)));
        let mut tally = self.tallies[vassal].lock().expect("a tally");
        let failed = done.is_err();
        match done {
            Ok(who) => {
                tally.answered += 1;
                tally.last = who;
                tally.longest = tally.longest.max(began.elapsed());
            }
            Err(failure) => tally.failures.push(failure),
        }
        drop(tally);
        self.mood.lock().expect("the mood").busy -= 1;
        self.changed.notify_all();
        // Six vassals and their clients share the processors with other tests; a refusal is counted, not hammered.
        std::thread::sleep(Duration::from_millis(if failed { 50 } else { 2 }));
        true
    }
}
