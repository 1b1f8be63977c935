//! One connection: a request, an answer, and no more time or memory than that may take.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::answer::Content;
use super::{Answer, Asked, Peer, Route};
use crate::emperor::metrics::Format;

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

/// Serves one connection to its end.
pub(super) async fn serve<S>(stream: S, peer: Peer, loop_: mpsc::Sender<Asked>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let loop_ = loop_.clone();
        async move {
            let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
            let format = Format::accepted(accept);
            Ok::<_, Infallible>(response(ask(&request, peer, &loop_).await, format).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TO_ASK)
        .max_buf_size(MOST_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // What goes wrong with a client is the client's business.
    let _ = timeout(IN_ALL, connection).await;
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
    let route = match Route::parse(request.method(), request.uri().path()) {
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

async fn response(answer: Answer, format: Format) -> Response<Whole> {
    let is_problem = answer.status().as_u16() >= 400;
    let mut response = Response::new(Whole(Bytes::new()));
    *response.status_mut() = answer.status();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(allow) = answer.allow().and_then(|method| HeaderValue::from_str(method.as_str()).ok()) {
        headers.insert(ALLOW, allow);
    }
    let (kind, body) = match answer.into_content() {
        Content::Document(body) if is_problem => ("application/problem+json", body.into()),
        Content::Document(body) => ("application/json", body.into()),
        // It takes longer than the loop has.
        Content::Metrics(snapshot) => {
            match tokio::task::spawn_blocking(move || snapshot.text(format)).await {
                Ok(text) => (format.media_type(), text.into()),
                Err(_) => (format.media_type(), Bytes::new()), // the emperor ends
            }
        }
    };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    *response.body_mut() = Whole(body);
    response
}

/// A body that is there as a whole.
struct Whole(Bytes);

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let all = std::mem::take(&mut self.0);
        Poll::Ready((!all.is_empty()).then(|| Ok(Frame::data(all))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}
