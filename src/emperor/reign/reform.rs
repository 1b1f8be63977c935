//! A configuration that has changed: which vassals start again for it, and what is said about the rest.

use tracing::{info, warn};

use super::Reign;
use crate::emperor::court::{Record, State};
use crate::emperor::edicts::{Change, Effect, Whom};
use crate::emperor::hands::Belongings;
use crate::emperor::source::SourceId;
use crate::emperor::survival::Header;

/// What is different from what vassals were started under.
#[derive(Debug, Default)]
pub(super) struct Reform {
    changes: Vec<Change>,
    /// Another program runs vassals.
    engine: bool,
    /// What policies came down to can be compared.
    policies: bool,
    /// Tyrant mode has come or gone.
    identities: bool,
    /// How many vassals start again.
    touched: usize,
}

impl Reform {
    fn touches(&self, whom: Whom) -> bool {
        self.changes.iter().any(|change| change.effect == Effect::Touches(whom))
    }
}

/// What becomes of one vassal.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Touched {
    /// It starts again.
    pub(super) restart: bool,
    /// Its on-demand socket is another one, or none.
    pub(super) moves: bool,
}

impl Reign {
    /// Compares with what a former emperor has governed by, and says what is different.
    pub(super) fn reform(&mut self, header: &Header) -> Reform {
        let mut reform = Reform { identities: header.tyrant != self.itself.tyrant, ..Reform::default() };
        if let Some(process) = &header.process {
            self.renewal.reloads.count = process.reloads + 1;
        }
        let Some(before) = &header.edicts else { return reform };
        reform.changes = before.changes(&self.renewal.edicts);
        reform.engine = header.engine != self.hands.engine() || reform.touches(Whom::Engine);
        reform.policies = header.version == env!("CARGO_PKG_VERSION");
        if header.process.is_some() {
            self.renewal.edicts = std::mem::take(&mut self.renewal.edicts).after(before);
        } else {
            // Another process has started since, and has followed these.
            reform.changes.retain(|change| change.effect != Effect::Restart);
        }
        reform
    }

    /// What it means for a vassal that is taken over.
    pub(super) fn touched(
        &mut self,
        reform: &mut Reform,
        record: &Record,
        belongings: &mut Belongings,
        source: Option<SourceId>,
    ) -> Touched {
        let Some(source) = source else { return Touched::default() }; // it is stopped in any case
        let name = record.name.as_bytes();
        let name = record.zerg.as_ref().map_or(name, |zerg| zerg.role.base_of(name));
        let policy = self.hands.policy().digest(name, &record.identity);
        let other_policy = reform.policies && policy != belongings.policy;
        if !reform.policies {
            belongings.policy = policy;
        }
        let moves = reform.touches(Whom::OnDemand)
            && record.zerg.is_none()
            && self.hands.is_demand_ours(source, &record.name)
            && (record.on_demand && !record.own_demand || self.hands.demand_names(source, &record.name));
        let runs_engine = record.course.as_ref().is_none_or(|course| course.manner.linked);
        let restart = reform.identities
            || other_policy
            || moves
            || reform.touches(Whom::All)
            || reform.engine && runs_engine
            || reform.touches(Whom::Ungrouped) && belongings.group.is_none();
        reform.touched += usize::from(restart && record.pid > 0 && record.state == State::Up);
        Touched { restart, moves }
    }

    /// Says what has changed.
    pub(super) fn tell_reform(&mut self, reform: &Reform, all: usize) {
        let (restart, rest): (Vec<_>, Vec<_>) =
            reform.changes.iter().partition(|change| change.effect == Effect::Restart);
        if !rest.is_empty() {
            let named: Vec<_> = rest.iter().map(|change| change.named()).collect();
            info!("[emperor] changed: {}", named.join(", "));
        }
        if reform.touched > 0 {
            info!("[emperor] {} of {all} vassals start again, because that touches them", reform.touched);
        }
        for change in &restart {
            warn!("[emperor] needs a restart of the emperor: {change}");
        }
        self.renewal.reloads.needs_restart = restart.iter().map(ToString::to_string).collect();
        let names: Vec<_> = restart.iter().map(|change| change.option.as_str()).collect();
        self.manager.note((!names.is_empty()).then(|| format!("needs a restart: {}", names.join(", "))));
    }
}
