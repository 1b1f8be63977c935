//! The message that carries descriptors: a greeting, their number as an `int` of this machine, and the descriptors
//! themselves, SCM_RIGHTS of unix(7), all in one.
//!
//! More descriptors than one message holds come in several, each as if it were the only one; uWSGI's clients take the
//! first.
//!
//! Three of uWSGI's features speak so, and differ in the greeting. Behind the number, where uWSGI's clients do not look
//! any more, ours say what the sockets are called.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Most descriptors in one message. Source: SCM_MAX_FD of unix(7), Linux 2.6.38.
pub const MOST_DESCRIPTORS: usize = 253;
/// Most descriptors in all that is sent to one client.
pub const MOST_OFFERED: usize = 4 * MOST_DESCRIPTORS;
/// Most bytes of what is said behind the number.
const MOST_LABELS: usize = 32 << 10;
/// What our own words begin with; then their length in four bytes, little endian.
const LABELS: &[u8; 4] = b"\0em1";
/// Bytes of that beginning.
const LABELS_HEADER: usize = 8;
/// Longest greeting, number included, bytes.
const LONGEST_BEGINNING: usize = 17;
/// Longest name of a socket, bytes.
const MOST_NAME: usize = 64;

/// What the descriptors are for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Greeting {
    /// Listening sockets: `zerg-server`, `zerg-pool`.
    Zerg,
    /// Namespaces: `setns-socket`.
    Namespaces,
    /// A vassal's link and config pipe, for an emperor's proxy.
    Emperor,
}

impl Greeting {
    fn bytes(self) -> &'static [u8] {
        match self {
            Self::Zerg => b"uwsgi-zerg",
            Self::Namespaces => b"uwsgi-setns",
            Self::Emperor => b"uwsgi-emperor",
        }
    }
}

/// What a socket is called, and which protocol is spoken at it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Label {
    name: String,
    protocol: Option<String>,
}

impl Label {
    /// `None` for a name, or a protocol, that is empty, too long, or has anything in it but letters, digits, `-`, `_`
    /// and `.`.
    #[must_use]
    pub fn new(name: &str, protocol: Option<&str>) -> Option<Self> {
        let is_plain = |text: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            (1..=MOST_NAME).contains(&text.len()) && text.bytes().all(plain)
        };
        let good = is_plain(name) && protocol.is_none_or(is_plain);
        good.then(|| Self { name: name.into(), protocol: protocol.map(str::to_owned) })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `http`, `uwsgi`, …, if it is known.
    #[must_use]
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }
}

/// The bytes of a message for so many descriptors. Labels that are not one for each of them are left out.
#[must_use]
pub fn message(greeting: Greeting, descriptors: usize, labels: &[Label]) -> Vec<u8> {
    let mut bytes = greeting.bytes().to_vec();
    bytes.extend(i32::try_from(descriptors).unwrap_or(i32::MAX).to_ne_bytes());
    let lines = labels.iter().map(|label| match &label.protocol {
        Some(protocol) => format!("{} {protocol}\n", label.name),
        None => format!("{}\n", label.name),
    });
    let text: String = lines.collect();
    if let (Ok(length), true) = (u32::try_from(text.len()), labels.len() == descriptors)
        && (1..=MOST_LABELS).contains(&text.len())
    {
        bytes.extend(LABELS);
        bytes.extend(length.to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// One message of those that carry what is offered.
#[derive(Debug)]
pub struct Message<'f> {
    bytes: Vec<u8>,
    descriptors: &'f [BorrowedFd<'f>],
}

/// The messages for these descriptors. Labels that are not one for each of them are left out.
#[must_use]
pub fn messages<'f>(
    greeting: Greeting,
    descriptors: &'f [BorrowedFd<'f>],
    labels: &[Label],
) -> Vec<Message<'f>> {
    let all = labels.len() == descriptors.len();
    let parts = descriptors.chunks(MOST_DESCRIPTORS).enumerate();
    let part = |(at, descriptors): (usize, &'f [BorrowedFd<'f>])| {
        let labels = labels.chunks(MOST_DESCRIPTORS).nth(at).filter(|_| all).unwrap_or_default();
        Message { bytes: message(greeting, descriptors.len(), labels), descriptors }
    };
    parts.map(part).collect()
}

/// What the bytes of a message say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Said {
    /// How many descriptors there are, if that is said. It need not be true.
    pub claimed: Option<i32>,
    /// What they are called; empty if nothing is said of it.
    pub labels: Vec<Label>,
}

/// Reads the bytes of a message; `None` without the greeting. What stands behind the number and is not ours is nothing.
#[must_use]
pub fn read(greeting: Greeting, bytes: &[u8]) -> Option<Said> {
    let rest = bytes.strip_prefix(greeting.bytes())?;
    let Some((number, rest)) = rest.split_first_chunk::<4>() else { return Some(Said::default()) };
    let labels = labels_length(rest)
        .and_then(|length| rest.get(LABELS_HEADER..LABELS_HEADER + length))
        .and_then(read_labels)
        .unwrap_or_default();
    Some(Said { claimed: Some(i32::from_ne_bytes(*number)), labels })
}

/// How many bytes of labels follow their beginning.
fn labels_length(rest: &[u8]) -> Option<usize> {
    let length = rest.strip_prefix(LABELS)?.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*length)).ok().filter(|length| *length <= MOST_LABELS)
}

fn read_labels(text: &[u8]) -> Option<Vec<Label>> {
    let lines = std::str::from_utf8(text).ok()?.strip_suffix('\n')?.split('\n');
    let label = |line: &str| match line.split_once(' ') {
        Some((name, protocol)) => Label::new(name, Some(protocol)),
        None => Label::new(line, None),
    };
    lines.take(MOST_DESCRIPTORS + 1).map(label).collect()
}

/// How many bytes of a message are still to come, as far as these tell.
fn missing(greeting: Greeting, bytes: &[u8]) -> usize {
    let beginning = greeting.bytes().len() + 4;
    match bytes.get(beginning..) {
        Some(rest) if rest.len() >= LABELS_HEADER => {
            let wanted = labels_length(rest).map_or(0, |length| LABELS_HEADER + length);
            wanted.saturating_sub(rest.len())
        }
        Some(rest) if !rest.is_empty() && LABELS.starts_with(&rest[..rest.len().min(LABELS.len())]) => {
            LABELS_HEADER - rest.len()
        }
        _ => 0,
    }
}

/// Sends a message at once, or not at all: a client that does not take it costs nobody's time.
///
/// # Errors
/// sendmsg(2): `EAGAIN` when the client's queue is full, `EPIPE` when it has gone.
pub fn send(client: BorrowedFd<'_>, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = room();
    let mut control = SendAncillaryBuffer::new(&mut space);
    if descriptors.is_empty() || !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        let wrong = format!("a message holds 1 to {MOST_DESCRIPTORS} descriptors");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, wrong));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(client, &[IoSlice::new(message)], &mut control, flags)?;
    Ok(())
}

/// Sends all messages. Who has gone with the first has what he wants: uWSGI's clients do so.
///
/// # Errors
/// As [`send`], for the first.
pub fn send_all(client: BorrowedFd<'_>, messages: &[Message<'_>]) -> io::Result<()> {
    let Some((first, others)) = messages.split_first() else { return send(client, &[], &[]) };
    send(client, &first.bytes, first.descriptors)?;
    for Message { bytes, descriptors } in others {
        match send(client, bytes, descriptors) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            sent => sent?,
        }
    }
    Ok(())
}

/// What came.
#[derive(Debug, Default)]
pub struct Received {
    /// The descriptors, each close-on-exec.
    pub descriptors: Vec<OwnedFd>,
    /// What they are called: one label for each, or none at all.
    pub labels: Vec<Label>,
}

/// Why nothing can be taken of what came.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Nothing came in time.
    #[error("it is silent: nothing has come within {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// The end, before a message.
    #[error("it has closed the connection without offering anything: it may serve only certain users")]
    Closed,
    /// Another message, or one without descriptors.
    #[error("it says something else than what uWSGI says there")]
    Other,
    /// The kernel had more than could be taken: the limit of descriptors was reached.
    #[error("some of the descriptors could not be taken: the limit of open descriptors is reached")]
    Truncated,
    /// More than anybody needs.
    #[error("it offers more than {MOST_OFFERED} sockets")]
    TooMany,
    /// The system.
    #[error("it cannot be read")]
    System(#[from] io::Error),
}

/// Takes one message, within this time.
///
/// The descriptors count that come with its first bytes; what came otherwise is closed.
///
/// # Errors
/// [`WireError`]. Whatever came is closed then.
pub fn receive(
    server: BorrowedFd<'_>,
    greeting: Greeting,
    patience: Duration,
) -> Result<Received, WireError> {
    receive_until(server, greeting, Instant::now() + patience, patience)
}

/// Takes all messages, within this time: another one may follow one that is full, until the end of the connection.
///
/// # Errors
/// As [`receive`]; also for more than [`MOST_OFFERED`].
pub fn receive_all(
    server: BorrowedFd<'_>,
    greeting: Greeting,
    patience: Duration,
) -> Result<Received, WireError> {
    let end = Instant::now() + patience;
    let mut all = receive_until(server, greeting, end, patience)?;
    let mut last = all.descriptors.len();
    let mut named = all.labels.len() == last;
    while last == MOST_DESCRIPTORS {
        let more = match receive_until(server, greeting, end, patience) {
            Ok(more) => more,
            Err(WireError::Closed) => break,
            Err(error) => return Err(error),
        };
        last = more.descriptors.len();
        named &= more.labels.len() == last;
        all.descriptors.extend(more.descriptors);
        all.labels.extend(more.labels);
        if all.descriptors.len() > MOST_OFFERED {
            return Err(WireError::TooMany);
        }
    }
    if !named {
        all.labels.clear();
    }
    Ok(all)
}

fn receive_until(
    server: BorrowedFd<'_>,
    greeting: Greeting,
    end: Instant,
    patience: Duration,
) -> Result<Received, WireError> {
    let mut bytes = vec![0; LONGEST_BEGINNING + LABELS_HEADER + MOST_LABELS];
    wait(server, end, patience)?;
    let (mut length, descriptors) = take(server, &mut bytes)?;
    if length == 0 {
        return Err(WireError::Closed);
    }
    if descriptors.is_empty() || read(greeting, &bytes[..length]).is_none() {
        return Err(WireError::Other);
    }
    // A long message may come in pieces. What is not there in time, or comes wrong, is only a name.
    loop {
        // Not more than that: the next message may be there already.
        let missing = missing(greeting, &bytes[..length]);
        if missing == 0 || wait(server, end, patience).is_err() {
            break;
        }
        match take(server, &mut bytes[length..length + missing]) {
            Ok((more @ 1.., _)) => length += more,
            _ => break,
        }
    }
    let said = read(greeting, &bytes[..length]).unwrap_or_default();
    let labels = if said.labels.len() == descriptors.len() { said.labels } else { Vec::new() };
    Ok(Received { descriptors, labels })
}

fn room() -> Vec<MaybeUninit<u8>> {
    vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))]
}

fn wait(server: BorrowedFd<'_>, end: Instant, patience: Duration) -> Result<(), WireError> {
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(server.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) if left.is_zero() => return Err(WireError::Silent(patience)),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
    }
}

fn take(server: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), WireError> {
    let mut space = room();
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message =
        recvmsg(server, &mut [IoSliceMut::new(bytes)], &mut control, flags).map_err(io::Error::from)?;
    let mut descriptors = Vec::new();
    for control in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = control {
            descriptors.extend(some);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(WireError::Truncated);
    }
    Ok((message.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    const SOON: Duration = Duration::from_millis(50);
    const LATE: Duration = Duration::from_secs(30);

    fn labels(count: usize) -> Vec<Label> {
        (0..count).map(|n| Label::new(&format!("http-socket-{n}"), Some("http")).unwrap()).collect()
    }

    fn null() -> File {
        File::open("/dev/null").unwrap()
    }

    fn closes_on_exec(fd: &OwnedFd) -> bool {
        nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).unwrap() == nix::libc::FD_CLOEXEC
    }

    #[test]
    fn parity_a_message_is_the_greeting_and_the_number_in_the_order_of_the_machine() {
        // spec/zerg.md, section 2: what uWSGI 2.0.21 sends for three sockets.
        let expected = [&b"uwsgi-zerg"[..], &3_i32.to_ne_bytes()].concat();
        assert_eq!(message(Greeting::Zerg, 3, &[]), expected);
        assert_eq!(message(Greeting::Zerg, 3, &labels(3))[..14], expected);
        assert_eq!(message(Greeting::Zerg, 3, &labels(2)), expected, "one label each, or none");
    }

    #[test]
    fn descriptors_and_their_names_go_through_one_message_and_close_on_exec() {
        for count in [1, 2, 8, 9, 100, MOST_DESCRIPTORS] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let file = null();
            let given: Vec<_> = (0..count).map(|_| file.as_fd()).collect();
            send(ours.as_fd(), &message(Greeting::Zerg, count, &labels(count)), &given).unwrap();
            drop(ours);
            let got = receive(theirs.as_fd(), Greeting::Zerg, LATE).unwrap();
            assert_eq!((got.descriptors.len(), got.labels), (count, labels(count)));
            assert!(got.descriptors.iter().all(closes_on_exec));
        }
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let file = null();
        for count in [0, MOST_DESCRIPTORS + 1] {
            let given: Vec<_> = (0..count).map(|_| file.as_fd()).collect();
            let refused = send(ours.as_fd(), &message(Greeting::Zerg, count, &[]), &given).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{count}");
        }
    }

    #[test]
    fn more_descriptors_than_a_message_holds_come_in_several_and_the_first_stands_alone() {
        let file = null();
        for (count, labelled) in
            [(1, true), (253, true), (254, true), (506, true), (700, false), (1012, true)]
        {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let given: Vec<_> = (0..count).map(|_| file.as_fd()).collect();
            let labels = if labelled { labels(count) } else { Vec::new() };
            let sending = messages(Greeting::Zerg, &given, &labels);
            assert_eq!(sending.len(), count.div_ceil(MOST_DESCRIPTORS));
            send_all(ours.as_fd(), &sending).unwrap();
            drop(ours);
            let got = receive_all(theirs.as_fd(), Greeting::Zerg, LATE).unwrap();
            assert_eq!((got.descriptors.len(), got.labels), (count, labels));
        }
        // Names that come late are not mistaken for the next message, nor that for them.
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let given: Vec<_> = (0..254).map(|_| file.as_fd()).collect();
        let sending = messages(Greeting::Zerg, &given, &labels(254));
        send(ours.as_fd(), &sending[0].bytes[..25], sending[0].descriptors).unwrap();
        ours.write_all(&sending[0].bytes[25..]).unwrap();
        send_all(ours.as_fd(), &sending[1..]).unwrap();
        drop(ours);
        let got = receive_all(theirs.as_fd(), Greeting::Zerg, LATE).unwrap();
        assert_eq!((got.descriptors.len(), got.labels), (254, labels(254)));
        // Who takes one message has a whole one.
        let (ours, theirs) = UnixStream::pair().unwrap();
        let given: Vec<_> = (0..300).map(|_| file.as_fd()).collect();
        let sending = messages(Greeting::Zerg, &given, &labels(300));
        send_all(ours.as_fd(), &sending).unwrap();
        let got = receive(theirs.as_fd(), Greeting::Zerg, LATE).unwrap();
        assert_eq!((got.descriptors.len(), got.labels), (253, labels(253)));
        // A full message may be the only one; whoever never stops is left.
        let (ours, theirs) = UnixStream::pair().unwrap();
        let sending = messages(Greeting::Zerg, &given[..253], &[]);
        send_all(ours.as_fd(), &sending).unwrap();
        let silent = receive_all(theirs.as_fd(), Greeting::Zerg, SOON).unwrap_err();
        assert!(matches!(silent, WireError::Silent(_)));
        for _ in 0..5 {
            send_all(ours.as_fd(), &sending).unwrap();
        }
        let endless = receive_all(theirs.as_fd(), Greeting::Zerg, LATE).unwrap_err();
        assert!(matches!(endless, WireError::TooMany));
        drop(theirs);
        assert!(send_all(ours.as_fd(), &sending).is_err());
    }

    #[test]
    fn parity_what_uwsgis_client_takes_is_taken() {
        // spec/zerg.md, section 2.1: the count is optional and is not compared with the descriptors.
        let with = |count: i32| [&b"uwsgi-zerg"[..], &count.to_ne_bytes()].concat();
        for bytes in
            [b"uwsgi-zerg".to_vec(), with(1), with(9), with(-1), [with(2), b"extra".to_vec()].concat()]
        {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let file = null();
            send(ours.as_fd(), &bytes, &[file.as_fd(), file.as_fd()]).unwrap();
            let got = receive(theirs.as_fd(), Greeting::Zerg, LATE).unwrap();
            assert_eq!((got.descriptors.len(), got.labels), (2, vec![]), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused_and_says_why() {
        let told = |act: &dyn Fn(&mut UnixStream)| {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            act(&mut ours);
            receive(theirs.as_fd(), Greeting::Zerg, SOON).unwrap_err()
        };
        assert!(matches!(told(&|_| {}), WireError::Silent(_)));
        assert!(matches!(told(&|ours| ours.shutdown(std::net::Shutdown::Both).unwrap()), WireError::Closed));
        let without = |ours: &mut UnixStream| ours.write_all(&message(Greeting::Zerg, 1, &[])).unwrap();
        assert!(matches!(told(&without), WireError::Other));
        for bytes in [&b"uwsgi-zerf"[..], b"uwsgi-setns\x01\0\0\0", b"u", b"HTTP/1.0 200 OK\r\n"] {
            let file = null();
            let wrong = told(&|ours| send(ours.as_fd(), bytes, &[file.as_fd()]).unwrap());
            assert!(matches!(wrong, WireError::Other), "{bytes:?}");
        }
    }

    #[test]
    fn names_that_come_late_are_waited_for_and_those_that_do_not_come_are_none() {
        let bytes = message(Greeting::Zerg, 1, &labels(1));
        for (cut, whole) in [(14, true), (15, true), (20, true), (25, true), (25, false)] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let file = null();
            send(ours.as_fd(), &bytes[..cut], &[file.as_fd()]).unwrap();
            if whole {
                ours.write_all(&bytes[cut..]).unwrap();
            }
            drop(ours);
            let got = receive(theirs.as_fd(), Greeting::Zerg, LATE).unwrap();
            // At 14 the message is complete as it is: what follows is not looked at.
            let named = got.labels == labels(1);
            assert_eq!((got.descriptors.len(), named), (1, whole && cut > 14), "{cut} {whole}");
        }
    }

    #[test]
    fn labels_are_bounded_and_plain() {
        assert_eq!(Label::new("a:b", None), None);
        assert_eq!(Label::new("", None), None);
        assert_eq!(Label::new("a", Some("x y")), None);
        assert_eq!(Label::new(&"a".repeat(65), None), None);
        let said = |text: &str| {
            let length = u32::try_from(text.len()).unwrap().to_le_bytes();
            let bytes = [&message(Greeting::Zerg, 1, &[])[..], LABELS, &length, text.as_bytes()].concat();
            read(Greeting::Zerg, &bytes).unwrap().labels.len()
        };
        assert_eq!((said("a http\nb\n"), said("a\nb:\n"), said("a"), said("\n")), (2, 0, 0, 0));
        assert_eq!(said(&"a\n".repeat(MOST_LABELS / 2)), MOST_DESCRIPTORS + 1);
    }
}
