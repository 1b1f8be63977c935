//! What is offered as data, and going on with what another program has offered.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use serde::{Deserialize, Serialize};
use tracing::error;

use super::{Door, Open, Own, manner};
use crate::emperor::court::{Court, Key};
use crate::emperor::hands::Hands;
use crate::emperor::hands::on_demand::Owner;
use crate::emperor::hands::sockets::{SocketRecord, id};
use crate::emperor::source::VassalName;
use crate::emperor::survival::OffersRecord;
use crate::vassal::plan::Text;
use crate::vassal::socket::{Address, FileRecord, Listener, Restored, SocketFile};

/// A door as data, for the program that goes on with it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DoorRecord {
    vassal: Option<Text>,
    door: Door,
    tenant: Option<Owner>,
    owner: Option<u32>,
    /// Its listening sockets, by their numbers, with their files. Where the service manager has them the numbers say
    /// nothing.
    pub numbers: Vec<(RawFd, Option<FileRecord>)>,
    /// The same by the kernel's numbers.
    #[serde(default)]
    pub ids: Vec<u64>,
}

/// What a program before this one has held open.
#[derive(Debug, Default)]
pub struct OffersLeft {
    /// Doors, with their listening sockets.
    pub doors: Vec<(DoorRecord, Vec<OwnedFd>)>,
    /// The emperor's own sockets.
    pub sockets: Vec<(OwnedFd, SocketRecord)>,
}

/// The number of a descriptor that has none here.
const NOWHERE: RawFd = -1;

impl DoorRecord {
    /// The vassal whose door it is; none for the emperor's own.
    #[must_use]
    pub fn vassal(&self) -> Option<VassalName> {
        self.vassal.as_ref().map(|name| VassalName::new(name.as_bytes()))
    }

    /// Nobody goes on with it: its file goes.
    pub fn forsake(&self) {
        self.numbers.iter().filter_map(|(_, file)| file.as_ref()).map(SocketFile::of_record).for_each(drop);
    }

    /// Whether it is one of the emperor's own, at the place of this one.
    pub(super) fn is_own(&self, door: &Door) -> bool {
        self.vassal.is_none() && self.door.at == door.at
    }
}

/// A socket that was held before.
pub(super) fn listener((socket, record): (OwnedFd, SocketRecord)) -> Listener {
    Listener { file: record.file.as_ref().map(SocketFile::of_record), socket }
}

impl Hands {
    /// What is offered, as data, for the program that goes on with it.
    #[must_use]
    pub fn offers(&self, court: &Court) -> (Vec<DoorRecord>, Vec<(BorrowedFd<'_>, SocketRecord)>) {
        let doors = self.offers.doors.iter().flatten().filter_map(|open| open.record(court, true));
        let sockets = self.offers.sockets.iter().map(|own| (own.listener.socket.as_fd(), own.record()));
        (doors.collect(), sockets.collect())
    }

    /// The emperor's own doors and sockets, for the service manager.
    #[must_use]
    pub fn own_offers(&self) -> (OffersRecord, Vec<BorrowedFd<'_>>) {
        let own = self.offers.doors.iter().flatten().filter(|open| open.of.is_none());
        let record = OffersRecord {
            doors: own.map(|open| open.data(None, false)).collect(),
            sockets: self.offers.sockets.iter().map(Own::record).collect(),
        };
        let sockets = self.offers.sockets.iter().map(|own| own.listener.socket.as_fd());
        (record, self.door_fds(None).chain(sockets).collect())
    }

    /// The doors of a vassal, for the service manager.
    #[must_use]
    pub fn door_records(&self, key: Key, court: &Court) -> Vec<DoorRecord> {
        let of_it = self.offers.doors.iter().flatten().filter(|open| open.of == Some(key));
        of_it.filter_map(|open| open.record(court, false)).collect()
    }

    /// The listening sockets of the doors of a vassal, or of the emperor's own.
    pub(in crate::emperor::hands) fn door_fds(
        &self,
        of: Option<Key>,
    ) -> impl Iterator<Item = BorrowedFd<'_>> {
        let of_it = self.offers.doors.iter().flatten().filter(move |open| open.of == of);
        of_it.flat_map(|open| &open.listeners).map(|listener| listener.socket.as_fd())
    }

    /// Goes on with a vassal's door.
    pub(in crate::emperor::hands) fn reopen_door(&mut self, key: Key, record: DoorRecord, fds: Vec<OwnedFd>) {
        let door = record.door.clone();
        let at = door.at.to_string();
        if let Err(cause) = self.reopen(Some(key), door, record, fds) {
            error!("[emperor] the zerg server at {at} is lost until its vassal starts again: {cause}");
        }
    }

    /// Goes on with a door if its sockets are still good, else opens it anew.
    pub(super) fn reopen(
        &mut self,
        of: Option<Key>,
        door: Door,
        record: DoorRecord,
        fds: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let DoorRecord { tenant, owner, numbers, .. } = record;
        let files = numbers.into_iter().map(|(_, file)| file);
        let listeners: Vec<_> = fds
            .into_iter()
            .zip(files)
            .map(|(socket, file)| Listener { file: file.as_ref().map(SocketFile::of_record), socket })
            .collect();
        if is_good(&door, &listeners) {
            self.watch_door(of, door, tenant, owner, listeners)
        } else {
            drop(listeners);
            self.open(of, &door, tenant, owner)
        }
    }
}

/// Whether these are a door's sockets, and clients find them.
fn is_good(door: &Door, listeners: &[Listener]) -> bool {
    let mut addresses = vec![door.at.clone()];
    if let Address::Abstract(name) = &door.at {
        addresses.push(Address::BareAbstract(name.clone()));
    }
    let found = |listener: &Listener| match listener.file.as_ref().map(SocketFile::restore) {
        None | Some(Ok(Restored::WasThere | Restored::IsBack)) => true,
        Some(Ok(Restored::Lost) | Err(_)) => false,
    };
    addresses.len() == listeners.len()
        && listeners.iter().zip(&addresses).all(|(listener, address)| {
            listener.is_at(address) && found(listener) && listener.tune(&manner(door)).is_ok()
        })
}

impl Open {
    fn record(&self, court: &Court, numbered: bool) -> Option<DoorRecord> {
        let vassal = match self.of {
            Some(key) => Some(Text::from(court.get(key)?.name.as_path().as_os_str())),
            None => None,
        };
        Some(self.data(vassal, numbered))
    }

    fn data(&self, vassal: Option<Text>, numbered: bool) -> DoorRecord {
        let number = |listener: &Listener| if numbered { listener.socket.as_raw_fd() } else { NOWHERE };
        let file = |listener: &Listener| listener.file.as_ref().map(SocketFile::record);
        DoorRecord {
            vassal,
            door: self.door.clone(),
            tenant: self.tenant,
            owner: self.owner,
            numbers: self.listeners.iter().map(|it| (number(it), file(it))).collect(),
            ids: self.listeners.iter().map(|it| id(it.socket.as_fd())).collect(),
        }
    }
}

impl Own {
    fn record(&self) -> SocketRecord {
        SocketRecord {
            term: self.term.clone(),
            tenant: None,
            file: self.listener.file.as_ref().map(SocketFile::record),
            id: id(self.listener.socket.as_fd()),
        }
    }
}
