//! Which system calls a vassal may make.
//!
//! [`CallFilter`] says it as data, of which each field can only take away; [`compile`] makes one program for the
//! kernel of it. Refused calls fail, and nothing is killed but a call in the manner of another kind of machine: its
//! numbers mean something else.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

mod compile;
mod groups;
mod set;

pub use set::{CallSet, Listed};

/// What is refused.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CallFilter {
    /// These calls: EPERM, or ENOSYS for a number that this program knows no call of.
    pub refused: CallSet,
    /// Whether numbers beyond all that are known are refused, too: where there is a list of what is allowed.
    pub unknown_refused: bool,
    /// Calls by the numbers of another machine (i386, x32) are refused anyway; this asks for nothing else.
    pub native_only: bool,
    /// These kinds of namespaces can be neither made nor entered.
    pub namespaces: NamespaceKinds,
    /// Sockets of other families cannot be made; `None` restricts none.
    pub families: Option<Families>,
    /// No real-time scheduling.
    pub realtime: bool,
    /// No file gets a set-user-id or set-group-id bit.
    pub suid_sgid: bool,
    /// The execution domain stays Linux's.
    pub personality: bool,
    /// No memory is writable and executable, and none becomes executable.
    pub write_execute: bool,
    /// Nobody types for others (TIOCSTI, TIOCLINUX).
    pub terminal: bool,
}

impl CallFilter {
    /// Whether nothing is refused.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What either refuses.
    #[must_use]
    pub fn joined(self, other: &Self) -> Self {
        Self {
            refused: self.refused.with(&other.refused),
            unknown_refused: self.unknown_refused | other.unknown_refused,
            native_only: self.native_only | other.native_only,
            namespaces: NamespaceKinds(self.namespaces.0 | other.namespaces.0),
            families: match (self.families, other.families) {
                (Some(one), Some(two)) => Some(Families(one.0 & two.0)),
                (one, two) => one.or(two),
            },
            realtime: self.realtime | other.realtime,
            suid_sgid: self.suid_sgid | other.suid_sgid,
            personality: self.personality | other.personality,
            write_execute: self.write_execute | other.write_execute,
            terminal: self.terminal | other.terminal,
        }
    }

    /// The program for the kernel.
    ///
    /// # Errors
    /// Where this kind of machine has no filters that we know how to write.
    pub(in super::super) fn prepare(&self) -> io::Result<Prepared> {
        compile::program(self).map(Prepared)
    }
}

/// A filter that only has to be put in force.
pub(in super::super) struct Prepared(seccompiler::BpfProgram);

impl Prepared {
    /// From here on nothing that is refused works, in this process and all that comes of it. Sets `no_new_privs`.
    ///
    /// # Errors
    /// `EINVAL` where the kernel has no filters (before Linux 3.5, or without CONFIG_SECCOMP_FILTER); `EACCES` never,
    /// because of `no_new_privs`. Source: seccomp(2).
    pub(in super::super) fn apply(&self) -> io::Result<()> {
        use seccompiler::Error;
        seccompiler::apply_filter(&self.0).map_err(|error| match error {
            Error::Prctl(cause) | Error::Seccomp(cause) => cause,
            other => io::Error::other(other.to_string()),
        })
    }
}

/// Kinds of namespaces, as the flags of clone(2).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct NamespaceKinds(pub u32);

impl NamespaceKinds {
    /// Every kind.
    pub const ALL: Self = Self(0x7e02_0080);
    /// Source: clone(2), `linux/sched.h`.
    const NAMES: [(&'static str, u32); 8] = [
        ("cgroup", 0x0200_0000),
        ("ipc", 0x0800_0000),
        ("net", 0x4000_0000),
        ("mnt", 0x0002_0000),
        ("pid", 0x2000_0000),
        ("user", 0x1000_0000),
        ("uts", 0x0400_0000),
        ("time", 0x0000_0080),
    ];

    /// The kind of that name, as systemd calls it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = if name == "mount" { "mnt" } else { name };
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, flag)| Self(*flag))
    }

    /// The bits that are kinds.
    #[must_use]
    pub const fn flags(self) -> u32 {
        self.0 & Self::ALL.0
    }
}

impl fmt::Display for NamespaceKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.flags() == Self::ALL.0 {
            return f.write_str("all");
        }
        let names = Self::NAMES.iter().filter(|(_, flag)| self.0 & flag != 0).map(|(name, _)| *name);
        f.write_str(&names.collect::<Vec<_>>().join(","))
    }
}

/// Address families, one bit for each number.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Families(pub u64);

impl Families {
    /// Source: `linux/socket.h` of Linux 6.18.
    const NAMES: [(&'static str, u8); 37] = [
        ("unix", 1),
        ("local", 1),
        ("inet", 2),
        ("ax25", 3),
        ("ipx", 4),
        ("appletalk", 5),
        ("netrom", 6),
        ("bridge", 7),
        ("atmpvc", 8),
        ("x25", 9),
        ("inet6", 10),
        ("rose", 11),
        ("key", 15),
        ("netlink", 16),
        ("packet", 17),
        ("econet", 19),
        ("atmsvc", 20),
        ("rds", 21),
        ("irda", 23),
        ("pppox", 24),
        ("wanpipe", 25),
        ("llc", 26),
        ("ib", 27),
        ("mpls", 28),
        ("can", 29),
        ("tipc", 30),
        ("bluetooth", 31),
        ("rxrpc", 33),
        ("phonet", 35),
        ("ieee802154", 36),
        ("caif", 37),
        ("alg", 38),
        ("nfc", 39),
        ("vsock", 40),
        ("kcm", 41),
        ("qipcrtr", 42),
        ("xdp", 44),
    ];

    /// The family of that name: `AF_INET6`, or `inet6`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_prefix("af_").unwrap_or(&name);
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| Self(1 << number))
    }

    /// These families, by number.
    pub(super) fn numbers(self) -> impl Iterator<Item = u8> {
        (0..64u8).filter(move |number| self.0 & 1 << number != 0)
    }
}

impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("none");
        }
        if self.0.count_ones() > 32 {
            let without = Self(!self.0);
            let names = without.numbers().filter_map(name_of).collect::<Vec<_>>();
            return write!(f, "all but {}", names.join(","));
        }
        f.write_str(&self.numbers().filter_map(name_of).collect::<Vec<_>>().join(","))
    }
}

fn name_of(number: u8) -> Option<&'static str> {
    Families::NAMES.iter().find(|(_, known)| *known == number).map(|(name, _)| *name)
}

/// What is refused, in one line.
impl fmt::Display for CallFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.refused.is_empty() {
            parts.push(format!("{} calls", self.refused.count()));
        }
        if self.unknown_refused {
            parts.push("unknown calls".into());
        }
        if self.namespaces.flags() != 0 {
            parts.push(format!("namespaces {}", self.namespaces));
        }
        let words = [
            (self.realtime, "real-time scheduling"),
            (self.suid_sgid, "set-id files"),
            (self.personality, "personality"),
            (self.write_execute, "writable code"),
            (self.terminal, "typing for others"),
        ];
        parts.extend(words.iter().filter(|(on, _)| *on).map(|(_, word)| (*word).to_owned()));
        parts.push("other machines' calls".into());
        write!(f, "refused: {}", parts.join("; "))?;
        match self.families {
            Some(families) => write!(f, "; sockets only: {families}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stricter_of_two_refuses_what_either_does() {
        let one = CallFilter { realtime: true, families: Some(Families(0b110)), ..CallFilter::default() };
        let two = CallFilter {
            namespaces: NamespaceKinds::ALL,
            families: Some(Families(0b010)),
            refused: CallSet::of_words(["reboot"]).unwrap(),
            ..CallFilter::default()
        };
        let both = one.clone().joined(&two);
        assert_eq!(both, two.clone().joined(&one));
        assert!(both.realtime && both.namespaces == NamespaceKinds::ALL && both.refused == two.refused);
        assert_eq!(both.families, Some(Families(0b010)));
        assert_eq!(both.clone().joined(&both), both);
        assert_eq!(CallFilter::default().joined(&one), one);
    }

    #[test]
    fn kinds_and_families_have_the_kernels_numbers() {
        let all = NamespaceKinds::NAMES.iter().fold(0, |all, (_, flag)| all | flag);
        assert_eq!(NamespaceKinds::ALL.0, all);
        assert_eq!(NamespaceKinds::named("user").unwrap().0, nix::libc::CLONE_NEWUSER.cast_unsigned());
        assert_eq!(Families::named("AF_NETLINK"), Some(Families(1 << nix::libc::AF_NETLINK)));
        assert_eq!(Families::named("AF_XDP"), Some(Families(1 << nix::libc::AF_XDP)));
        assert_eq!(Families::named("sna"), None);
    }

    #[test]
    fn bytes_of_a_tenant_can_ask_for_nothing_that_is_no_refusal() {
        let filter: CallFilter = serde_json::from_str("{\"namespaces\":4294967295}").unwrap();
        assert_eq!(filter.namespaces.flags(), NamespaceKinds::ALL.0);
        assert!(filter.prepare().is_ok());
        assert!(serde_json::from_str::<CallFilter>("{\"allowed\":[]}").is_err());
        assert!(serde_json::from_str::<CallFilter>("{\"refused\":[0,0,0,0,0,0,0,0,1]}").is_err());
    }
}
