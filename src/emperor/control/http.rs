//! One connection: a request, an answer, and no more time or memory than that may take; or events, for as long as they
//! are read.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::timeout;

use super::answer::Content;
use super::{Answer, Asked, Peer, Route};
use crate::emperor::metrics::Format;
use crate::emperor::story::Follower;

/// How long a client may take to send its request.
const TO_ASK: Duration = Duration::from_secs(5);
/// How long the loop may take to answer. It answers at once; unless something is very wrong.
const TO_ANSWER: Duration = Duration::from_secs(10);
/// How long a connection may last in all.
const IN_ALL: Duration = Duration::from_secs(60);
/// How long it may take to try another program and configuration.
const TO_RENEW: Duration = Duration::from_secs(45);
/// The longest request, and the largest body that one may have. Nothing is read out of a body.
const MOST_BYTES: usize = 64 << 10;

/// How many of those who follow may be people who may not do all: the other places are for questions.
static GUESTS_WHO_FOLLOW: Semaphore = Semaphore::const_new(16);
/// How long one who follows may leave unread what has come, when it is more than the socket holds.
const TO_READ: Duration = Duration::from_secs(10);
/// How many lines are on their way to one who follows.
const ON_THE_WAY: usize = 16;

/// Serves one connection to its end.
pub(super) async fn serve<S>(stream: S, peer: Peer, loop_: mpsc::Sender<Asked>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let life = Arc::new(Life::default());
    let of_answer = life.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (loop_, life) = (loop_.clone(), of_answer.clone());
        async move {
            let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
            let format = Format::accepted(accept);
            Ok::<_, Infallible>(response(ask(&request, peer, &loop_).await, format, &life).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TO_ASK)
        .max_buf_size(MOST_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // What goes wrong with a client is the client's business.
    tokio::select! { _ = connection => {}, () = life.over() => {} }
}

/// How long a connection lasts.
#[derive(Debug, Default)]
struct Life {
    follows: Notify,
    stuck: Notify,
}

impl Life {
    async fn over(&self) {
        if timeout(IN_ALL, self.follows.notified()).await.is_ok() {
            self.stuck.notified().await;
        }
    }
}

async fn ask(request: &Request<Incoming>, peer: Peer, loop_: &mpsc::Sender<Asked>) -> Answer {
    if let Peer::Stranger(uid) = peer {
        return Answer::problem(
            StatusCode::FORBIDDEN,
            &format!(
                "uid {uid} may not operate this emperor: its own user and root may, and members of the group that \
                 emperor-control-group names"
            ),
        );
    }
    if request.body().size_hint().lower() > MOST_BYTES as u64 {
        return Answer::problem(
            StatusCode::PAYLOAD_TOO_LARGE,
            "no request needs a body of more than 65536 bytes",
        );
    }
    let path = request.uri().path_and_query().map_or(request.uri().path(), |both| both.as_str());
    let route = match Route::parse(request.method(), path) {
        Ok(route) => route,
        Err(answer) => return answer,
    };
    if peer == Peer::Onlooker && route != Route::Metrics {
        return Answer::problem(
            StatusCode::FORBIDDEN,
            "only /metrics is here; all else is at the control socket, where people are known",
        );
    }
    let patience = if route == Route::Renew { TO_RENEW } else { TO_ANSWER };
    let (asked, answer) = Asked::new(peer, route);
    let answered = timeout(patience, async {
        loop_.send(asked).await.ok()?;
        answer.await.ok()
    });
    match answered.await {
        Ok(Some(answer)) => answer,
        _ => Answer::problem(StatusCode::SERVICE_UNAVAILABLE, "the emperor does not answer; ask again"),
    }
}

async fn response(answer: Answer, format: Format, life: &Arc<Life>) -> Response<Payload> {
    let answer = seated(answer);
    let is_problem = answer.status().as_u16() >= 400;
    let mut response = Response::new(Payload::Whole(Bytes::new()));
    *response.status_mut() = answer.status();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(allow) = answer.allow().and_then(|method| HeaderValue::from_str(method.as_str()).ok()) {
        headers.insert(ALLOW, allow);
    }
    let (kind, body) = match answer.into_content() {
        Content::Document(body) if is_problem => ("application/problem+json", Payload::Whole(body.into())),
        Content::Document(body) => ("application/json", Payload::Whole(body.into())),
        Content::Events { past, follower: None } => (LINES, Payload::Whole(past.into())),
        Content::Events { past, follower: Some((follower, peer)) } => {
            life.follows.notify_one();
            let (to, lines) = mpsc::channel(ON_THE_WAY);
            tokio::spawn(pump(follower, peer, to, life.clone()));
            (LINES, Payload::Lines { past: past.into(), lines })
        }
        // It takes longer than the loop has.
        Content::Metrics(snapshot) => {
            match tokio::task::spawn_blocking(move || snapshot.text(format)).await {
                Ok(text) => (format.media_type(), Payload::Whole(text.into())),
                Err(_) => (format.media_type(), Payload::Whole(Bytes::new())), // the emperor ends
            }
        }
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    *response.body_mut() = body;
    response
}

/// JSON, one object a line.
const LINES: &str = "application/x-ndjson";

/// One who follows stays for long: not all places are for that.
fn seated(answer: Answer) -> Answer {
    let is_guest = |peer: Peer| peer != Peer::Master;
    if answer.follower().is_none_or(|peer| !is_guest(peer)) || GUESTS_WHO_FOLLOW.available_permits() > 0 {
        return answer;
    }
    Answer::problem(StatusCode::SERVICE_UNAVAILABLE, "too many follow the events already; ask without follow")
}

/// Hands one who follows what he may see, until he goes, or does not read.
async fn pump(mut follower: Follower, peer: Peer, to: mpsc::Sender<Bytes>, life: Arc<Life>) {
    let _seat = if peer == Peer::Master { None } else { GUESTS_WHO_FOLLOW.try_acquire().ok() };
    loop {
        let line = tokio::select! { line = follower.recv() => line, () = to.closed() => return };
        match line {
            Ok(line) if !peer.may_see(line.owner) => {}
            Ok(line) => {
                let sent = timeout(TO_READ, to.send(Bytes::copy_from_slice(&line.text))).await;
                if !matches!(sent, Ok(Ok(()))) {
                    break;
                }
            }
            Err(_) => break, // more has happened than he has read
        }
    }
    life.stuck.notify_one();
}

/// A body.
enum Payload {
    /// It is there as a whole.
    Whole(Bytes),
    /// It goes on.
    Lines { past: Bytes, lines: mpsc::Receiver<Bytes> },
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let (Self::Whole(there) | Self::Lines { past: there, .. }) = &mut *self;
        let there = std::mem::take(there);
        if !there.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(there))));
        }
        match &mut *self {
            Self::Whole(_) => Poll::Ready(None),
            Self::Lines { lines, .. } => {
                lines.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(rest) if rest.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(rest) => SizeHint::with_exact(rest.len() as u64),
            Self::Lines { .. } => SizeHint::default(),
        }
    }
}
