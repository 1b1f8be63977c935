//! The places in a command's words where its sockets are meant.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::SocketTerms;
use crate::config::lossy;
use crate::vassal::passing::FIRST_SOCKET;
use crate::vassal::plan::Text;
use crate::vassal::socket::Address;

/// Puts the numbers and addresses of sockets into words of a command, or into values of its environment:
/// `%(socket.N)` is the descriptor that the program finds it at, `%(socket.N.address)` where it listens,
/// `%(socket.N.host)` and `%(socket.N.port)` the two parts of that. N counts from 0, in the order of the file.
///
/// # Errors
/// A place that means nothing, with what is wanted.
pub fn place(words: &[Text], terms: &SocketTerms) -> Result<Vec<Text>, String> {
    words.iter().map(|word| placed(word, terms)).collect()
}

const PLACE: &[u8] = b"%(socket.";

fn placed(word: &Text, terms: &SocketTerms) -> Result<Text, String> {
    let mut rest = word.as_bytes();
    let mut out = Vec::new();
    while let Some(at) = rest.windows(PLACE.len()).position(|bytes| bytes == PLACE) {
        let inner = &rest[at + PLACE.len()..];
        let end = inner.iter().position(|byte| *byte == b')');
        let end = end.ok_or_else(|| format!("`{word}`: a `%(socket.` is not closed"))?;
        out.extend_from_slice(&rest[..at]);
        out.extend(meaning(&inner[..end], terms)?);
        rest = &inner[end + 1..];
    }
    if out.is_empty() && rest.len() == word.as_bytes().len() {
        return Ok(word.clone());
    }
    out.extend_from_slice(rest);
    Ok(Text::from(OsStr::from_bytes(&out)))
}

/// More sockets than this no program gets.
const MOST_NUMBER: usize = 4096;

fn descriptor(number: usize) -> Vec<u8> {
    let number = i32::try_from(number).unwrap_or(i32::MAX);
    FIRST_SOCKET.saturating_add(number).to_string().into_bytes()
}

fn meaning(inner: &[u8], terms: &SocketTerms) -> Result<Vec<u8>, String> {
    let shown = format!("`%(socket.{})`", lossy(inner));
    let text = std::str::from_utf8(inner).unwrap_or_default();
    let (number, part) = text.split_once('.').unwrap_or((text, ""));
    let own = terms.own();
    let count = own.len();
    let wanted = || format!("{shown}: the file names {count} sockets, and they are counted from 0");
    let number: usize = number.parse().map_err(|_| wanted())?;
    if part.is_empty() && number >= count && number < MOST_NUMBER && !terms.zerg.servers.is_empty() {
        return Ok(descriptor(number)); // one that a zerg server offers: they come behind its own
    }
    let socket = own.get(number).ok_or_else(wanted)?;
    let tcp = || match socket.address {
        Address::Tcp(address) => Ok(address),
        _ => Err(format!("{shown}: {} has no port", socket.address)),
    };
    Ok(match part {
        "" => descriptor(number),
        "address" => match &socket.address {
            Address::Tcp(address) => address.to_string().into_bytes(),
            Address::Path(path) => path.as_os_str().as_bytes().to_vec(),
            Address::Abstract(name) | Address::BareAbstract(name) => [b"@", name.as_slice()].concat(),
        },
        "host" => tcp()?.ip().to_string().into_bytes(),
        "port" => tcp()?.port().to_string().into_bytes(),
        _ => {
            return Err(format!("{shown}: `address`, `host`, `port` or nothing is wanted behind the number"));
        }
    })
}
