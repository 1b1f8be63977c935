//! What is known of one vassal beyond what the court knows. Plain data.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

/// One vassal, as it was a second ago at most.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// When it was looked at, seconds since the epoch.
    pub read_at: u64,
    /// Where its stats server is, as far as that is known.
    pub address: Option<Box<str>>,
    /// Why it has no document, where its file names a stats server.
    pub error: Option<Box<str>>,
    /// What its processes take.
    pub process: Option<Processes>,
    /// What its own document says in sum.
    pub figures: Option<Figures>,
    /// Its own document: a vassal's word, of which nothing is known but that it is JSON. It stands in the answers that
    /// have room for it.
    #[serde(skip)]
    pub document: Option<Document>,
}

/// A vassal's own document.
pub type Document = Arc<RawValue>;

/// The sums of a uWSGI's document. They are the vassal's own word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Workers that are there.
    pub workers: u64,
    /// Of these, who waits for a request, is paused, or is not needed now.
    pub idle: u64,
    /// Of these, who serves one.
    pub busy: u64,
    /// Workers that are not running, as fewer are needed.
    pub cheap: u64,
    /// Requests that have been answered.
    pub requests: u64,
    /// Exceptions that no application has caught.
    pub exceptions: u64,
    /// Requests that took too long.
    pub harakiri: u64,
    /// Signals that workers have taken.
    pub signals: u64,
    /// Times that a worker was started.
    pub respawns: u64,
    /// How long requests took in all, microseconds.
    pub running_micros: u64,
    /// How long a request takes by the workers' own averages, each weighed by its requests; microseconds.
    pub response_micros: u64,
    /// Bytes that have been sent.
    pub tx_bytes: u64,
    /// Bytes of memory, of a vassal that counts them (`memory-report`).
    pub rss_bytes: u64,
    /// Connections that wait at the fullest of its sockets.
    pub listen_queue: u64,
}

/// What a vassal's processes take of the machine, by the kernel's word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Processes {
    /// How many there are, the first one's descendants or its control group's.
    pub count: u64,
    /// Whether there are more than were looked at.
    pub more: bool,
    /// Processor time so far, microseconds.
    pub cpu_micros: u64,
    /// Bytes: of its control group, or the sum of what each process has of it, in which shared pages count each time.
    pub memory_bytes: u64,
    /// Different sockets that they hold; none where we may not look.
    pub sockets: Option<u64>,
    /// Connections that wait at those of them that listen, in sum.
    pub queue: Option<u64>,
    /// How many may wait there.
    pub queue_limit: Option<u64>,
}
