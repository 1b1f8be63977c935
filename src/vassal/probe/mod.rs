//! Asking a starting vassal whether it is ready: what is asked, and the process that asks.
//!
//! Caller of [`main`]: the emperor, which starts it beside the vassal with the vassal's own identity and environment,
//! so that a tenant's file can ask nothing that the tenant could not ask himself. It asks again and again, with
//! growing pauses, says over its link why there is no answer yet, and ends with success at the first one, or when the
//! emperor closes the link.

mod queue;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, socket};

use super::link::LINK_FD;
use super::socket::Address;
use crate::sys::{fds, wait};

/// What is asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Probe {
    /// `tcp:ADDRESS`: that a connection is accepted or answered.
    Accepts(Address),
    /// `http://ADDRESS/PATH`, `http-unix:SOCKET:/PATH`: that the answer is a success or a redirection.
    Http {
        /// Where.
        address: Address,
        /// As the request names it.
        host: String,
        /// What is asked for.
        path: String,
    },
    /// `exec:COMMAND`: that it ends with status 0.
    Exec(Vec<OsString>),
}

/// The first pause, which doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(1);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(10);
/// As much of an answer as is read for its first line.
const MOST_LINE: u64 = 1024;

impl Probe {
    /// Reads one. Paths of sockets are relative to `directory`.
    ///
    /// # Errors
    /// What is wrong with it, or what is wanted.
    pub fn parse(text: &str, directory: &Path) -> Result<Self, String> {
        let address =
            |text: &str| Address::parse(text.as_bytes(), directory).map_err(|error| error.to_string());
        if let Some(rest) = text.strip_prefix("tcp:") {
            return address(rest).map(Self::Accepts);
        }
        if let Some(rest) = text.strip_prefix("exec:") {
            let words = shlex::split(rest).filter(|words| words.first().is_some_and(|word| !word.is_empty()));
            let words = words.ok_or("a command is wanted behind `exec:`, with its quotation marks closed")?;
            return Ok(Self::Exec(words.into_iter().map(OsString::from).collect()));
        }
        let (host, path, address) = if let Some(rest) = text.strip_prefix("http://") {
            let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
            let port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            let at = if port { host.to_owned() } else { format!("{host}:80") };
            (host.to_owned(), path, address(&at)?)
        } else if let Some(rest) = text.strip_prefix("http-unix:") {
            let (at, path) = rest.split_once(":/").map_or((rest, "/"), |(at, _)| (at, &rest[at.len() + 1..]));
            ("localhost".to_owned(), path, address(at)?)
        } else {
            return Err(format!(
                "`{text}` is no check: `none`, `notify`, `tcp`, `tcp:ADDRESS`, `http://ADDRESS/PATH`, \
                 `http-unix:SOCKET:/PATH` or `exec:COMMAND` is wanted"
            ));
        };
        if text.chars().any(|c| c.is_control() || c == ' ') {
            return Err("a URL has no blanks".into());
        }
        Ok(Self::Http { address, host, path: path.to_owned() })
    }

    /// Where it asks, if not by a command.
    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Accepts(address) | Self::Http { address, .. } => Some(address),
            Self::Exec(_) => None,
        }
    }

    /// Asks once; why not is text for a person.
    fn ask(&self, asker: &mut Asker) -> Result<(), String> {
        match self {
            Self::Accepts(address) => queue::is_accepted(&connected(address)?, address, asker),
            Self::Http { address, host, path } => {
                http(connected(address)?, host, path).map_err(|why| format!("{address} {why}"))
            }
            Self::Exec(words) => run(words, asker),
        }
    }
}

/// The role `emperor probe CHECK`.
#[must_use]
pub fn main(arguments: &[OsString]) -> ExitCode {
    let directory = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let (Some(text), Ok(link)) = (arguments.first().and_then(|text| text.to_str()), fds::adopt(LINK_FD))
    else {
        return ExitCode::FAILURE; // only the emperor starts this
    };
    let mut asker = Asker { link, told: String::new() };
    match Probe::parse(text, &directory) {
        Ok(probe) => asker.ask_until_answered(&probe),
        Err(why) => {
            asker.tell(&why);
            ExitCode::FAILURE
        }
    }
}

/// What goes on between two questions.
struct Asker {
    link: OwnedFd,
    told: String,
}

impl Asker {
    fn ask_until_answered(&mut self, probe: &Probe) -> ExitCode {
        let mut pause = FIRST_PAUSE;
        loop {
            match probe.ask(self) {
                Ok(()) => return ExitCode::SUCCESS,
                Err(why) => self.tell(&why),
            }
            if !self.goes_on(None, pause) {
                return ExitCode::FAILURE;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Says why there is no answer yet, if that is news.
    fn tell(&mut self, why: &str) {
        if self.told != why {
            self.told = why.to_owned();
            let line = format!("{}\n", why.replace('\n', " "));
            // What does not fit is not needed: the emperor has more to read than it takes.
            let _ =
                send(self.link.as_raw_fd(), line.as_bytes(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        }
    }

    /// Waits until `other` has something or the time is over. `false` if nobody wants to know any more.
    fn goes_on(&self, other: Option<&dyn AsFd>, time: Duration) -> bool {
        let mut waits = vec![PollFd::new(self.link.as_fd(), PollFlags::empty())]; // its end is told unasked
        waits.extend(other.map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        // What cannot be waited for is asked again.
        let _ = poll(&mut waits, timeout);
        waits[0].any() != Some(true)
    }
}

/// A connection to a vassal.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsFd for Stream {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

fn connected(address: &Address) -> Result<Stream, String> {
    let refused = |error: io::Error| match error.raw_os_error() {
        Some(nix::libc::EAGAIN) => format!("{address} takes no more connections: its queue is full"),
        _ => format!("nobody answers at {address}: {error}"),
    };
    match address {
        Address::Tcp(address) => {
            TcpStream::connect_timeout(&here(*address), CONNECT).map(Stream::Tcp).map_err(refused)
        }
        Address::Path(path) => dial(&UnixAddr::new(path)).map_err(refused),
        Address::BareAbstract(name) => dial(&UnixAddr::new_abstract(name)).map_err(refused),
        Address::Abstract(name) => {
            // uWSGI's names, and ours, end in a NUL; those of others do not.
            let padded = dial(&UnixAddr::new_abstract(&[name, &b"\0"[..]].concat()));
            padded.or_else(|_| dial(&UnixAddr::new_abstract(name))).map_err(refused)
        }
    }
}

/// A server that listens everywhere is reached here.
fn here(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Connects without waiting, however full the queue is.
fn dial(address: &nix::Result<UnixAddr>) -> io::Result<Stream> {
    let address = address.as_ref().map_err(|errno| io::Error::from(*errno))?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(stream.as_raw_fd(), address)?;
    let stream = UnixStream::from(stream);
    stream.set_nonblocking(false)?;
    Ok(Stream::Unix(stream))
}

fn http(stream: Stream, host: &str, path: &str) -> Result<(), String> {
    let request =
        format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: emperor\r\nConnection: close\r\n\r\n");
    let until = Instant::now() + ANSWER;
    let line = match stream {
        Stream::Tcp(mut stream) => {
            let patience = |stream: &TcpStream, time| {
                stream.set_read_timeout(Some(time)).and_then(|()| stream.set_write_timeout(Some(time)))
            };
            patience(&stream, ANSWER).and_then(|()| stream.write_all(request.as_bytes())).and_then(|()| {
                first_line(&mut stream, until, |stream, time| stream.set_read_timeout(Some(time)))
            })
        }
        Stream::Unix(mut stream) => {
            let patience = |stream: &UnixStream, time| {
                stream.set_read_timeout(Some(time)).and_then(|()| stream.set_write_timeout(Some(time)))
            };
            patience(&stream, ANSWER).and_then(|()| stream.write_all(request.as_bytes())).and_then(|()| {
                first_line(&mut stream, until, |stream, time| stream.set_read_timeout(Some(time)))
            })
        }
    };
    let line = line.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("is connected and does not answer GET {path} within {} s", ANSWER.as_secs())
        }
        _ => format!("does not answer GET {path}: {error}"),
    })?;
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|text| text.parse::<u16>().ok());
    match status {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("answers GET {path} with {status}")),
        None => Err(format!("answers GET {path} with something that is not HTTP")),
    }
}

/// The first line of what comes, of which no more is read than a line can be.
fn first_line<S: Read>(
    stream: &mut S,
    until: Instant,
    patience: impl Fn(&S, Duration) -> io::Result<()>,
) -> io::Result<String> {
    let mut line = Vec::new();
    let mut bytes = [0; 256];
    while !line.contains(&b'\n') && (line.len() as u64) < MOST_LINE {
        let rest = until.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        patience(stream, rest)?;
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => line.extend(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

fn run(words: &[OsString], asker: &Asker) -> Result<(), String> {
    let Some((program, arguments)) = words.split_first() else { return Err("no command".into()) };
    let name = program.to_string_lossy();
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut child = command.spawn().map_err(|error| format!("cannot run {name}: {error}"))?;
    let ended = ended(&mut child, asker);
    // The group is the child's as long as that is not waited for.
    wait::kill_group(i32::try_from(child.id()).unwrap_or(0));
    let status = child.wait().map_err(|error| format!("cannot wait for {name}: {error}"))?;
    match (ended, status.success()) {
        (true, true) => Ok(()),
        (true, false) => Err(format!("{name} ends with {status}")),
        (false, _) => Err(format!("{name} has not ended within {} s", COMMAND.as_secs())),
    }
}

/// Whether it ends in time.
fn ended(child: &mut Child, asker: &Asker) -> bool {
    let pid = i32::try_from(child.id()).unwrap_or(0);
    let pidfd = wait::start_time(pid).and_then(|started| wait::open(pid, started)).ok().flatten();
    let Some(pidfd) = pidfd else { return false };
    asker.goes_on(Some(&pidfd), COMMAND) && wait::peek(pidfd.as_fd()).is_ok_and(|ending| ending.is_some())
}

/// Whether an error only says that nothing is there yet.
fn is_nothing_yet(errno: Errno) -> bool {
    matches!(errno, Errno::EAGAIN | Errno::EINTR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    fn asker() -> (Asker, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Asker { link: theirs.into(), told: String::new() }, ours)
    }

    fn parse(text: &str) -> Result<Probe, String> {
        Probe::parse(text, Path::new("/d"))
    }

    #[test]
    fn checks_are_read_and_what_is_none_says_what_is_wanted() {
        let http = |text: &str| match parse(text).unwrap() {
            Probe::Http { address, host, path } => format!("{address} {host} {path}"),
            other => panic!("{other:?}"),
        };
        assert_eq!(http("http://127.0.0.1:80/a/b?c=d"), "127.0.0.1:80 127.0.0.1:80 /a/b?c=d");
        assert_eq!(http("http://127.0.0.1"), "127.0.0.1:80 127.0.0.1 /");
        assert_eq!(http("http://[::1]:81/"), "[::1]:81 [::1]:81 /");
        assert_eq!(http("http-unix:/run/a.sock:/x"), "/run/a.sock localhost /x");
        assert_eq!(http("http-unix:a.sock"), "/d/a.sock localhost /");
        assert_eq!(
            parse("exec:test -e 'a b'").unwrap(),
            Probe::Exec(["test", "-e", "a b"].map(OsString::from).into())
        );
        for none in [
            "",
            "http",
            "tcp:",
            "tcp:x.org:1",
            "exec:",
            "exec:'a",
            "http://a b/",
            "http://127.0.0.1:1/\r\nX: y",
        ] {
            assert!(parse(none).is_err(), "{none:?}");
        }
    }

    /// A server of one answer.
    fn answering(answer: &'static [u8]) -> (Address, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            stream.write_all(answer).unwrap();
            line
        });
        (address, served)
    }

    #[test]
    fn an_http_check_wants_a_success_or_a_redirection() {
        let rows: [(&[u8], Option<&str>); 5] = [
            (b"HTTP/1.1 200 OK\r\n\r\n", None),
            (b"HTTP/1.0 302 Found\r\n\r\n", None),
            (b"HTTP/1.1 503 Busy\r\n\r\n", Some("answers GET /up with 503")),
            (b"hello\r\n", Some("something that is not HTTP")),
            (b"", Some("something that is not HTTP")),
        ];
        for (answer, why) in rows {
            let (address, served) = answering(answer);
            let probe = Probe::Http { address, host: "h".into(), path: "/up".into() };
            let result = probe.ask(&mut asker().0);
            match (&result, why) {
                (Ok(()), None) => {}
                (Err(said), Some(why)) if said.contains(why) => {}
                _ => panic!("{result:?} {why:?}"),
            }
            assert_eq!(served.join().unwrap(), "GET /up HTTP/1.0\r\n");
        }
    }

    #[test]
    fn where_nobody_listens_nobody_answers() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let why = parse(&format!("tcp:127.0.0.1:{port}")).unwrap().ask(&mut asker().0).unwrap_err();
        assert!(why.starts_with(&format!("nobody answers at 127.0.0.1:{port}: Connection refused")), "{why}");
        let dir = tempfile::tempdir().unwrap();
        let why = Probe::parse("tcp:a.sock", dir.path()).unwrap().ask(&mut asker().0).unwrap_err();
        assert!(why.contains("No such file"), "{why}");
    }

    /// Asks until the other side has heard what is wrong, then lets `accept` accept, and waits for the success.
    fn waits_for_accept(text: &str, accept: impl FnOnce()) {
        let probe = parse(text).unwrap();
        let (mut asker, told) = asker();
        let asking = std::thread::spawn(move || asker.ask_until_answered(&probe) == ExitCode::SUCCESS);
        let mut line = String::new();
        BufReader::new(&told).read_line(&mut line).unwrap();
        assert!(line.contains("listens, and nobody accepts"), "{line}");
        accept();
        assert!(asking.join().unwrap());
    }

    #[test]
    fn a_socket_on_which_nobody_accepts_is_not_ready() {
        for bind in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let listener = TcpListener::bind(bind).unwrap();
            let port = listener.local_addr().unwrap().port();
            let host = if bind == "[::1]:0" { "[::1]" } else { "127.0.0.1" };
            waits_for_accept(&format!("tcp:{host}:{port}"), || drop(listener.accept().unwrap()));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let listener = UnixListener::bind(&path).unwrap();
        waits_for_accept(&format!("tcp:{}", path.display()), || drop(listener.accept().unwrap()));
    }

    #[test]
    fn a_connection_that_is_taken_and_kept_counts_as_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let (unix, tcp) = (UnixListener::bind(&path).unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let mut kept = None;
        waits_for_accept(&format!("tcp:{}", path.display()), || kept = Some(unix.accept().unwrap()));
        let mut other = None;
        let port = tcp.local_addr().unwrap().port();
        waits_for_accept(&format!("tcp:127.0.0.1:{port}"), || other = Some(tcp.accept().unwrap()));
    }

    #[test]
    fn a_command_is_ready_when_it_ends_well_and_nobody_waits_when_nobody_wants_to_know() {
        let ask = |text: &str| parse(text).unwrap().ask(&mut asker().0);
        assert_eq!(ask("exec:true"), Ok(()));
        assert_eq!(ask("exec:sh -c 'exit 3'"), Err("sh ends with exit status: 3".into()));
        assert!(ask("exec:/no/such/program").unwrap_err().starts_with("cannot run /no/such/program"));
        let (mut asker, told) = asker();
        drop(told);
        let began = Instant::now();
        assert_eq!(asker.ask_until_answered(&parse("exec:sleep 1000").unwrap()), ExitCode::FAILURE);
        assert!(began.elapsed() < COMMAND);
    }
}
