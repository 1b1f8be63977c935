//! What vassals say of themselves, and what the kernel says of their processes, gathered when somebody asks.
//!
//! Caller: the emperor's loop, which says who is meant ([`Subject`]) and what the answer is to be like ([`Paper`]), and
//! goes on at once. A thread of its own ([`Desk`]) asks the vassals and writes the answer. What vassals say is a
//! tenant's word: it is bounded in time, length and depth, names nobody, and leads nowhere.

mod ask;
mod desk;
pub mod document;
mod look;
mod paper;
mod posts;
mod reach;
mod row;
pub mod wish;

pub use desk::{Desk, Job, Question, Subject, Whereabouts, apart};
pub use paper::Paper;
pub use posts::{PostError, PostOptions, Posts};
pub use row::{Document, Figures, Processes, Row};
