//! Comma lists of the command line that become numbers for the kernel: capabilities and namespaces.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::CAPABILITIES;

/// `setpcap`, which uWSGI always leaves in the bounding set.
const SETPCAP: u8 = 8;
/// The kernel's sets have 64 bits.
const MAX_CAPABILITY: u8 = 63;

/// A set of capabilities.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Reads uWSGI's comma list of names (no `cap_` needed, any case) and numbers. The second value holds
    /// the words that are neither; uWSGI skips them with a log line.
    ///
    /// # Errors
    /// [`NoCapability`] when nothing is left.
    pub fn parse(list: &str) -> Result<(Self, Vec<String>), NoCapability> {
        let mut set = Self::default();
        let mut unknown = Vec::new();
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match capability_number(word) {
                Some(number) => set.0 |= 1 << number,
                None => unknown.push(word.to_owned()),
            }
        }
        if set.0 == 0 { Err(NoCapability(list.to_owned())) } else { Ok((set, unknown)) }
    }

    /// The set of these bits, as in `/proc/PID/status`.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// One bit for each capability.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The same and `setpcap`: what uWSGI's `emperor-cap` leaves in the bounding set.
    #[must_use]
    pub const fn with_setpcap(self) -> Self {
        Self(self.0 | 1 << SETPCAP)
    }

    /// What is in both.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in either.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in this and not in the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether the capability of that number is in the set.
    #[must_use]
    pub const fn holds(self, number: u8) -> bool {
        number <= MAX_CAPABILITY && self.0 & 1 << number != 0
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for number in (0..=MAX_CAPABILITY).filter(|number| self.holds(*number)) {
            match CAPABILITIES.get(usize::from(number)) {
                Some(name) => write!(f, "{comma}{name}")?,
                None => write!(f, "{comma}{number}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

fn capability_number(word: &str) -> Option<u8> {
    let lower = word.to_ascii_lowercase();
    let name = lower.strip_prefix("cap_").unwrap_or(&lower);
    let named = CAPABILITIES.iter().position(|known| *known == name);
    let number = named.and_then(|n| u8::try_from(n).ok()).or_else(|| word.parse().ok())?;
    (number <= MAX_CAPABILITY).then_some(number)
}

/// A list of capabilities that names none; uWSGI ends there too.
#[derive(Debug, thiserror::Error)]
#[error("no capability in {0:?}")]
pub struct NoCapability(String);

/// Fresh namespaces for a vassal.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Namespaces {
    /// System V and POSIX message queues of its own.
    pub ipc: bool,
    /// A network of its own: only a loopback device, and that down.
    pub net: bool,
    /// Process ids of its own. The spawner clones the launcher into it; the vassal is process 1 there.
    pub pid: bool,
    /// Mounts of its own. They follow the host's, and nothing comes back.
    pub mount: bool,
    /// A host name of its own.
    pub uts: bool,
    /// User ids of its own, each the same number as outside.
    pub user: bool,
}

impl Namespaces {
    /// Reads the words of `emperor-use-clone`. The second value holds `files`, `io`, `parent` and `sysvsem`
    /// where they were given: they share something with the emperor that ends with the exec, or take the
    /// vassal away from its supervision, and have no effect.
    ///
    /// # Errors
    /// [`UnknownNamespace`] names the first word that is none of uWSGI's.
    pub fn parse(list: &str) -> Result<(Self, Vec<&'static str>), UnknownNamespace> {
        let mut set = Self::default();
        let mut ignored = Vec::new();
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "ipc" => set.ipc = true,
                "net" => set.net = true,
                "pid" => set.pid = true,
                "ns" | "fs" | "mount" | "mnt" => set.mount = true,
                "uts" => set.uts = true,
                "user" => set.user = true,
                "files" => ignored.push("files"),
                "io" => ignored.push("io"),
                "parent" => ignored.push("parent"),
                "sysvsem" => ignored.push("sysvsem"),
                _ => return Err(UnknownNamespace(word.to_owned())),
            }
        }
        Ok((set, ignored))
    }

    /// Those of either.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            ipc: self.ipc || other.ipc,
            net: self.net || other.net,
            pid: self.pid || other.pid,
            mount: self.mount || other.mount,
            uts: self.uts || other.uts,
            user: self.user || other.user,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (self.ipc, "ipc"),
            (self.net, "net"),
            (self.pid, "pid"),
            (self.mount, "mount"),
            (self.uts, "uts"),
            (self.user, "user"),
        ];
        let given: Vec<&str> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        f.write_str(&given.join(","))
    }
}

/// A word of `emperor-use-clone` that names no namespace; uWSGI ends there too.
#[derive(Debug, thiserror::Error)]
#[error("unknown namespace {0:?} (known: ipc, net, pid, mount, uts, user)")]
pub struct UnknownNamespace(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parity_emperor_cap_of_the_specification_gives_its_bits() {
        // spec: `setuid,net_bind_service,13` leaves 0x2580 in the bounding set.
        let (set, unknown) = Capabilities::parse("setuid,net_bind_service,13").unwrap();
        assert_eq!(set.with_setpcap().bits(), 0x2580);
        assert!(unknown.is_empty());
        assert_eq!(set.to_string(), "setuid,net_bind_service,net_raw");
    }

    #[test]
    fn unknown_capabilities_are_told_and_none_at_all_is_an_error() {
        let (set, unknown) = Capabilities::parse("CAP_KILL, sys_magic,64,-1").unwrap();
        assert_eq!((set.bits(), unknown), (1 << 5, vec!["sys_magic".into(), "64".into(), "-1".into()]));
        assert!(Capabilities::parse("sys_magic").is_err());
        assert!(Capabilities::parse(" , ").is_err());
    }

    #[test]
    fn namespace_words_have_their_aliases_and_unknown_ones_are_named() {
        let (set, ignored) = Namespaces::parse("fs,pid, uts,files,parent").unwrap();
        assert_eq!(set, Namespaces { mount: true, pid: true, uts: true, ..Namespaces::default() });
        assert_eq!(ignored, ["files", "parent"]);
        assert!(Namespaces::parse("pid,cgroop").unwrap_err().to_string().contains("cgroop"));
    }
}
