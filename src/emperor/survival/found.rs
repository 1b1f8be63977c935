//! What a service manager has passed of what it keeps for us, sorted.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{AcceptConn, SockType};

use super::heritage::end;
use super::state::{Estate, SocketEstate};
use super::store::{CONFIG, SOCKET, STATE, VASSAL};
use crate::emperor::hands::{DoorRecord, SocketRecord, socket_id as id};
use crate::sys::wait;

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) states: BTreeMap<u64, OwnedFd>,
    pub(super) bundles: BTreeMap<u64, Bundle>,
    /// By the kernel's numbers.
    pub(super) sockets: BTreeMap<u64, OwnedFd>,
}

/// What it keeps of one vassal.
#[derive(Debug, Default)]
pub(super) struct Bundle {
    pub(super) link: Option<OwnedFd>,
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) socket: Option<OwnedFd>,
    pub(super) config: Option<OwnedFd>,
    /// What is not sorted yet: its link, its sockets, and where it notifies us.
    sockets: Vec<OwnedFd>,
    pub(super) notify: Option<OwnedFd>,
    /// The sockets of its own.
    own: Vec<(usize, OwnedFd, SocketRecord)>,
    pub(super) doors: Vec<(DoorRecord, Vec<OwnedFd>)>,
    /// An earlier version has had sockets kept in it.
    pub(super) is_of_old: bool,
}

impl Found {
    pub(super) fn is_something(&self) -> bool {
        !self.states.is_empty() || !self.bundles.is_empty() || !self.sockets.is_empty()
    }

    pub(super) fn add(&mut self, name: &str, fd: OwnedFd) {
        let number = |prefix: &str| name.strip_prefix(prefix)?.parse().ok();
        if let Some(number) = number(STATE) {
            self.states.insert(number, fd);
        } else if let Some(number) = number(CONFIG) {
            self.bundles.entry(number).or_default().config = Some(fd);
        } else if number(SOCKET).is_some_and(|number| number == id(fd.as_fd())) {
            self.sockets.insert(id(fd.as_fd()), fd);
        } else if let Some(number) = number(VASSAL) {
            let bundle = self.bundles.entry(number).or_default();
            if wait::pid_of(fd.as_fd()).is_ok_and(|pid| pid.is_some()) {
                bundle.pidfd = Some(fd);
            } else {
                bundle.sockets.push(fd);
            }
        }
    }
}

impl Bundle {
    /// Finds its sockets by the kernel's numbers: what has become of such a socket says nothing, because the vassal had
    /// it in its hands.
    pub(super) fn by_id(&mut self, estate: &Estate, sockets: &mut BTreeMap<u64, OwnedFd>) {
        let (waiting, notify) = estate.socket_ids;
        (self.socket, self.notify) = (sockets.remove(&waiting), sockets.remove(&notify));
        for (place, SocketEstate { record, .. }) in estate.sockets.iter().enumerate() {
            self.own.extend(sockets.remove(&record.id).map(|fd| (place, fd, record.clone())));
        }
        self.doors.extend(estate.doors.iter().filter_map(|door| take_door(door, sockets)));
    }

    /// Tells apart what is in it. Of the sockets of its own the places are in the order of the records.
    pub(super) fn sort(
        &mut self,
        records: impl Iterator<Item = SocketRecord>,
    ) -> Vec<(usize, OwnedFd, SocketRecord)> {
        let mut own = std::mem::take(&mut self.own);
        for (at, record) in records.enumerate() {
            let place = self.sockets.iter().position(|socket| id(socket.as_fd()) == record.id);
            own.extend(place.map(|place| (at, self.sockets.swap_remove(place), record)));
            self.is_of_old |= place.is_some();
        }
        for fd in self.sockets.drain(..) {
            if getsockopt(&fd, AcceptConn) == Ok(true) {
                (self.socket, self.is_of_old) = (Some(fd), true);
            } else if getsockopt(&fd, SockType) == Ok(nix::sys::socket::SockType::Datagram) {
                (self.notify, self.is_of_old) = (Some(fd), true);
            } else {
                self.link = Some(fd);
            }
        }
        own
    }

    pub(super) fn end(self) {
        if let Some(pidfd) = self.pidfd {
            end(pidfd);
        }
    }
}

/// A door whose sockets are all there.
pub(super) fn take_door(
    door: &DoorRecord,
    sockets: &mut BTreeMap<u64, OwnedFd>,
) -> Option<(DoorRecord, Vec<OwnedFd>)> {
    let fds: Vec<_> = door.ids.iter().filter_map(|id| sockets.remove(id)).collect();
    (!fds.is_empty() && fds.len() == door.numbers.len()).then(|| (door.clone(), fds))
}

#[cfg(test)]
mod tests {
    use super::super::state::Header;
    use super::*;
    use std::net::TcpListener;

    fn socket() -> OwnedFd {
        TcpListener::bind("127.0.0.1:0").unwrap().into()
    }

    fn door(ids: &[u64]) -> DoorRecord {
        let numbers: Vec<_> = ids.iter().map(|_| serde_json::json!([-1, null])).collect();
        let door = serde_json::json!({
            "vassal": null,
            "door": {"at": {"abstract": [122]}, "sockets": [], "mode": 384, "owner": [null, null], "allowed": []},
            "tenant": null, "owner": null, "numbers": numbers, "ids": ids,
        });
        serde_json::from_value(door).unwrap()
    }

    #[test]
    fn a_socket_counts_only_under_its_own_number() {
        let mut found = Found::default();
        let (one, other) = (socket(), socket());
        let numbers = [&one, &other].map(|fd| id(fd.as_fd()));
        found.add(&format!("{SOCKET}{}", numbers[0]), one);
        for name in [format!("{SOCKET}{}", numbers[0]), format!("{SOCKET}x"), SOCKET.into()] {
            found.add(&name, other.try_clone().unwrap());
        }
        assert_eq!(found.sockets.keys().collect::<Vec<_>>(), [&numbers[0]]);
        assert!(found.is_something());
    }

    #[test]
    fn a_door_is_taken_with_all_its_sockets_or_not_at_all() {
        let all = || -> BTreeMap<u64, OwnedFd> {
            [socket(), socket()].into_iter().map(|fd| (id(fd.as_fd()), fd)).collect()
        };
        let mut sockets = all();
        let ids: Vec<u64> = sockets.keys().copied().collect();
        let (_, taken) = take_door(&door(&ids), &mut sockets).unwrap();
        assert_eq!(taken.iter().map(|fd| id(fd.as_fd())).collect::<Vec<_>>(), ids);
        assert!(sockets.is_empty());
        let mut sockets = all();
        let first = *sockets.keys().next().unwrap();
        assert!(take_door(&door(&[first, 1]), &mut sockets).is_none());
        assert!(take_door(&door(&[]), &mut sockets).is_none());
    }

    #[test]
    fn a_bundle_of_an_earlier_version_is_kept_anew() {
        let mut bundle = Bundle { sockets: vec![socket()], ..Bundle::default() };
        assert!(bundle.sort(std::iter::empty()).is_empty());
        assert!(bundle.is_of_old && bundle.socket.is_some());
        let fd = socket();
        let estate = Estate { socket_ids: (id(fd.as_fd()), 0), ..Estate::default() };
        let mut sockets = BTreeMap::from([(id(fd.as_fd()), fd)]);
        let mut bundle = Bundle::default();
        bundle.by_id(&estate, &mut sockets);
        bundle.sort(std::iter::empty());
        assert!(!bundle.is_of_old && bundle.socket.is_some() && sockets.is_empty());
        let header: Header = serde_json::from_str(r#"{"version":"0","sources":[],"tyrant":false}"#).unwrap();
        assert_eq!(header.offers.ids().count(), 0, "which knows nothing of offers");
    }
}
