//! The files of what is offered, when somebody has removed or replaced them.

use tracing::{error, info, warn};

use super::{OffersLeft, Own, bind, remedy};
use crate::emperor::court::Key;
use crate::emperor::hands::Hands;
use crate::vassal::socket::{Restored, SocketFile};

impl Hands {
    /// Puts the files of the emperor's own sockets back, makes doors anew that nobody finds any more, and tries once
    /// more what could not be had. Gives the vassals whose doors are new ones now.
    pub(in crate::emperor::hands) fn look_after_offers(&mut self) -> Vec<Key> {
        self.offers.sockets.iter_mut().for_each(Own::mend);
        let lost = |file: &SocketFile| !file.is_there();
        let is_lost = |place: &usize| {
            let open = self.offers.doors.get(*place).and_then(Option::as_ref);
            open.is_some_and(|open| open.listeners.iter().filter_map(|it| it.file.as_ref()).any(lost))
        };
        let lost: Vec<_> = (0..self.offers.doors.len()).filter(is_lost).collect();
        let mended = lost.into_iter().filter_map(|place| self.mend_door(place)).collect();
        if let Some((directory, told)) = self.offers.lacking.take() {
            match self.offer_own(&directory, OffersLeft::default()) {
                Ok(()) => info!("[emperor] all that zerg-server and zerg-pool name is offered now"),
                Err(error) if error.to_string() != told => error!("[emperor] {error}"),
                Err(_) => {}
            }
        }
        mended
    }

    /// Makes a door anew. Those who wait at the old one are served before.
    fn mend_door(&mut self, place: usize) -> Option<Key> {
        self.answer_door(place);
        let open = self.offers.doors.get_mut(place)?.as_mut()?;
        match bind(&open.door, open.tenant) {
            Ok(listeners) => {
                let (of, door, tenant, owner) = (open.of, open.door.clone(), open.tenant, open.owner);
                warn!(
                    "[emperor] the file of the zerg server {} was gone or replaced, and is made anew",
                    door.at
                );
                for listener in &open.listeners {
                    // Whoever has a copy must not keep it in the epoll.
                    let _ = self.epoll.delete(&listener.socket);
                }
                self.offers.doors[place] = None;
                if let Err(cause) = self.watch_door(of, door, tenant, owner, listeners) {
                    error!("[emperor] a zerg server is lost: {cause}");
                }
                of
            }
            Err(cause) => {
                let told = format!("{}: {cause}{}", open.door.at, remedy(&cause, open.tenant));
                if open.told != told {
                    error!(
                        "[emperor] the file of a zerg server is gone or replaced, and cannot be made anew: {told}. It \
                         is tried again by and by, and at once on SIGWINCH"
                    );
                    open.told = told;
                }
                None
            }
        }
    }
}

impl Own {
    /// Puts its file back, or makes it anew where that is gone for good: nobody would find it any more.
    fn mend(&mut self) {
        let Some(file) = &self.listener.file else { return };
        let path = file.path().display().to_string();
        let told = match file.restore() {
            Ok(Restored::WasThere) => String::new(),
            Ok(Restored::IsBack) => {
                info!("[emperor] the file of the socket {path} is back");
                String::new()
            }
            Ok(Restored::Lost) => match self.term.address.bind_in(&self.term.manner, None) {
                Ok(listener) => {
                    self.listener = listener.secured();
                    warn!(
                        "[emperor] the file of the socket {path} was gone for good, and the socket is made anew: whoever \
                         has the former one must take the sockets again"
                    );
                    String::new()
                }
                Err(cause) => format!("is gone, and cannot be made anew: {cause}{}", remedy(&cause, None)),
            },
            Err(cause) => format!("was replaced or cannot be put back: {cause}{}", remedy(&cause, None)),
        };
        if !told.is_empty() && told != self.told {
            warn!("[emperor] the file of the socket {path} {told}");
        }
        self.told = told;
    }
}
