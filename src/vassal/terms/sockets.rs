//! The listening sockets that a vassal's file names, for a program that is not uWSGI.
//!
//! The emperor binds and holds them, and the program inherits them. Names of hosts, users and groups are looked up by
//! whoever reads the file, because that may take long; what comes out holds numbers and addresses only.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::unistd::{Group, User};
use serde::{Deserialize, Serialize};

use super::zerg::ZergTerms;
use super::{Asked, TermsError};
use crate::config::options::{Kind, Opt};
use crate::config::{Got, values};
use crate::vassal::passing::Passing;
use crate::vassal::socket::{Address, BadAddress, Manner};
use crate::zerg::wire::MOST_OFFERED;

mod place;
#[cfg(test)]
mod tests;

pub use place::place;

/// The sockets of a vassal.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "Unchecked")]
pub struct SocketTerms {
    sockets: Vec<SocketTerm>,
    vacuum: bool,
    silent: bool,
    stdin: Option<usize>,
    zerg: ZergTerms,
}

/// One of them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SocketTerm {
    /// Its name for the program: the option's, with a number from the second of that option on.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// How it is made.
    pub manner: Manner,
    /// Whether it is only offered by a pool, and not the program's own. Those come last.
    #[serde(default)]
    pub pooled: bool,
}

/// As they come from a process that has read them as a tenant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    sockets: Vec<SocketTerm>,
    vacuum: bool,
    silent: bool,
    stdin: Option<usize>,
    #[serde(default)]
    zerg: ZergTerms,
}

/// Options that are honoured here, beside those that name a socket.
pub const HONOURED: &[&str] = &[
    "abstract-socket",
    "chmod-socket",
    "chown-socket",
    "freebind",
    "listen",
    "no-defer-accept",
    "reuse-port",
    "so-keepalive",
    "socket-rcvbuf",
    "socket-sndbuf",
    "umask",
    "vacuum",
];

/// More sockets than this nobody needs: each is a descriptor of the emperor's.
pub const MOST_SOCKETS: usize = 64;
/// Connections that may wait, if nothing is said. Source: uWSGI 2.0.21.
const USUAL_BACKLOG: u32 = 100;
/// The most that the kernel can be told.
const MOST_BACKLOG: u32 = 65_535;
const MOST_BUFFER: u32 = 1 << 30;
/// Longest path, bytes. Source: PATH_MAX of the kernel, with its end.
const MOST_PATH: usize = 4095;
/// Longest name of an abstract socket with the two NULs around it: unix(7).
const MOST_ABSTRACT: usize = 106;

/// Who knows the numbers behind names.
pub trait Names {
    /// The first IPv4 address of a host.
    fn host(&self, name: &str) -> Option<Ipv4Addr>;
    /// The number of a user.
    fn user(&self, name: &str) -> Option<u32>;
    /// The number of a group.
    fn group(&self, name: &str) -> Option<u32>;
}

/// The system does. It may take its time.
#[derive(Clone, Copy, Debug)]
pub struct SystemNames;

/// Nobody is asked, and that somebody would have to be is noted: for a reader that has no time.
#[derive(Debug, Default)]
pub struct NoNames(Cell<bool>);

impl NoNames {
    /// Whether a name was met that somebody must be asked about; what was read is of no use then.
    #[must_use]
    pub fn were_wanted(&self) -> bool {
        self.0.get()
    }
}

impl Names for NoNames {
    fn host(&self, _: &str) -> Option<Ipv4Addr> {
        self.0.set(true);
        None
    }

    fn user(&self, _: &str) -> Option<u32> {
        self.0.set(true);
        None
    }

    fn group(&self, _: &str) -> Option<u32> {
        self.0.set(true);
        None
    }
}

impl Names for SystemNames {
    fn host(&self, name: &str) -> Option<Ipv4Addr> {
        let found = (name, 0).to_socket_addrs().ok()?;
        found.filter_map(|it| if let IpAddr::V4(ip) = it.ip() { Some(ip) } else { None }).next()
    }

    fn user(&self, name: &str) -> Option<u32> {
        Some(User::from_name(name).ok()??.uid.as_raw())
    }

    fn group(&self, name: &str) -> Option<u32> {
        Some(Group::from_name(name).ok()??.gid.as_raw())
    }
}

impl SocketTerms {
    /// What a file says.
    ///
    /// # Errors
    /// [`TermsError`]: what is no address, names that nobody knows, and kinds of sockets that only uWSGI itself serves.
    pub fn read(asked: Asked<'_>, names: &dyn Names) -> Result<Self, TermsError> {
        Self::read_up_to(MOST_SOCKETS, asked, names)
    }

    /// The same, of the emperor's own configuration: as many as one client can be given.
    ///
    /// # Errors
    /// As [`SocketTerms::read`].
    pub fn of_emperor(asked: Asked<'_>, names: &dyn Names) -> Result<Self, TermsError> {
        Self::read_up_to(MOST_OFFERED, asked, names)
    }

    fn read_up_to(most: usize, asked: Asked<'_>, names: &dyn Names) -> Result<Self, TermsError> {
        let mut terms = Self {
            vacuum: asked.flag("vacuum").unwrap_or(false),
            silent: !asked.flag("listen-fds").unwrap_or(true),
            ..Self::default()
        };
        let manner = manner(asked, names)?;
        let bare = asked.flag("abstract-socket").unwrap_or(false);
        for (option, pair) in asked.0.applied() {
            if !matches!(option.kind, Kind::Socket | Kind::SharedSocket | Kind::SocketTls) {
                continue;
            }
            let got = Got { value: pair.value().unwrap_or_default().trim_ascii(), origin: pair.origin() };
            let wrong = |cause: String| TermsError::new(&got, option.name, cause);
            if let Some(why) = refused(option) {
                return Err(wrong(why.into()));
            }
            if got.value.starts_with(b"=") {
                continue; // a shared socket, which has its place; that it is there was seen when the file was read
            }
            let address = address(got.value, bare, names).map_err(wrong)?;
            terms.add(most, option.canonical().name, address, &manner, false).map_err(wrong)?;
        }
        terms.zerg = ZergTerms::read(asked, names)?;
        if let Some(got) = asked.0.list("zergpool").last() {
            let wrong = |cause: String| TermsError::new(&got, "zerg-pool", cause);
            for address in terms.zerg.pooled().cloned().collect::<Vec<_>>() {
                terms.add(most, "pool", address, &manner, true).map_err(wrong)?;
            }
        }
        if let Some(got) = asked.value("socket-stdin") {
            let number = std::str::from_utf8(got.value.trim_ascii()).ok().and_then(|text| text.parse().ok());
            let count = terms.own().len();
            let known = number.filter(|number| *number < count);
            let cause = || format!("the file names {count} sockets, and they are counted from 0");
            terms.stdin = Some(known.ok_or_else(|| TermsError::new(&got, "socket-stdin", cause()))?);
        }
        Ok(terms)
    }

    /// One more socket. The same address again is the same socket, as in uWSGI.
    fn add(
        &mut self,
        most: usize,
        option: &str,
        address: Address,
        manner: &Manner,
        pooled: bool,
    ) -> Result<(), String> {
        if self.sockets.iter().any(|socket| socket.address == address) {
            return Ok(());
        }
        if self.sockets.len() == most {
            return Err(format!("there may be {most} sockets"));
        }
        let name = (1..)
            .map(|n| if n == 1 { option.to_owned() } else { format!("{option}-{n}") })
            .find(|name| self.sockets.iter().all(|socket| socket.name != *name))
            .unwrap_or_default();
        self.sockets.push(SocketTerm { name, address, manner: manner.clone(), pooled });
        Ok(())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty() && self.zerg == ZergTerms::default()
    }

    /// Those that the program is given: they come before those that are only in a pool.
    #[must_use]
    pub fn own(&self) -> &[SocketTerm] {
        let count = self.sockets.iter().take_while(|socket| !socket.pooled).count();
        &self.sockets[..count]
    }

    /// What the file says of its zerg.
    #[must_use]
    pub fn zerg(&self) -> &ZergTerms {
        &self.zerg
    }

    /// The sockets, in the order of the file.
    #[must_use]
    pub fn sockets(&self) -> &[SocketTerm] {
        &self.sockets
    }

    /// Whether their files are removed with the vassal (`vacuum`).
    #[must_use]
    pub fn vacuum(&self) -> bool {
        self.vacuum
    }

    /// The same with paths that begin in this directory, where they begin nowhere.
    #[must_use]
    pub fn in_directory(&self, directory: &Path) -> Self {
        let mut terms = self.clone();
        for socket in &mut terms.sockets {
            if let Address::Path(path) = &mut socket.address {
                *path = directory.join(&path);
            }
        }
        for door in &mut terms.zerg.doors {
            for address in std::iter::once(&mut door.at).chain(&mut door.sockets) {
                if let Address::Path(path) = address {
                    *path = directory.join(&path);
                }
            }
        }
        terms
    }

    /// The same with a socket on demand that the file does not name: the last of the program's own.
    #[must_use]
    pub fn with_on_demand(mut self, address: Option<Address>) -> Self {
        if let Some(address) = address.filter(|it| self.sockets.iter().all(|socket| socket.address != *it)) {
            let (name, manner) = ("on-demand".into(), Manner::default());
            self.sockets.insert(self.own().len(), SocketTerm { name, address, manner, pooled: false });
        }
        self
    }

    /// The same with these addresses, where they are known better: the port that the kernel has chosen.
    #[must_use]
    pub fn bound_at(mut self, addresses: impl IntoIterator<Item = Option<SocketAddr>>) -> Self {
        for (socket, address) in self.sockets.iter_mut().zip(addresses) {
            if let Some(address) = address {
                socket.address = Address::Tcp(address);
            }
        }
        self
    }

    /// How they are handed to the program, by the numbers under which its launcher has them.
    #[must_use]
    pub fn passing(&self, mut numbers: Vec<i32>) -> Passing {
        let own = self.own();
        numbers.truncate(own.len());
        Passing {
            numbers,
            names: own.iter().map(|socket| socket.name.clone()).collect(),
            addresses: own.iter().map(|socket| socket.address.to_string()).collect(),
            files: own.iter().filter_map(|socket| socket.address.file()).collect(),
            stdin: self.stdin,
            silent: self.silent,
            zerg: self.zerg.servers.clone(),
            zerg_fallback: self.zerg.fallback,
        }
    }
}

impl TryFrom<Unchecked> for SocketTerms {
    type Error = String;

    fn try_from(unchecked: Unchecked) -> Result<Self, String> {
        let Unchecked { sockets, vacuum, silent, stdin, zerg } = unchecked;
        let own = sockets.iter().take_while(|socket| !socket.pooled).count();
        if sockets[own..].iter().any(|socket| !socket.pooled) {
            return Err("a socket behind those of a pool".into());
        }
        if sockets.len() > MOST_SOCKETS || stdin.is_some_and(|number| number >= own) {
            return Err("more sockets than a vassal may have".into());
        }
        for (at, socket) in sockets.iter().enumerate() {
            socket.check()?;
            if sockets[..at].iter().any(|other| other.address == socket.address) {
                return Err("the same address twice".into());
            }
        }
        Ok(Self { sockets, vacuum, silent, stdin, zerg })
    }
}

impl SocketTerm {
    pub(super) fn check(&self) -> Result<(), String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let Manner { backlog, mode, send_buffer, receive_buffer, .. } = self.manner;
        let buffers = [send_buffer, receive_buffer];
        let fits = match &self.address {
            Address::Tcp(_) => true,
            Address::Path(path) => {
                let path = path.as_os_str().as_bytes();
                !path.is_empty() && path.len() <= MOST_PATH && !path.contains(&0)
            }
            Address::Abstract(name) | Address::BareAbstract(name) => {
                !name.is_empty() && name.len() <= MOST_ABSTRACT
            }
        };
        let good = fits
            && (1..=64).contains(&self.name.len())
            && self.name.bytes().all(plain)
            && backlog <= MOST_BACKLOG
            && mode.is_none_or(|mode| mode <= 0o777)
            && buffers.iter().flatten().all(|bytes| *bytes <= MOST_BUFFER);
        if good { Ok(()) } else { Err(format!("a socket that cannot be: {}", self.address)) }
    }
}

/// Why a socket of this kind cannot be had.
fn refused(option: &Opt) -> Option<&'static str> {
    match (option.kind, option.plugin_name()) {
        (Kind::SocketTls, _) => Some(
            "only uWSGI itself serves TLS; let the program bind nothing but http-socket, and put the certificate \
             into the program's or the front end's configuration",
        ),
        (_, "core") => None,
        _ => Some("only uWSGI itself speaks to such a socket"),
    }
}

pub(super) fn manner(asked: Asked<'_>, names: &dyn Names) -> Result<Manner, TermsError> {
    let number = |option: &str, most: u32| {
        let number = asked.number(option, 0..=i64::from(most))?;
        Ok::<_, TermsError>(number.and_then(|number| u32::try_from(number).ok()))
    };
    let mode = match asked.0.string("chmod-socket") {
        None => asked.0.string("umask").and_then(|got| values::umask(got.value)).map(|umask| 0o777 & !umask),
        Some(_) => Some(asked.0.mode3("chmod-socket").map_or(0o666, |got| got.value)),
    };
    let owner = asked.parsed("chown-socket", |text| owner(text, names))?.unwrap_or_default();
    Ok(Manner {
        backlog: number("listen", MOST_BACKLOG)?.unwrap_or(USUAL_BACKLOG),
        mode,
        owner,
        reuse_port: asked.flag("reuse-port").unwrap_or(false),
        freebind: asked.flag("freebind").unwrap_or(false),
        keepalive: asked.flag("so-keepalive").unwrap_or(false),
        send_buffer: number("socket-sndbuf", MOST_BUFFER)?,
        receive_buffer: number("socket-rcvbuf", MOST_BUFFER)?,
    })
}

/// `USER[:GROUP]`, `:GROUP`; names or numbers.
pub(super) fn owner(text: &str, names: &dyn Names) -> Result<(Option<u32>, Option<u32>), String> {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let number = |text: &str, what: &str, find: &dyn Fn(&str) -> Option<u32>| match text {
        "" => Ok(None),
        text if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map(Some).map_err(|_| format!("`{text}` is too large a number for a {what}"))
        }
        text => find(text).map(Some).ok_or_else(|| format!("there is no {what} `{text}`")),
    };
    let user = number(user, "user", &|name| names.user(name))?;
    Ok((user, number(group, "group", &|name| names.group(name))?))
}

pub(super) fn address(text: &[u8], bare: bool, names: &dyn Names) -> Result<Address, String> {
    let is_path = !text.contains(&b':') && !text.starts_with(b"@");
    if text.starts_with(b"fd://") {
        return Err("the emperor's own descriptors are passed on by `safe-fd`; name an address".into());
    }
    if text.starts_with(b"unix:") {
        return Err("a unix socket is named by its path alone, without `unix:`".into());
    }
    let abstract_name = match text.strip_prefix(b"\\0") {
        Some(name) => Some(Address::Abstract(name.into())),
        None if bare && is_path => Some(Address::BareAbstract(text.into())),
        None => None,
    };
    if let Some(Address::Abstract(name) | Address::BareAbstract(name)) = &abstract_name
        && (name.is_empty() || name.len() > MOST_ABSTRACT)
    {
        return Err(format!("an abstract name has 1 to {MOST_ABSTRACT} bytes"));
    }
    if let Some(address) = abstract_name {
        return Ok(address);
    }
    let port_of_choice = [text, b"0"].concat();
    let text = if text.ends_with(b":") { &port_of_choice } else { text };
    match Address::parse(text, Path::new("")) {
        Ok(Address::Abstract(name)) if name.len() > MOST_ABSTRACT => {
            Err(format!("an abstract name has 1 to {MOST_ABSTRACT} bytes"))
        }
        Ok(address) => Ok(address),
        Err(BadAddress::Host(shown)) => {
            let (host, port) =
                std::str::from_utf8(text).ok().and_then(|text| text.rsplit_once(':')).unwrap_or_default();
            if host.contains('*') {
                return Err(format!(
                    "`{shown}`: patterns of addresses are not looked for; write the address"
                ));
            }
            let is_name = !host.starts_with('[') && !host.is_empty();
            let ip = match host {
                "localhost" => Some(Ipv4Addr::LOCALHOST), // RFC 6761: there is nothing to ask
                host => is_name.then(|| names.host(host)).flatten(),
            };
            let port = port.parse().ok();
            let found = ip.zip(port).map(|(ip, port)| Address::Tcp(SocketAddr::new(ip.into(), port)));
            found.ok_or_else(|| {
                format!(
                    "no IPv4 address is known for the host in `{shown}`; mend the name, or write the address"
                )
            })
        }
        Err(bad) => Err(bad.to_string()),
    }
}
