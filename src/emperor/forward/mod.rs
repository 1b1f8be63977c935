//! What vassals say of themselves, and what the kernel says of their processes, gathered when somebody asks.

pub mod document;
mod row;

pub use row::{Document, Figures, Processes, Row};
