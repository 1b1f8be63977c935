//! What a user may bind without the emperor's help, and so with it.

use std::fs;

use super::{Address, Manner};

/// Ports from this one on are everybody's, where the kernel does not say otherwise. Source: ip(7).
const USUAL_FREE_PORT: u16 = 1024;
const FREE_PORT: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Ports below this are root's, on this machine: net.ipv4.ip_unprivileged_port_start.
#[must_use]
pub fn first_free_port() -> u16 {
    let told = fs::read_to_string(FREE_PORT).ok().and_then(|text| text.trim().parse::<u32>().ok());
    told.map_or(USUAL_FREE_PORT, |port| u16::try_from(port).unwrap_or(u16::MAX))
}

impl Address {
    /// Why a user who is not root may not have it bound for him: he could not do it himself, or it would give him what
    /// is another's. What files he may make is seen when it is made, with his rights.
    ///
    /// # Errors
    /// The reason, and what to do.
    pub fn permits_tenant(&self, manner: &Manner) -> Result<(), String> {
        if let Self::Tcp(tcp) = self {
            let free = first_free_port();
            if (1..free).contains(&tcp.port()) {
                return Err(format!("a tenant may not have a port below {free}; choose another"));
            }
        }
        if manner.reuse_port {
            let why = "reuse-port would let one tenant have the connections of another; take that line out";
            return Err(why.into());
        }
        Ok(())
    }
}
