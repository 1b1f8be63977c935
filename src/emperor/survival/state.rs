//! The state as text, and back.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::emperor::cgroup::GroupRecord;
use crate::emperor::court::Record;
use crate::emperor::edicts::Edicts;
use crate::emperor::hands::{ConfigRecord, DoorRecord, LifeRecord, SocketRecord};
use crate::emperor::story::HappeningRecord;
use crate::vassal::link::Reports;
use crate::vassal::plan::Text;
use crate::vassal::socket::FileRecord;

/// What is known of the empire. What a later version adds must have a default.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Header {
    /// The version of the program that wrote it.
    pub version: String,
    /// The sources, by their numbers.
    pub sources: Vec<SourceRecord>,
    /// How many reinforcements were ever started.
    #[serde(default)]
    pub zergs_ever: u32,
    /// Whether vassals were started as the owners of their files.
    pub tyrant: bool,
    /// The options that were in force; none if it was not known that somebody would ask.
    #[serde(default)]
    pub edicts: Option<Edicts>,
    /// The program that ran vassals.
    #[serde(default)]
    pub engine: Text,
    /// The name of the tree of their control groups.
    #[serde(default)]
    pub tree: String,
    /// What the process has made of itself; only for the program that takes its place.
    #[serde(default)]
    pub process: Option<ProcessRecord>,
    /// What the emperor itself offers to others, where the service manager keeps it.
    #[serde(default)]
    pub offers: OffersRecord,
}

/// The emperor's own doors and sockets. Their descriptors are found by the kernel's numbers of the sockets.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct OffersRecord {
    /// Where sockets are offered.
    pub doors: Vec<DoorRecord>,
    /// What is offered there.
    pub sockets: Vec<SocketRecord>,
}

impl OffersRecord {
    /// The kernel's numbers.
    pub fn ids(&self) -> impl Iterator<Item = u64> {
        let doors = self.doors.iter().flat_map(|door| door.ids.iter().copied());
        doors.chain(self.sockets.iter().map(|socket| socket.id))
    }
}

/// One `emperor` argument.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct SourceRecord {
    /// As it was given.
    pub given: Text,
    /// As it was understood: a directory's real path.
    pub shown: String,
}

/// What a process keeps of itself when another program takes its place.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ProcessRecord {
    /// The limit of descriptors that vassals get, soft and hard.
    pub descriptor_limit: Option<(u64, u64)>,
    /// The capabilities that were ambient.
    pub ambient: u64,
    /// Whether there are children beside the vassals.
    pub strays: bool,
    /// The files that hold its process id, open and locked.
    pub pid_files: Vec<PidFileRecord>,
    /// What the service manager keeps.
    #[serde(default)]
    pub store: Option<StoreRecord>,
    /// Where sockets are offered.
    #[serde(default)]
    pub doors: Vec<DoorRecord>,
    /// The emperor's own sockets, which are offered there.
    #[serde(default)]
    pub offered: Vec<SocketEstate>,
    /// How often another program has taken its place.
    #[serde(default)]
    pub reloads: u32,
    /// The sockets that the service manager has bound, with its names for them.
    #[serde(default)]
    pub sockets: Vec<(String, i32)>,
    /// What has happened to the vassals.
    #[serde(default)]
    pub story: Vec<HappeningRecord>,
}

/// What there is in the service manager's store, beside the vassals.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct StoreRecord {
    /// The number of the state that it keeps.
    pub generation: u64,
    /// The highest number that was given to a vassal.
    pub last: u64,
    /// The kernel's numbers of the sockets; none where they are kept with their vassals, as earlier versions did.
    #[serde(default)]
    pub sockets: Option<Vec<u64>>,
}

/// A locked pidfile.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PidFileRecord {
    /// Its path, for messages.
    pub path: Text,
    /// The number of its directory.
    pub directory: RawFd,
    /// Its own number.
    pub file: RawFd,
    /// Whether it is removed at the end.
    pub remove: bool,
}

/// One vassal: what the court knows of it, and which descriptors are its.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Survivor {
    /// What the court knows.
    pub record: Record,
    /// What the hands hold.
    pub estate: Estate,
}

/// What the hands hold for a vassal, by numbers.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Estate {
    /// Under which number the service manager keeps it; 0 if it does not.
    pub kept: u64,
    /// When its process started, in the kernel's unit; 0 if that was not asked.
    pub started: u64,
    /// Its link.
    pub link: Option<RawFd>,
    /// Its process.
    pub pidfd: Option<RawFd>,
    /// How far its launcher has come.
    pub reports: Option<Reports>,
    /// What was agreed with it, and where it notifies us.
    pub life: Option<LifeRecord>,
    /// Its on-demand socket.
    pub socket: Option<RawFd>,
    /// The address that was given for that.
    pub address: String,
    /// The socket's file.
    pub file: Option<FileRecord>,
    /// The kernel's number of that socket, and of the one where it notifies us; 0 if that was not asked.
    pub socket_ids: (u64, u64),
    /// The sockets of its own.
    pub sockets: Vec<SocketEstate>,
    /// Where it offers them; only where the service manager has the doors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub doors: Vec<DoorRecord>,
    /// Its control group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupRecord>,
    /// What the policy came down to when it started; none if it asked nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<u64>,
    /// Its config pipe.
    pub config: Option<RawFd>,
    /// How far that is.
    pub config_record: ConfigRecord,
    /// What its source supplies for it: the configuration, and the address of its socket. Only for the program that
    /// takes this one's place; after a crash the source is asked.
    pub supply: Option<(Text, Option<String>)>,
}

/// A socket that is held for a vassal.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SocketEstate {
    /// The descriptor; none where the service manager has it.
    #[serde(default)]
    pub number: Option<RawFd>,
    /// What is known of it.
    pub record: SocketRecord,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The empire.
    pub header: Header,
    /// The vassals.
    pub survivors: Vec<Survivor>,
}

/// A state that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// It cannot be read at all.
    #[error("it cannot be read")]
    Unreadable(#[from] io::Error),
    /// A line that is none.
    #[error("line {line} makes no sense")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Nothing is said of the empire.
    #[error("its beginning is missing")]
    NoHeader,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Line<H, S> {
    Empire(H),
    Vassal(S),
    /// The service manager's number of a vassal that is no more.
    Gone(u64),
}

impl State {
    /// The text. Of several lines about the vassal that the service manager keeps under one number the last counts.
    ///
    /// # Errors
    /// Never in practice: plain data into memory.
    pub fn to_text(&self) -> io::Result<Vec<u8>> {
        let mut text = Self::header_line(&self.header)?;
        for survivor in &self.survivors {
            text.extend(Self::survivor_line(survivor)?);
        }
        Ok(text)
    }

    /// The first line.
    ///
    /// # Errors
    /// As [`State::to_text`].
    pub fn header_line(header: &Header) -> io::Result<Vec<u8>> {
        line(&Line::<_, Survivor>::Empire(header))
    }

    /// A vassal's line.
    ///
    /// # Errors
    /// As [`State::to_text`].
    pub fn survivor_line(survivor: &Survivor) -> io::Result<Vec<u8>> {
        line(&Line::<Header, _>::Vassal(survivor))
    }

    /// The line that says that a vassal is no more.
    ///
    /// # Errors
    /// As [`State::to_text`].
    pub fn gone_line(kept: u64) -> io::Result<Vec<u8>> {
        line(&Line::<Header, Survivor>::Gone(kept))
    }

    /// Reads the text. A last line without an end was being written when its writer died, and does not count.
    ///
    /// # Errors
    /// [`Damage`].
    pub fn from_text(text: &[u8]) -> Result<Self, Damage> {
        let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let (mut header, mut survivors, mut kept) = (None, Vec::new(), BTreeMap::new());
        for (number, bytes) in text[..end].split(|byte| *byte == b'\n').enumerate() {
            if bytes.is_empty() {
                continue;
            }
            let line = serde_json::from_slice::<Line<Header, Survivor>>(bytes);
            match line.map_err(|source| Damage::Line { line: number + 1, source })? {
                Line::Empire(empire) => header = Some(empire),
                Line::Vassal(survivor) if survivor.estate.kept == 0 => survivors.push(survivor),
                Line::Vassal(survivor) => drop(kept.insert(survivor.estate.kept, survivor)),
                Line::Gone(number) => drop(kept.remove(&number)),
            }
        }
        survivors.extend(kept.into_values());
        // Reinforcements come behind what they reinforce.
        survivors.sort_by_key(|survivor| survivor.record.zerg.is_some());
        Ok(Self { header: header.ok_or(Damage::NoHeader)?, survivors })
    }

    /// The text in a memory file that nobody can change any more.
    ///
    /// # Errors
    /// Memory or descriptors are short.
    pub fn seal(&self) -> io::Result<OwnedFd> {
        let file = memory(&self.to_text()?)?;
        let seals =
            SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(file)
    }

    /// Reads it from a memory file, wherever that stands.
    ///
    /// # Errors
    /// [`Damage`].
    pub fn read(file: OwnedFd) -> Result<Self, Damage> {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::from(file);
        let length = usize::try_from(file.metadata()?.len());
        let mut text = vec![0; length.map_err(io::Error::other)?];
        file.read_exact_at(&mut text, 0)?;
        Self::from_text(&text)
    }
}

/// A memory file with this content.
pub(crate) fn memory(text: &[u8]) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = std::fs::File::from(memfd_create(c"emperor-state", flags)?);
    file.write_all(text)?;
    Ok(file.into())
}

fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}
