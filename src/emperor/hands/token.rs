//! What a descriptor in the hands' epoll is, in the 64 bits that the kernel keeps with it.

use crate::emperor::court::Key;

/// What a descriptor in the epoll is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Token {
    /// A vassal's link.
    Link(Key),
    /// A vassal's process.
    Process(Key),
    /// A vassal's on-demand socket.
    Waiting(Key),
    /// The socket at which a program notifies us.
    Notify(Key),
    /// A process beside the vassals, by its place among them.
    Side(usize),
    /// What a command prints that looks for an on-demand socket, by its place among them.
    Answer(usize),
    /// What the kernel tells of control groups.
    Groups,
    /// A vassal's config pipe, into which more fits.
    Config(Key),
    /// What the kernel tells of the files of sockets.
    Files,
    /// What the kernel tells of directories in which sockets cannot be made.
    Ways,
    /// Where sockets are offered, by its place among them.
    Door(usize),
}

impl Token {
    pub(super) fn to_bits(self) -> u64 {
        let (kind, bits) = match self {
            Self::Link(key) => (0, key.to_bits()),
            Self::Process(key) => (1, key.to_bits()),
            Self::Waiting(key) => (2, key.to_bits()),
            Self::Side(place) => (3, place as u64),
            Self::Answer(place) => (4, place as u64),
            Self::Groups => (5, 0),
            Self::Config(key) => (6, key.to_bits()),
            Self::Files => (5, 1),
            Self::Ways => (5, 2),
            Self::Door(place) => (5, 3 + place as u64),
            Self::Notify(key) => (7, key.to_bits()),
        };
        bits | kind << KIND_SHIFT
    }

    pub(super) fn from_bits(bits: u64) -> Self {
        let key = Key::from_bits(bits & !KIND_BITS);
        match (bits & KIND_BITS) >> KIND_SHIFT {
            0 => Self::Link(key),
            1 => Self::Process(key),
            2 => Self::Waiting(key),
            3 => Self::Side(key.index()),
            4 => Self::Answer(key.index()),
            5 if key.index() == 0 => Self::Groups,
            5 if key.index() == 1 => Self::Files,
            5 if key.index() == 2 => Self::Ways,
            5 => Self::Door(key.index() - 3),
            6 => Self::Config(key),
            _ => Self::Notify(key),
        }
    }
}

/// Three bits of a key's place, which no emperor has that many vassals to need, tell the kinds apart.
const KIND_BITS: u64 = 0b111 << KIND_SHIFT;
const KIND_SHIFT: u32 = 29;
