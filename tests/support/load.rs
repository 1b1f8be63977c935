//! Clients that connect without a pause, and what became of each.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::PATIENCE;

/// A connection of any kind.
pub(crate) trait Stream: Read + Write {
    /// The client's port, if it has one.
    fn own_port(&self) -> Option<u16>;
}

impl Stream for UnixStream {
    fn own_port(&self) -> Option<u16> {
        None
    }
}

impl Stream for TcpStream {
    fn own_port(&self) -> Option<u16> {
        self.local_addr().ok().map(|address| address.port())
    }
}

/// Where clients connect.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    File(PathBuf),
    Port(u16),
}

impl Target {
    /// Connects. Nobody waits for an answer for ever.
    pub(crate) fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        match self {
            Self::File(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(Box::new(stream))
            }
            Self::Port(port) => {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port))?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(Box::new(stream))
            }
        }
    }

    /// Says something, and hears the answer, to its end.
    pub(crate) fn ask(&self, words: &str) -> std::io::Result<String> {
        let mut stream = self.connect()?;
        let mut text = String::new();
        stream.write_all(words.as_bytes()).and_then(|()| stream.read_to_string(&mut text)).map_err(lost)?;
        if text.is_empty() { Err(lost(ErrorKind::UnexpectedEof.into())) } else { Ok(text) }
    }
}

/// After a connection was made: whoever had it let it go without an answer.
fn lost(error: std::io::Error) -> std::io::Error {
    std::io::Error::new(ErrorKind::ConnectionAborted, error)
}

/// What became of clients.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Told {
    pub(crate) answered: usize,
    /// Connected, and not answered: taken by a process that was killed before it did.
    pub(crate) lost: usize,
    /// Not connected.
    pub(crate) refused: Vec<ErrorKind>,
}

/// The clients.
pub(crate) struct Load {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    others: Arc<Mutex<Told>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// So many clients, each of which says these words again as soon as it is answered.
    pub(crate) fn new(target: &Target, words: &'static str, clients: usize) -> Self {
        Self::checked(target, words, clients, |_| true)
    }

    /// The same, where only such answers are any.
    pub(crate) fn checked(
        target: &Target,
        words: &'static str,
        clients: usize,
        good: fn(&str) -> bool,
    ) -> Self {
        let (over, answered, others) = <(Arc<AtomicBool>, Arc<AtomicUsize>, Arc<Mutex<Told>>)>::default();
        let client = || {
            let (over, answered, others) = (Arc::clone(&over), Arc::clone(&answered), Arc::clone(&others));
            let target = target.clone();
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let error = match target.ask(words) {
                        Ok(text) if good(&text) => {
                            answered.fetch_add(1, Ordering::Relaxed);
                            continue;
                        }
                        Ok(_) => ErrorKind::ConnectionAborted,
                        Err(error) => error.kind(),
                    };
                    let mut others = others.lock().expect("a list");
                    match error {
                        ErrorKind::ConnectionAborted => others.lost += 1,
                        other => others.refused.push(other),
                    }
                }
            })
        };
        let clients = (0..clients).map(|_| client()).collect();
        Self { over, answered, others, clients }
    }

    /// What has become of them so far.
    pub(crate) fn so_far(&self) -> Told {
        let others = self.others.lock().expect("a list").clone();
        Told { answered: self.answered.load(Ordering::Relaxed), ..others }
    }

    /// The last ones are awaited.
    pub(crate) fn end(mut self) -> Told {
        self.over.store(true, Ordering::Relaxed);
        self.clients.drain(..).for_each(|client| client.join().expect("a client"));
        self.so_far()
    }
}
