//! The zerg of a vassal that is not uWSGI: whose sockets it takes, and to whom its own are offered.
//!
//! It takes them itself, in its launcher and as its own user, at each of its starts. What it offers is held by the
//! emperor, which hands it out.

use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use super::sockets::{Names, address, owner};
use super::{Asked, TermsError};
use crate::config::Got;
use crate::vassal::plan::Text;
use crate::vassal::socket::Address;
use crate::zerg::pool::Pool;

/// What a file says of its zerg. The default is nothing.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "Unchecked")]
pub struct ZergTerms {
    /// `zerg`: the servers whose sockets it takes.
    pub servers: Vec<Text>,
    /// `zerg-fallback`: whether it goes on without a server that offers nothing.
    pub fallback: bool,
    /// `zerg-server`, `zerg-pool`: where sockets are offered.
    pub doors: Vec<Door>,
}

/// Where sockets are offered.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Door {
    /// Its own address: a path or a name without a file.
    pub at: Address,
    /// The addresses of those that are offered; all that the program has if there are none.
    pub sockets: Vec<Address>,
    /// The mode of its file.
    pub mode: u32,
    /// Who gets its file.
    pub owner: (Option<u32>, Option<u32>),
    /// Users that may have the sockets, beside root, the emperor's user and the vassal's.
    pub allowed: Vec<u32>,
}

/// As they come from a process that has read them as a tenant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    servers: Vec<Text>,
    fallback: bool,
    doors: Vec<Door>,
}

/// Options that are honoured here.
pub const HONOURED: &[&str] = &["zerg", "zerg-fallback", "zerg-server", "zergpool"];

/// Most servers, and most doors.
const MOST: usize = 16;
/// Most users in `zerg-allow`.
const MOST_USERS: usize = 1024;
/// The mode of a door where only those come in that may read its file anyway, and where others are allowed by name.
const MODES: [u32; 2] = [0o600, 0o666];
/// Longest address of a server or of a door, bytes. Source: `sun_path` of unix(7).
const MOST_ADDRESS: usize = 106;

impl ZergTerms {
    /// Reads them, and the addresses that are to be offered and of which only the pools speak.
    ///
    /// # Errors
    /// [`TermsError`].
    pub fn read(asked: Asked<'_>, names: &dyn Names) -> Result<Self, TermsError> {
        let mut terms = Self { fallback: asked.flag("zerg-fallback").unwrap_or(false), ..Self::default() };
        for got in asked.0.list("zerg") {
            terms.servers.push(server(&got).map_err(|cause| TermsError::new(&got, "zerg", cause))?);
        }
        terms.doors = doors(asked, names)?;
        if terms.servers.len() > MOST {
            let last = asked.0.list("zerg").last();
            let cause = format!("a vassal may have {MOST} servers");
            return last.map_or(Ok(terms), |got| Err(TermsError::new(&got, "zerg", cause)));
        }
        Ok(terms)
    }

    /// The addresses that pools offer, in the order of the file.
    pub fn pooled(&self) -> impl Iterator<Item = &Address> {
        self.doors.iter().flat_map(|door| &door.sockets)
    }
}

/// `zerg-server` and `zerg-pool` with `zerg-chmod`, `zerg-chown` and `zerg-allow`, of a vassal's file or of the emperor's.
///
/// # Errors
/// [`TermsError`].
pub fn doors(asked: Asked<'_>, names: &dyn Names) -> Result<Vec<Door>, TermsError> {
    let allowed = users(asked, names)?;
    let mode = asked.parsed("zerg-chmod", mode)?.unwrap_or(MODES[usize::from(!allowed.is_empty())]);
    let owner = asked.parsed("zerg-chown", |text| owner(text, names))?.unwrap_or_default();
    let door = |at: &[u8], sockets: Vec<Address>| -> Result<Door, String> {
        if at.len() > MOST_ADDRESS {
            return Err(format!(
                "a unix socket's address has {MOST_ADDRESS} bytes at most; choose a shorter one"
            ));
        }
        let at = address(at, false, names)?;
        match at {
            Address::Tcp(_) => Err("sockets are offered at a unix socket only: a path, or @name".into()),
            at => Ok(Door { at, sockets, mode, owner, allowed: allowed.clone() }),
        }
    };
    let mut doors = Vec::new();
    if let Some(got) = asked.value("zerg-server") {
        let door = door(got.value.trim_ascii(), Vec::new());
        doors.push(door.map_err(|cause| TermsError::new(&got, "zerg-server", cause))?);
    }
    for got in asked.0.list("zergpool") {
        let wrong = |cause: String| TermsError::new(&got, "zerg-pool", cause);
        let pool = Pool::parse(got.value).map_err(|bad| wrong(bad.to_string()))?;
        let sockets = pool.sockets.iter().map(|text| address(text, false, names));
        let sockets = sockets.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        doors.push(door(&pool.at, sockets).map_err(wrong)?);
        if doors.len() > MOST {
            return Err(wrong(format!("there may be {MOST} of them")));
        }
        let again = doors.iter().filter(|other| doors.last().is_some_and(|last| other.at == last.at)).count();
        if again > 1 {
            return Err(wrong("two pools cannot be offered at the same address".into()));
        }
    }
    Ok(doors)
}

fn server(got: &Got<'_, &[u8]>) -> Result<Text, String> {
    let text = got.value.trim_ascii();
    if text.is_empty() || text.len() > MOST_ADDRESS || text.contains(&0) {
        return Err(format!("a path, or @name, of 1 to {MOST_ADDRESS} bytes is wanted"));
    }
    if text.contains(&b':') && !text.starts_with(b"/") && !text.starts_with(b"@") {
        return Err("descriptors come through a unix socket only: a path, or @name".into());
    }
    Ok(Text::from(std::ffi::OsStr::from_bytes(text)))
}

/// Names and numbers of users, separated by commas or blanks.
fn users(asked: Asked<'_>, names: &dyn Names) -> Result<Vec<u32>, TermsError> {
    let mut users = Vec::new();
    for got in asked.words("zerg-allow") {
        let wrong = |cause: String| TermsError::new(&got, "zerg-allow", cause);
        let text = std::str::from_utf8(got.value).map_err(|_| wrong("the value is not UTF-8".into()))?;
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let user = word.parse().ok().or_else(|| names.user(word));
            users.push(user.ok_or_else(|| wrong(format!("there is no user `{word}`")))?);
        }
        if users.len() > MOST_USERS {
            return Err(wrong(format!("there may be {MOST_USERS} users")));
        }
    }
    users.sort_unstable();
    users.dedup();
    Ok(users)
}

fn mode(text: &str) -> Result<u32, &'static str> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or("a mode like 660 is wanted")
}

impl TryFrom<Unchecked> for ZergTerms {
    type Error = String;

    fn try_from(unchecked: Unchecked) -> Result<Self, String> {
        let Unchecked { servers, fallback, doors } = unchecked;
        let is_address = |bytes: &[u8]| (1..=MOST_ADDRESS).contains(&bytes.len()) && !bytes.contains(&0);
        let is_door = |door: &Door| {
            let at = match &door.at {
                Address::Tcp(_) => false,
                Address::Path(path) => is_address(path.as_os_str().as_bytes()),
                Address::Abstract(name) | Address::BareAbstract(name) => is_address(name),
            };
            at && door.mode <= 0o777
                && door.allowed.len() <= MOST_USERS
                && door.sockets.len() <= super::sockets::MOST_SOCKETS
        };
        let good = servers.len() <= MOST
            && servers.iter().all(|server| is_address(server.as_bytes()))
            && doors.len() <= MOST
            && doors.iter().all(is_door);
        if good { Ok(Self { servers, fallback, doors }) } else { Err("a zerg that cannot be".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sockets::SystemNames;
    use super::super::tests::config;
    use super::*;

    fn read(lines: &str) -> Result<ZergTerms, String> {
        ZergTerms::read(Asked(&config(lines)), &SystemNames).map_err(|error| error.to_string())
    }

    #[test]
    fn servers_and_doors_are_read_and_come_through_json_as_they_were() {
        let lines = "zerg = /run/z.sock\nzerg = @z\nzerg-fallback = true\nzerg-server = @all\n\
                     zerg-pool = /run/p.sock:127.0.0.1:80,a.sock\nzerg-allow = 1001,root\nzerg-chmod = 660\n";
        let terms = read(lines).unwrap();
        assert_eq!((terms.servers.len(), terms.fallback, terms.doors.len()), (2, true, 2));
        let [all, pool] = &terms.doors[..] else { panic!() };
        assert_eq!((&all.at, all.sockets.len()), (&Address::Abstract(b"all".to_vec()), 0));
        assert_eq!((&pool.allowed[..], pool.mode, pool.sockets.len()), (&[0, 1001][..], 0o660, 2));
        let text = serde_json::to_vec(&terms).unwrap();
        assert_eq!(serde_json::from_slice::<ZergTerms>(&text).unwrap(), terms);
        assert_eq!(read("zerg-server = a\n").unwrap().doors[0].mode, 0o600);
        assert_eq!(read("zerg-server = a\nzerg-allow = 5\n").unwrap().doors[0].mode, 0o666);
        assert_eq!(read("master = true\n").unwrap(), ZergTerms::default());
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_place() {
        for (line, words) in [
            ("zerg = 127.0.0.1:80", "unix socket only"),
            ("zerg-server = 127.0.0.1:80", "unix socket only"),
            ("zerg-pool = /run/p.sock", "`PATH:ADDRESS,ADDRESS…` is wanted"),
            ("zerg-pool = p:a,a", "twice"),
            ("zerg-pool = p:a\nzerg-pool = p:b", "same address"),
            ("zerg-server = a\nzerg-allow = nobody-of-that-name", "there is no user"),
            ("zerg-server = a\nzerg-chmod = 999", "a mode like 660"),
        ] {
            let told = read(&format!("{line}\n")).unwrap_err();
            assert!(told.contains("a.ini:") && told.contains(words), "{line}: {told}");
        }
        let long = format!("zerg = /{}\n", "x".repeat(200));
        assert!(read(&long).unwrap_err().contains("106 bytes"));
        let door =
            r#"{"at":{"tcp":"127.0.0.1:80"},"sockets":[],"mode":384,"owner":[null,null],"allowed":[]}"#;
        let text = format!(r#"{{"servers":[],"fallback":false,"doors":[{door}]}}"#);
        assert!(serde_json::from_str::<ZergTerms>(&text).is_err());
    }
}
