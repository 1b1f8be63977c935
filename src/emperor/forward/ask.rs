//! One vassal is asked: bounded in time and in size, and what comes is read as a stranger's word.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::document::{self, MOST_BYTES};
use super::reach::{self, Party, Stream};
use super::wish::Wish;
use super::{Document, Figures};
use crate::sys::sock_diag::Listening;

/// How long a vassal may take.
const PATIENCE: Duration = Duration::from_millis(250);
/// How many are asked at once.
const AT_ONCE: usize = 128;
/// A document beyond this is long.
const LONG: usize = 256 << 10;
/// How many long ones are read at once: with the others, that bounds the memory.
const LONG_AT_ONCE: usize = 16;
/// What may stand before a document.
const MOST_HEADER: usize = 4096;

/// How many may be asked.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    all: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(AT_ONCE)), long: Arc::new(Semaphore::new(LONG_AT_ONCE)) }
    }
}

/// Why there is no document.
#[derive(Debug)]
pub(super) struct Silence {
    /// The reason.
    pub(super) why: String,
    /// Whether its time was up: then it is asked after those who answer.
    pub(super) late: bool,
}

impl From<String> for Silence {
    fn from(why: String) -> Self {
        Self { why, late: false }
    }
}

/// Asks a vassal whose file has this wish.
///
/// # Errors
/// Why there is no document.
pub(super) async fn ask(
    address: &[u8],
    wish: &Wish,
    party: Party,
    listening: &[Listening],
    bounds: &Bounds,
) -> Result<(Document, Figures), Silence> {
    let target = reach::target(address)?;
    let Ok(_seat) = bounds.all.acquire().await else {
        return Err(String::from("nobody is asked now").into());
    };
    let mut deadline = Instant::now() + PATIENCE;
    let late = || Silence {
        why: format!("its stats server has not answered within {} ms", PATIENCE.as_millis()),
        late: true,
    };
    let mut stream =
        timeout_at(deadline, reach::connect(&target, party, listening)).await.map_err(|_| late())??;
    if wish.http {
        let sent = timeout_at(deadline, stream.write_all(b"GET / HTTP/1.0\r\n\r\n")).await;
        sent.map_err(|_| late())?.map_err(|error| broken(&error))?;
    }
    let (bytes, _long) = read(&mut *stream, &mut deadline, bounds, late).await?;
    drop(stream);
    let read = || document::read(bytes).map_err(|error| error.to_string());
    // A long one takes a while, in which others' time would pass.
    let found = tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())?;
    Ok(found?)
}

fn broken(error: &std::io::Error) -> String {
    format!("the connection to its stats server broke: {error}")
}

/// All that comes. The time in which a long one waits for its turn is not counted: it is others' fault.
async fn read(
    stream: &mut dyn Stream,
    deadline: &mut Instant,
    bounds: &Bounds,
    late: impl Fn() -> Silence,
) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Silence> {
    let (mut bytes, mut turn) = (Vec::new(), None);
    loop {
        let count = timeout_at(*deadline, stream.read_buf(&mut bytes)).await.map_err(|_| late())?;
        if count.map_err(|error| broken(&error))? == 0 {
            return Ok((bytes, turn));
        }
        if bytes.len() > MOST_BYTES + MOST_HEADER {
            return Err(document::BadDocument::TooLong.to_string().into());
        }
        if bytes.len() > LONG && turn.is_none() {
            let before = Instant::now();
            turn = bounds.long.clone().acquire_owned().await.ok();
            *deadline += before.elapsed();
        }
    }
}
