//! Vassals survive their emperor: it hands them over to the program that takes its place, or, through the service
//! manager, to the emperor that follows it.
//!
//! What is handed over are descriptors (a vassal's link, its process) and the state, which is text: a line for the
//! empire and a line for each vassal. Caller: the start of the emperor ([`Heritage::claim`]), and its loop.
//!
//! The state comes from this program alone, through exec or through the service manager; a vassal has no way to
//! write it. All the same a state that cannot be read ends in a fresh start, and never in two processes of a vassal:
//! what cannot be governed is killed.

mod found;
mod heritage;
mod origin;
mod state;
mod store;

pub(crate) use heritage::end;
pub use heritage::{Heritage, Inherited, inherited_sockets};
pub use origin::Origin;
pub(crate) use state::memory;
pub use state::{
    Damage, Estate, Header, OffersRecord, PidFileRecord, ProcessRecord, SocketEstate, SourceRecord, State,
    StoreRecord, Survivor,
};
pub use store::Store;

/// Environment variable that tells a program that tries the configuration where to say what keeps it from going on: a
/// descriptor's number.
pub const REHEARSAL_VARIABLE: &str = "EMPEROR_REHEARSAL";

/// Environment variable that tells a program where the state is that it is to go on with: its own process id, a
/// colon, and the descriptor's number. Nobody else's children are mistaken for it.
pub const STATE_VARIABLE: &str = "EMPEROR_STATE";
