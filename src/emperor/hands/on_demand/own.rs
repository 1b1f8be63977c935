//! Vassals whose own files want them to start on demand (`on-demand`, `vassal-on-demand`): at their own sockets.

use tracing::{error, warn};

use super::{Hands, Waiting, detected, remedy};
use crate::emperor::court::{Court, Event, Key, Vassal};
use crate::emperor::story::Kind;
use crate::vassal::socket::Address;
use crate::vassal::terms::demand::OwnSocket;
use crate::vassal::terms::{Terms, Turns};

impl Hands {
    /// Has a vassal wait instead of starting, if that is what its file wants; then its sockets are bound.
    pub(in crate::emperor::hands) fn sleep(
        &mut self,
        key: Key,
        court: &Court,
        terms: &Terms,
    ) -> Option<Event> {
        let vassal = court.get(key)?;
        if vassal.zerg.is_some() {
            return None;
        }
        if vassal.own_demand && terms.demand.socket().is_none() {
            self.let_go(key); // its file names none any more
        }
        let is_woken = vassal.on_demand;
        let waits = terms.demand.waits();
        if is_woken && !vassal.own_demand {
            return self.refuse_other(key, vassal, terms);
        }
        if !waits && !terms.life.turns.taken() {
            return None;
        }
        if let Some(socket) = terms.demand.socket() {
            return match self.provide_own(key, court, vassal, socket, !waits) {
                Ok(()) => (waits && !is_woken).then_some(Event::Sleeps(key)),
                Err(why) => {
                    self.refuse_own(key, vassal, &why);
                    Some(Event::NotStarted(key, false))
                }
            };
        }
        if is_woken || !waits {
            return None;
        }
        let known = self.has_listeners(key);
        if self.hand_sockets(key, court, Some(terms)).is_none() {
            return Some(Event::NotStarted(key, false)); // it was said why
        }
        if !known {
            terms.sockets.sockets().iter().for_each(|socket| detected(vassal, &socket.address));
        }
        Some(Event::Sleeps(key))
    }

    /// The socket that uWSGI is handed: the one that is held, if it is still meant.
    pub(in crate::emperor::hands) fn provide_own(
        &mut self,
        key: Key,
        court: &Court,
        vassal: &Vassal,
        socket: &OwnSocket,
        passes: bool,
    ) -> Result<(), String> {
        let OwnSocket { option, term } = socket;
        let (address, manner) = (&term.address, &term.manner);
        let tyrant = self.launch.confinement.tyrant;
        let owner = tyrant.map(|_| (vassal.identity.uid, vassal.identity.gid));
        let held = self.held(key).and_then(|held| held.waiting.as_mut());
        if let Some(waiting) = held.filter(|waiting| waiting.serves(address) && waiting.is_for(owner)) {
            if waiting.manner() != Some(manner) {
                let tuned = waiting.listener.tune(manner);
                tuned.map_err(|cause| format!("{address}: {cause}{}", remedy(&cause, owner)))?;
            }
            waiting.is_named(vassal.identity.mtime_ns, option, manner, passes);
            return Ok(());
        }
        self.let_go(key);
        if owner.is_some() {
            address.permits_tenant(manner).map_err(|why| format!("{address}: {why}"))?;
        }
        let share = self.shares.take(owner).map_err(|why| format!("{address}: {why}"))?;
        let listener = address.bind_in(manner, owner).map_err(|cause| {
            let help = self.obstructed(key, court, address, &cause, owner);
            format!("{option} = {address}: {cause}{help}")
        })?;
        if !passes {
            detected(vassal, address);
        }
        let text = match address {
            Address::Path(path) => path.display().to_string(),
            other => other.to_string(),
        };
        let mut waiting = Waiting::new(listener, &text);
        waiting.is_named(vassal.identity.mtime_ns, option, manner, passes);
        waiting.share = share;
        self.held.slot(key).waiting = Some(waiting);
        self.watch_files(key);
        self.is_provided(key);
        Ok(())
    }

    /// A rolling reload needs the socket that all of the vassal's processes share to be the one that its file names.
    fn refuse_other(&mut self, key: Key, vassal: &Vassal, terms: &Terms) -> Option<Event> {
        let OwnSocket { term, .. } = terms.demand.socket().filter(|_| terms.life.turns.taken())?;
        let waiting = self.held(key).and_then(|held| held.waiting.as_ref());
        if waiting.is_some_and(|waiting| waiting.serves(&term.address)) {
            return None;
        }
        let why = format!(
            "touch-reload-mode = rolling, but its file names {}, which is not the socket that starts it: name that one, or \
             take the line out",
            term.address
        );
        self.refuse_own(key, vassal, &why);
        Some(Event::NotStarted(key, false))
    }

    /// Where all are to take turns, one that another socket starts than the one that its file names does not.
    pub(in crate::emperor::hands) fn take_turns_if_it_can(
        &mut self,
        key: Key,
        court: &Court,
        terms: &mut Terms,
    ) {
        let Some(vassal) = court.get(key) else { return };
        let is_woken = vassal.on_demand && !vassal.own_demand && vassal.zerg.is_none();
        let Some(own) = terms.demand.socket().filter(|_| is_woken && terms.life.turns == Turns::IfItCan)
        else {
            return;
        };
        let address = own.term.address.to_string();
        if self.serves(key, &own.term.address) {
            return;
        }
        terms.life.turns = Turns::Never;
        terms.demand.take_no_turns();
        let why = format!(
            "vassal-touch-reload-mode is left out: its file names {address}, which is not the socket that starts it"
        );
        warn!("[emperor] vassal {}: {why}", vassal.name);
        self.tell_of(&vassal.name, Some(vassal), Kind::Warning, why);
    }

    /// Whether the socket that is held for a vassal's standard input is at this address.
    pub(in crate::emperor::hands) fn serves(&mut self, key: Key, address: &Address) -> bool {
        let waiting = self.held(key).and_then(|held| held.waiting.as_ref());
        waiting.is_some_and(|waiting| waiting.serves(address))
    }

    /// Whether there is one.
    pub(in crate::emperor::hands) fn has_waiting(&mut self, key: Key) -> bool {
        self.held(key).is_some_and(|held| held.waiting.is_some())
    }

    fn refuse_own(&mut self, key: Key, vassal: &Vassal, why: &str) {
        let before = self.refusals.insert(key, why.into());
        if before.as_deref() != Some(why) {
            let name = &vassal.name;
            error!(
                "[emperor] vassal {name} cannot have its socket held: {why}. It is tried again by and by, and at once when \
                 {name} is touched"
            );
            self.tell_of(name, Some(vassal), Kind::Refused, format!("it cannot wait on demand: {why}"));
        }
    }
}
