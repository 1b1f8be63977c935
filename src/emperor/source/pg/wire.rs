//! The stream below a connection: where it leads, and how much is read of it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Most bytes of an answer.
const MOST_BYTES: usize = 64 << 20;

/// Where a server may be.
#[derive(Debug)]
pub(super) enum Target {
    Tcp(String, u16),
    Unix(std::path::PathBuf),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Target {
    /// A stream to it, of which so much is read as there is room for.
    pub(super) async fn connect(&self) -> std::io::Result<(Bounded, Room)> {
        let wire: Wire = match self {
            Self::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                keep_alive(&stream)?;
                Box::pin(stream)
            }
            Self::Unix(path) => Box::pin(UnixStream::connect(path).await?),
        };
        let room = Arc::new(AtomicUsize::new(MOST_BYTES));
        Ok((Bounded { wire, room: Arc::clone(&room) }, Room(room)))
    }
}

/// How much of a stream may still be read.
pub(super) struct Room(Arc<AtomicUsize>);

impl Room {
    /// Another answer begins.
    pub(super) fn make(&self) {
        self.0.store(MOST_BYTES, Ordering::Relaxed);
    }
}

type Wire = Pin<Box<dyn Both>>;
trait Both: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Both for T {}

/// A connection whose other end has vanished without a word is noticed after a minute and a half.
fn keep_alive(stream: &TcpStream) -> nix::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &60)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &10)?;
    setsockopt(stream, sockopt::TcpKeepCount, &3)
}

/// A stream of which no more than a certain number of bytes is read.
pub(super) struct Bounded {
    wire: Wire,
    room: Arc<AtomicUsize>,
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let room = self.room.load(Ordering::Relaxed);
        if room == 0 {
            let text = format!("the answer is larger than {} MiB", MOST_BYTES >> 20);
            return Poll::Ready(Err(std::io::Error::other(text)));
        }
        let before = buffer.filled().len();
        ready!(self.wire.as_mut().poll_read(context, buffer))?;
        self.room.store(room.saturating_sub(buffer.filled().len() - before), Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.wire.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.wire.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.wire.as_mut().poll_shutdown(context)
    }
}
