//! What is to be offered, and to whom, as it is written: `zerg-pool = PATH:ADDRESS,ADDRESS…`, `zerg-allow`.

use super::wire::MOST_OFFERED;

/// A pool as it is written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pool {
    /// Where it is offered.
    pub at: Vec<u8>,
    /// The addresses whose sockets are in it, in order.
    pub sockets: Vec<Vec<u8>>,
}

/// Why a text is no pool.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadPool {
    /// No colon, or nothing before it.
    #[error(
        "`PATH:ADDRESS,ADDRESS…` is wanted: where the sockets are offered, a colon, and where they listen"
    )]
    Form,
    /// Too many.
    #[error("a pool holds {MOST_OFFERED} sockets at most")]
    TooMany,
    /// Once more.
    #[error("the address `{0}` is there twice")]
    Twice(String),
}

impl Pool {
    /// Reads it.
    ///
    /// # Errors
    /// [`BadPool`].
    pub fn parse(text: &[u8]) -> Result<Self, BadPool> {
        let colon = text.iter().position(|byte| *byte == b':').ok_or(BadPool::Form)?;
        let at = text[..colon].trim_ascii();
        let words = text[colon + 1..].split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        let sockets: Vec<_> = words.filter(|word| !word.is_empty()).map(<[u8]>::to_vec).collect();
        if at.is_empty() || sockets.is_empty() {
            return Err(BadPool::Form);
        }
        if sockets.len() > MOST_OFFERED {
            return Err(BadPool::TooMany);
        }
        let again = sockets.iter().enumerate().find(|(place, socket)| sockets[..*place].contains(socket));
        match again {
            Some((_, socket)) => Err(BadPool::Twice(String::from_utf8_lossy(socket).into_owned())),
            None => Ok(Self { at: at.to_vec(), sockets }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_a_path_and_addresses() {
        let pool = Pool::parse(b"/run/z.sock:127.0.0.1:3031, @x ,/run/a.sock,").unwrap();
        assert_eq!(pool.at, b"/run/z.sock");
        assert_eq!(pool.sockets, [&b"127.0.0.1:3031"[..], b"@x", b"/run/a.sock"]);
        for bad in [&b"/run/z.sock"[..], b":a", b"a:", b"a:,", b""] {
            assert_eq!(Pool::parse(bad), Err(BadPool::Form), "{bad:?}");
        }
        assert_eq!(Pool::parse(b"z:a,b,a"), Err(BadPool::Twice("a".into())));
        let many = (0..1013).map(|n| format!("s{n}")).collect::<Vec<_>>().join(",");
        assert_eq!(Pool::parse(format!("z:{many}").as_bytes()), Err(BadPool::TooMany));
    }
}
