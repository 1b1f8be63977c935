//! The emperor protocol: single bytes, both ways, over the socket whose number is in `UWSGI_EMPEROR_FD`.
//!
//! Both ends meet here: the emperor's hands and the launcher, and every engine that speaks the protocol.
//! Source: measured behaviour of uWSGI 2.0.21.

/// Environment variable that tells a vassal the number of its emperor descriptor.
pub const FD_VARIABLE: &str = "UWSGI_EMPEROR_FD";
/// Environment variable that tells a vassal the number of the descriptor its configuration comes from.
pub const CONFIG_FD_VARIABLE: &str = "UWSGI_EMPEROR_FD_CONFIG";
/// Descriptor number at which every vassal finds its link.
pub const LINK_FD: i32 = 3;
/// Descriptor number at which a launcher finds its sealed plan.
pub const PLAN_FD: i32 = 4;
/// Descriptor number at which a vassal finds its config pipe, where its source supplies the text.
pub const CONFIG_FD: i32 = 5;

/// What the emperor says to a vassal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Order {
    /// End at once.
    Stop = 0,
    /// Read the configuration again, in place, with the same process id and sockets.
    Reload = 1,
    /// End when the running requests are answered.
    StopGracefully = 2,
}

/// What a vassal says to the emperor. Other bytes are ignored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Word {
    /// 1: configured, and its applications are loaded. Once, never again after a reload.
    Spawned,
    /// 2: wants its configuration again on the config pipe.
    ConfigWanted,
    /// 5: accepts requests; again after each reload.
    Accepting,
    /// 17: has answered its first request.
    Loyal,
    /// 22: idle, asks to be stopped.
    Idle,
    /// 26: alive.
    Heartbeat,
    /// 30: overloaded, asks for reinforcement.
    Sos,
}

impl Word {
    /// The word of a byte; `None` for a byte without meaning.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Spawned,
            2 => Self::ConfigWanted,
            5 => Self::Accepting,
            17 => Self::Loyal,
            22 => Self::Idle,
            26 => Self::Heartbeat,
            30 => Self::Sos,
            _ => return None,
        })
    }
}
