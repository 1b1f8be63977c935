//! What a file's sockets would meet: a directory that is not there, a file in the way, another file that names them.
//!
//! Nothing is bound, and nobody is asked who serves an address now: that may well be this very vassal.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat, geteuid};

use super::Seen;
use crate::config::check::{Checked, Problem, Severity};
use crate::config::options::Kind;
use crate::config::{Origin, lossy};
use crate::sys::fs_identity::acting_for;
use crate::vassal::socket::{Address, BadAddress, first_free_port};

/// A socket that a file names.
pub(super) struct Named {
    address: Address,
    text: String,
    origin: Origin,
}

/// The sockets of one file, and what is wrong with them as things are now.
pub(super) fn look(checked: &mut Checked, directory: &Path, owner: Option<(u32, u32)>) -> Vec<Named> {
    let mut named = Vec::new();
    let mut problems = Vec::new();
    let is_ours = checked.config.string("command").is_some();
    let binds = |kind| matches!(kind, Kind::Socket | Kind::SharedSocket);
    for (option, pair) in checked.config.applied().filter(|(option, _)| binds(option.kind)) {
        let value = pair.value().unwrap_or_default().trim_ascii();
        let elsewhere: [&[u8]; 3] = [b"=", b"fd://", b"\\0"];
        if value.is_empty() || elsewhere.iter().any(|start| value.starts_with(start)) {
            continue;
        }
        let (origin, text) = (pair.origin().clone(), format!("{} = {}", option.name, lossy(value)));
        let mut wrong = |message: String, remedy: &str| {
            let (severity, remedy, origin) = (Severity::Warning, Some(remedy.into()), origin.clone());
            problems.push(Problem { severity, origin, message, remedy });
        };
        match Address::parse(value, directory) {
            Ok(address) => {
                if let Some((message, remedy)) = obstacle(&address, owner) {
                    wrong(format!("{text}: {message}"), &remedy);
                }
                named.push(Named { address, text, origin });
            }
            // Refused with these words, if it is ours; uWSGI binds another one without a word.
            Err(bad @ (BadAddress::Port(_) | BadAddress::Bare6(..) | BadAddress::Bad6(_))) if !is_ours => {
                wrong(format!("{text}: {bad}"), "uWSGI would bind another address, or end");
            }
            Err(_) => {}
        }
    }
    checked.problems.extend(problems);
    named
}

/// What is in the way of a socket, and what helps.
fn obstacle(address: &Address, owner: Option<(u32, u32)>) -> Option<(String, String)> {
    let path = match address {
        Address::Path(path) => path,
        Address::Tcp(tcp) => {
            let free = first_free_port();
            let is_closed = owner.is_some_and(|(uid, _)| uid != 0) && (1..free).contains(&tcp.port());
            let message = format!("a port below {free} is root's, and the vassal runs as somebody else");
            return is_closed.then_some((message, "choose another port".into()));
        }
        Address::Abstract(_) | Address::BareAbstract(_) => return None,
    };
    let directory = path.parent()?;
    let shown = directory.display();
    match fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Some((format!("its directory {shown} is not there"), format!("mkdir {shown}")));
        }
        Ok(there) if !there.is_dir() => {
            return Some((format!("{shown} is no directory"), "name another path".into()));
        }
        _ => {}
    }
    let in_the_way = fs::symlink_metadata(path).is_ok_and(|there| !there.file_type().is_socket());
    if in_the_way {
        return Some((
            "a file that is no socket is in the way".into(),
            "remove that file, or name another path".into(),
        ));
    }
    // Without root there is no telling what somebody else may do.
    let (uid, gid) = owner.filter(|_| geteuid().is_root())?;
    let wanted = AccessFlags::W_OK | AccessFlags::X_OK;
    let may = || faccessat(AT_FDCWD, directory, wanted, AtFlags::AT_EACCESS).map_err(io::Error::from);
    let error = acting_for(Some((uid, gid)), may).err()?;
    Some((
        format!("user {uid} may not make it in {shown}: {error}"),
        "see who may enter and write that directory, or name another path".into(),
    ))
}

/// Says of each address that two of the files name, in both.
pub(super) fn compare(all: &mut [Seen]) {
    let mut found = Vec::new();
    for (one, seen) in all.iter().enumerate() {
        for (_, theirs) in all.iter().enumerate().filter(|(other, _)| *other != one) {
            for own in &seen.sockets {
                let Some(their) = theirs.sockets.iter().find(|their| their.address.meets(&own.address))
                else {
                    continue;
                };
                let message =
                    format!("{}: {} names it as well ({})", own.text, theirs.file.display(), their.origin);
                let remedy = Some("only one of them can have it: choose another address in the other".into());
                let (severity, origin) = (Severity::Warning, own.origin.clone());
                found.push((one, Problem { severity, origin, message, remedy }));
            }
        }
    }
    for (one, problem) in found {
        all[one].checked.problems.push(problem);
    }
}
