//! Requests and answers: HTTP on one connection, files sent from a blocking descriptor in small pieces.
//!
//! A piece is read between two writes to the client, on the engine's only thread: a slow disk delays the
//! others, a slow client does not.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, IF_MODIFIED_SINCE, LAST_MODIFIED};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::site::{Found, Site};
use super::types::Types;

/// How long a client may take to say what it wants, and how long an unused connection is kept.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes read from a file at once.
const PIECE: usize = 64 * 1024;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Replaced by a reload; requests that have begun keep theirs.
    pub(super) site: RefCell<Rc<Site>>,
    pub(super) types: Types,
    /// No line is logged for each request.
    pub(super) quiet: Cell<bool>,
    /// Requests being answered.
    pub(super) running: Cell<usize>,
    /// When the last request began or ended.
    pub(super) last: Cell<Instant>,
    /// Told after each answer.
    pub(super) answered: Notify,
    /// Set once the engine is to end: connections finish what they are doing.
    pub(super) closing: watch::Receiver<bool>,
}

/// Serves one connection to its end.
pub(super) async fn serve<S>(stream: S, peer: String, shared: Rc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request: Request<Incoming>| {
        let response = shared.answer(&request, &peer);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut closing = shared.closing.clone();
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // What goes wrong with a client is the client's business.
    tokio::select! {
        _ = connection.as_mut() => {}
        _ = closing.wait_for(|closing| *closing) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

impl Shared {
    fn answer(self: &Rc<Self>, request: &Request<Incoming>, peer: &str) -> Response<Reply> {
        let site = Rc::clone(&self.site.borrow());
        let found = match *request.method() {
            Method::GET | Method::HEAD => site.find(request.uri().path()),
            // uWSGI hands any other method to the application, and here is none.
            _ => None,
        };
        let mut response = match found {
            Some(found) if unchanged(request.headers(), found.modified) => {
                status(StatusCode::NOT_MODIFIED, "")
            }
            Some(found) => self.file(found),
            None => status(StatusCode::NOT_FOUND, "Not Found"),
        };
        let status = response.status().as_u16();
        let body = response.body_mut();
        let mut line = String::new();
        if !self.quiet.get() {
            let (method, target) = (request.method(), request.uri());
            let bytes = if request.method() == Method::HEAD { 0 } else { body.left };
            let _ = write!(line, "{peer} {method} {target} => {bytes} bytes (HTTP {status})");
        }
        self.running.set(self.running.get() + 1);
        self.last.set(Instant::now());
        body.end = Some(End { shared: Rc::clone(self), line });
        response
    }

    fn file(&self, found: Found) -> Response<Reply> {
        let kind = self.types.of(&found.path).and_then(|kind| HeaderValue::from_str(kind).ok());
        let mut response =
            Response::new(Reply { source: Source::File(found.file), left: found.length, end: None });
        let headers = response.headers_mut();
        if let Some(kind) = kind {
            headers.insert(CONTENT_TYPE, kind);
        }
        headers.insert(CONTENT_LENGTH, found.length.into());
        if let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(found.modified)) {
            headers.insert(LAST_MODIFIED, date);
        }
        response
    }
}

fn status(code: StatusCode, text: &'static str) -> Response<Reply> {
    let source = Source::Text(Bytes::from_static(text.as_bytes()));
    let mut response = Response::new(Reply { source, left: text.len() as u64, end: None });
    *response.status_mut() = code;
    if !text.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response.headers_mut().insert(CONTENT_LENGTH, text.len().into());
    }
    response
}

/// Whether the client has this state of the file already. The header counts whole seconds.
fn unchanged(headers: &HeaderMap, modified: SystemTime) -> bool {
    let since = headers.get(IF_MODIFIED_SINCE).and_then(|value| value.to_str().ok());
    let Some(since) = since.and_then(|text| httpdate::parse_http_date(text).ok()) else { return false };
    let seconds =
        |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |past| past.as_secs());
    seconds(modified) <= seconds(since)
}

/// The body of an answer.
pub(super) struct Reply {
    source: Source,
    left: u64,
    end: Option<End>,
}

enum Source {
    Text(Bytes),
    File(File),
}

/// Dropped with the answer's body: then it is sent, or its client is gone.
struct End {
    shared: Rc<Shared>,
    line: String,
}

impl Drop for End {
    fn drop(&mut self) {
        self.shared.running.set(self.shared.running.get() - 1);
        self.shared.last.set(Instant::now());
        self.shared.answered.notify_one();
        if !self.line.is_empty() {
            super::log(&self.line);
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let want = usize::try_from(self.left).map_or(PIECE, |left| left.min(PIECE));
        let piece = match &mut self.source {
            Source::Text(text) => Ok(text.split_to(want)),
            Source::File(file) => read(file, want),
        };
        if let Ok(piece) = &piece {
            self.left -= piece.len() as u64;
        }
        Poll::Ready(Some(piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

fn read(file: &mut File, want: usize) -> io::Result<Bytes> {
    let mut piece = vec![0; want];
    let got = file.read(&mut piece)?;
    if got == 0 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file became shorter while it was sent",
        ));
    }
    piece.truncate(got);
    Ok(piece.into())
}
