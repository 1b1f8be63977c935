//! How listening sockets get from the emperor to a program: as data in a plan.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::text::Text;

/// The descriptor of a program's first socket. Source: sd_listen_fds(3).
pub const FIRST_SOCKET: i32 = 3;

/// Sockets that a program finds at the descriptors 3, 4, … in this order. Its link comes behind them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Passing {
    /// Under which numbers the launcher has them.
    pub numbers: Vec<i32>,
    /// Their names for the program, `LISTEN_FDNAMES`.
    pub names: Vec<String>,
    /// Their addresses, for people.
    pub addresses: Vec<String>,
    /// Paths of those that are files: a view has them where they are, for a program that looks for its own.
    #[serde(skip)]
    pub files: Vec<Text>,
    /// Which of them is standard input as well.
    pub stdin: Option<usize>,
    /// Whether nothing is said of them in the environment (`listen-fds = no`).
    pub silent: bool,
    /// Servers whose sockets come behind these: `zerg`.
    #[serde(default)]
    pub zerg: Vec<Text>,
    /// Whether it goes on without a server that offers nothing.
    #[serde(default)]
    pub zerg_fallback: bool,
}

impl Passing {
    /// How each is called in a message.
    pub(super) fn described(&self) -> impl Iterator<Item = String> {
        self.names.iter().zip(&self.addresses).map(|(name, address)| format!("{name} {address}"))
    }
}

impl fmt::Display for Passing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (number, (name, address)) in (FIRST_SOCKET..).zip(self.names.iter().zip(&self.addresses)) {
            let comma = if std::mem::take(&mut first) { "" } else { ", " };
            write!(f, "{comma}{number} is {name} {address}")?;
        }
        if let Some(stdin) = self.stdin {
            write!(f, ", standard input is socket {stdin}")?;
        }
        for server in &self.zerg {
            let comma = if std::mem::take(&mut first) { "" } else { ", " };
            write!(f, "{comma}then those of zerg server {server}")?;
            f.write_str(if self.zerg_fallback { ", if it has any" } else { "" })?;
        }
        f.write_str(if self.silent { ", no LISTEN_FDS" } else { "" })
    }
}
