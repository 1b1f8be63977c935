//! Serving a document to whoever connects: addresses, clients, and their bounds.

use std::io;
use std::net::ToSocketAddrs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener as StdUnixListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::vassal::socket::{SocketFile, clear_the_way};
use hyper::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// How many clients are served at once; the others wait in the backlog. Fewer where the document is longer than
/// [`SHARE`]: all that wait for theirs hold at most so many shares.
const CLIENTS: u32 = 64;
/// A client's share of memory, bytes.
const SHARE: usize = 1 << 20;
/// How long the first line of a request may be, bytes.
const LONGEST_LINE: usize = 8192;
/// What is written in one go: microseconds of the loop's thread.
const PIECE: usize = 64 << 10;
/// Who reads slower than so many bytes a second, all in all, loses the rest.
const SLOWEST: usize = 256 << 10;

/// How a server is to be set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The option that says so.
    pub option: &'static str,
    /// `HOST:PORT`, `:PORT`, `[V6]:PORT`, `@abstract`, or the path of a unix socket.
    pub address: String,
    /// Connections that may wait (`listen`).
    pub backlog: u32,
    /// Mode of a unix socket's file (`chmod-socket`); by umask if `None`.
    pub mode: Option<u32>,
    /// Wait for an HTTP request and answer with a header (`stats-http`).
    pub http: bool,
    /// How long a client may be silent, or not read (`socket-timeout`).
    pub patience: Duration,
}

/// Why a server could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("{option}: cannot listen on {address}{}", remedy(address, source))]
pub struct ListenError {
    option: &'static str,
    address: String,
    source: io::Error,
}

/// What can be done about an address that cannot be had.
#[must_use]
pub fn remedy(address: &str, error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            ", which another process has (`ss -lxtnp` shows it): name another, or stop that"
        }
        io::ErrorKind::NotFound if address.contains('/') => {
            ", whose directory is not there: make it, or name another"
        }
        io::ErrorKind::AddrNotAvailable => ", which is no address of this machine",
        _ => "",
    }
}

impl ListenError {
    /// There is something else that is lacking.
    #[must_use]
    pub fn new(options: &Options, source: io::Error) -> Self {
        Self { option: options.option, address: options.address.clone(), source }
    }
}

/// Listening sockets that hand one document to each client. A unix socket's file goes with it.
#[derive(Debug)]
pub struct Server {
    sockets: Vec<Socket>,
    file: Option<SocketFile>,
    clients: Arc<Semaphore>,
    /// Of the last document.
    length: Arc<AtomicUsize>,
    options: Options,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Server {
    /// Binds. Call inside the runtime.
    ///
    /// # Errors
    /// [`ListenError`]: the address is none, is in use, or may not be bound.
    pub fn bind(options: Options) -> Result<Self, ListenError> {
        let (option, address) = (options.option, options.address.clone());
        let failed = |source| ListenError { option, address, source };
        let (sockets, file) = bind(&options).map_err(failed)?;
        Ok(Self {
            sockets,
            file,
            clients: Arc::new(Semaphore::new(CLIENTS as usize)),
            length: Arc::default(),
            options,
        })
    }

    /// The file of its socket, which goes with this value from now on.
    pub fn take_file(&mut self) -> Option<SocketFile> {
        self.file.take()
    }

    /// Notes how long a document is, for the next clients.
    pub fn served(&self, length: usize) {
        self.length.store(length, Ordering::Relaxed);
    }

    /// The address as it was given.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.options.address
    }

    /// The number of its descriptor, for a log line.
    #[must_use]
    pub fn number(&self) -> std::os::fd::RawFd {
        use std::os::fd::AsRawFd;
        match self.sockets.first() {
            Some(Socket::Tcp(socket)) => socket.as_raw_fd(),
            Some(Socket::Unix(socket)) => socket.as_raw_fd(),
            None => -1,
        }
    }

    /// The next client. Cancel-safe; never resolves while as many as may be are being served.
    pub async fn accept(&self) -> Visitor {
        loop {
            let length = self.length.load(Ordering::Relaxed);
            let shares = u32::try_from(length.div_ceil(SHARE)).unwrap_or(CLIENTS).clamp(1, CLIENTS);
            let Ok(permit) = self.clients.clone().acquire_many_owned(shares).await else {
                return std::future::pending().await; // the semaphore is never closed
            };
            let accepted = std::future::poll_fn(|context| {
                for socket in &self.sockets {
                    if let std::task::Poll::Ready(accepted) = socket.poll_accept(context) {
                        return std::task::Poll::Ready(accepted);
                    }
                }
                std::task::Poll::Pending
            });
            match accepted.await {
                Ok(stream) => {
                    let Options { http, patience, .. } = self.options;
                    let length = self.length.clone();
                    return Visitor { stream, http, patience, length, _permit: permit };
                }
                // No descriptor is left, or the client has gone: others are served when there is one again.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

impl Socket {
    fn poll_accept(
        &self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<Box<dyn Stream>>> {
        fn boxed<S: Stream + 'static>((stream, _): (S, impl Sized)) -> Box<dyn Stream> {
            Box::new(stream)
        }
        match self {
            Self::Tcp(socket) => socket.poll_accept(context).map_ok(boxed),
            Self::Unix(socket) => socket.poll_accept(context).map_ok(boxed),
        }
    }
}

/// A client that waits for its document.
pub struct Visitor {
    stream: Box<dyn Stream>,
    http: bool,
    patience: Duration,
    length: Arc<AtomicUsize>,
    _permit: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Visitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Visitor").finish_non_exhaustive()
    }
}

/// What is behind the status.
const HEADER_FIELDS: &str = "Connection: close\r\nContent-Type: application/json\r\n\r\n";
const HTTP_HEADER: &[u8] = b"HTTP/1.0 200 OK\r\nConnection: close\r\nAccess-Control-Allow-Origin: *\r\n\
    Content-Type: application/json\r\n\r\n";

impl Visitor {
    /// One that was accepted elsewhere, and gets its document without asking.
    #[must_use]
    pub fn new(stream: UnixStream, patience: Duration, seat: OwnedSemaphorePermit) -> Self {
        Self { stream: Box::new(stream), http: false, patience, length: Arc::default(), _permit: seat }
    }

    /// Sends the document and closes. A client that is too slow loses the rest of it.
    pub async fn serve(mut self, document: Vec<u8>) {
        let seconds = u64::try_from(document.len() / SLOWEST).unwrap_or(u64::MAX);
        let whole = (self.patience * 2).saturating_add(Duration::from_secs(seconds));
        // One that takes a byte now and then is never silent, and would keep its place for ever.
        let _ = timeout(whole, async {
            if !self.http || self.request().await.is_some() && self.say(HTTP_HEADER).await {
                self.hand_over(&document).await;
            }
        })
        .await;
    }

    /// Asks the client what it wants, sends what `answer` makes of that, and closes. A client that says nothing wants
    /// the document at `/`.
    pub async fn converse<F: Future<Output = (StatusCode, Vec<u8>)>>(
        mut self,
        answer: impl FnOnce(String) -> F,
    ) {
        let path = match self.http {
            false => Some("/".into()),
            true => timeout(self.patience, self.line()).await.ok().flatten().map(|line| path_of(&line)),
        };
        let Some(path) = path else { return };
        let is_all = path == "/";
        let (status, document) = answer(path).await;
        if is_all {
            self.length.store(document.len(), Ordering::Relaxed);
        }
        let seconds = u64::try_from(document.len() / SLOWEST).unwrap_or(u64::MAX);
        let whole = (self.patience * 2).saturating_add(Duration::from_secs(seconds));
        let _ = timeout(whole, async {
            let header = format!("HTTP/1.0 {status}\r\n{HEADER_FIELDS}");
            if !self.http || self.say(header.as_bytes()).await {
                self.hand_over(&document).await;
            }
        })
        .await;
    }

    /// One piece of a request: as uWSGI, we do not wait for more.
    async fn request(&mut self) -> Option<Vec<u8>> {
        let mut request = [0; 4096];
        match timeout(self.patience, self.stream.read(&mut request)).await {
            Ok(Ok(count @ 1..)) => Some(request[..count].to_vec()),
            _ => None,
        }
    }

    /// The first line of a request, which may come in pieces, and what came with it.
    async fn line(&mut self) -> Option<Vec<u8>> {
        let mut request = Vec::new();
        while !request.contains(&b'\n') && request.len() < LONGEST_LINE {
            request.extend(self.request().await?);
        }
        Some(request)
    }

    async fn say(&mut self, header: &[u8]) -> bool {
        matches!(timeout(self.patience, self.stream.write_all(header)).await, Ok(Ok(())))
    }

    async fn hand_over(&mut self, document: &[u8]) {
        let mut rest = document;
        while !rest.is_empty() {
            let piece = &rest[..rest.len().min(PIECE)];
            match timeout(self.patience, self.stream.write(piece)).await {
                Ok(Ok(written @ 1..)) => rest = &rest[written..],
                _ => return,
            }
            tokio::task::yield_now().await; // a network's buffers take megabytes: others come first
        }
        // The document is out; whether the goodbye arrives is the client's concern.
        let _ = timeout(self.patience, self.stream.shutdown()).await;
    }
}

/// The path in the first line of a request; `/` if there is none.
fn path_of(request: &[u8]) -> String {
    let line = request.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
    let path = line.split(|byte| *byte == b' ').nth(1).unwrap_or(b"/");
    String::from_utf8_lossy(path).into_owned()
}

fn bind(options: &Options) -> io::Result<(Vec<Socket>, Option<SocketFile>)> {
    let address = options.address.as_str();
    if let Some(name) = address.strip_prefix('@') {
        // uWSGI binds the name with a NUL behind it, and its tools look for it without: serve both.
        let with_nul = [name.as_bytes(), b"\0"].concat();
        let sockets = [name.as_bytes(), &with_nul[..]]
            .map(|name| unix(&UnixAddress::from_abstract_name(name)?, options.backlog));
        return Ok((sockets.into_iter().collect::<io::Result<_>>()?, None));
    }
    if address.contains(':') {
        return Ok((vec![tcp(address, options.backlog)?], None));
    }
    let path = Path::new(address);
    clear_the_way(path)?;
    let socket = unix(&UnixAddress::from_pathname(path)?, options.backlog)?;
    if let Some(mode) = options.mode {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok((vec![socket], Some(SocketFile::of(path)?)))
}

fn tcp(address: &str, backlog: u32) -> io::Result<Socket> {
    let full = if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.into() };
    let found = full.to_socket_addrs()?.next();
    let address = found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such host"))?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(Socket::Tcp(socket.listen(backlog)?))
}

fn unix(address: &UnixAddress, backlog: u32) -> io::Result<Socket> {
    let socket = StdUnixListener::bind_addr(address)?;
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::new(backlog)?)?;
    socket.set_nonblocking(true)?;
    Ok(Socket::Unix(UnixListener::from_std(socket)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn options(address: String) -> Options {
        Options {
            option: "emperor-stats",
            address,
            backlog: 10,
            mode: Some(0o600),
            http: false,
            patience: Duration::from_millis(200),
        }
    }

    fn futures(future: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
    }

    fn read_all(mut stream: impl Read) -> Vec<u8> {
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        text
    }

    #[test]
    fn a_unix_socket_is_served_guarded_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats");
        let address = path.display().to_string();
        futures(async {
            let server = Server::bind(options(address.clone())).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let refused = Server::bind(options(address.clone())).unwrap_err();
            assert_eq!(
                std::error::Error::source(&refused).unwrap().to_string(),
                "another process serves this socket"
            );
            let there = path.clone();
            let client = std::thread::spawn(move || read_all(UnixStream::connect(there).unwrap()));
            server.accept().await.serve(b"{}".to_vec()).await;
            // The one that only asked whether somebody serves is served too.
            let _ = timeout(Duration::from_millis(200), async {
                server.accept().await.serve(b"{}".to_vec()).await;
            })
            .await;
            assert_eq!(client.join().unwrap(), b"{}");
        });
        assert!(!path.exists());
    }

    #[test]
    fn an_abstract_name_is_served_with_and_without_the_nul_that_uwsgi_adds() {
        let name = format!("emperor-listen-{}", std::process::id());
        futures(async {
            let server = Server::bind(options(format!("@{name}"))).unwrap();
            for name in [name.clone(), format!("{name}\0")] {
                let client = std::thread::spawn(move || {
                    let address = UnixAddress::from_abstract_name(name.as_bytes()).unwrap();
                    read_all(UnixStream::connect_addr(&address).unwrap())
                });
                server.accept().await.serve(b"{}".to_vec()).await;
                assert_eq!(client.join().unwrap(), b"{}");
            }
        });
    }

    #[test]
    fn a_client_that_takes_a_little_now_and_then_does_not_stay() {
        futures(async {
            let (ours, mut theirs) = tokio::io::duplex(1024);
            let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
            let patience = Duration::from_millis(100);
            let length = Arc::default();
            let visitor = Visitor { stream: Box::new(ours), http: false, patience, length, _permit: permit };
            let serving = tokio::spawn(visitor.serve(vec![b' '; 200 << 10]));
            let (mut taken, mut buffer) = (0, [0; 1024]);
            while let Ok(count @ 1..) = theirs.read(&mut buffer).await {
                taken += count;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            serving.await.unwrap();
            assert!((1024..100 << 10).contains(&taken), "{taken}");
        });
    }

    #[test]
    fn long_documents_leave_room_for_fewer_clients() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats");
        futures(async {
            let server = Server::bind(options(path.display().to_string())).unwrap();
            server.served(40 << 20);
            let _clients = [(); 2].map(|()| UnixStream::connect(&path).unwrap());
            let first = server.accept().await;
            assert!(timeout(Duration::from_millis(50), server.accept()).await.is_err());
            drop(first);
            assert!(timeout(Duration::from_secs(5), server.accept()).await.is_ok());
        });
    }

    #[test]
    fn a_request_in_pieces_is_read_to_the_end_of_its_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats");
        futures(async {
            let http = Options { http: true, ..options(path.display().to_string()) };
            let server = Server::bind(http).unwrap();
            let client = std::thread::spawn(move || {
                let mut stream = UnixStream::connect(path).unwrap();
                for piece in ["GET ", "/a", ".ini HTTP/1.0\r", "\n\r\n"] {
                    stream.write_all(piece.as_bytes()).unwrap();
                    std::thread::sleep(Duration::from_millis(20));
                }
                read_all(stream)
            });
            let wanted = |path: String| async move { (StatusCode::OK, path.into_bytes()) };
            server.accept().await.converse(wanted).await;
            assert!(client.join().unwrap().ends_with(b"\r\n\r\n/a.ini"));
        });
    }

    #[test]
    fn an_http_client_gets_a_header_and_a_silent_one_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats");
        futures(async {
            let http = Options { http: true, ..options(path.display().to_string()) };
            let server = Server::bind(http).unwrap();
            for (request, answered) in [(&b"GET / HTTP/1.0\r\n\r\n"[..], true), (b"", false)] {
                let path = path.clone();
                let client = std::thread::spawn(move || {
                    let mut stream = UnixStream::connect(path).unwrap();
                    stream.write_all(request).unwrap();
                    read_all(stream)
                });
                server.accept().await.serve(b"{}".to_vec()).await;
                let answer = client.join().unwrap();
                assert_eq!(answer.ends_with(b"\r\n\r\n{}"), answered);
            }
        });
    }
}
