//! Vassals that are rows of a database: what they are given, when changes are seen, what becomes of them when the
//! database is not there. With real servers of PostgreSQL, and real uWSGI where that reads the configuration.
#![cfg(feature = "postgres")]

#[path = "../support/mod.rs"]
mod support;

mod demand;
mod pipe;
mod rows;
mod trouble;

use std::fs;

use support::bed::Bed;
use support::emperor::{Builder, Emperor, Kind};
use support::postgres::Postgres;

/// Long enough never to come.
const NEVER: &str = "3600";

/// An emperor on a database that announces its changes, and whose vassals are witnesses: it never looks by itself.
fn listening(bed: &Bed, postgres: &Postgres) -> Builder {
    let emperor = Builder::bare(bed, Kind::Ours).on(postgres.all()).witnessed().stats();
    emperor.opt("emperor-freq", NEVER).opt("emperor-rescan", NEVER)
}

/// A configuration for the real uWSGI that writes this word into a file each time it is read.
fn says(bed: &Bed, word: &str) -> String {
    let file = bed.path("said");
    format!(
        "[uwsgi]\nmaster = true\nhttp-socket = 127.0.0.1:0\nexec-asap = echo {word} >> {}\n",
        file.display()
    )
}

/// What those have written.
fn said(bed: &Bed) -> Vec<String> {
    let text = fs::read_to_string(bed.path("said")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn until_said(bed: &Bed, emperor: &Emperor, count: usize) -> Vec<String> {
    let found = support::poll(support::PATIENCE, || Some(said(bed)).filter(|said| said.len() >= count));
    found.unwrap_or_else(|| panic!("only {:?}\n{}", said(bed), emperor.log()))
}
