//! `declare-option`: one word that stands for several options, with `$1`, `$2`… for the words of its value.

use super::engine::Engine;
use super::error::{Step, Trouble, halt};
use super::model::{How, Origin, lossy};
use super::values;
use std::sync::Arc;

/// A declared option.
#[derive(Debug)]
pub(super) struct Declared {
    name: Vec<u8>,
    /// What it stands for.
    template: Vec<(Vec<u8>, Vec<u8>)>,
    /// It was declared while applying, so uses act only while applying.
    pub late: bool,
    origin: Origin,
}

impl Engine<'_> {
    /// `declare-option = NAME=KEY=VALUE;KEY=VALUE…`
    pub(super) fn declare(&mut self, value: &[u8], late: bool, origin: &Origin) -> Step {
        let Some((name, text)) = values::split_first(value, b'=') else {
            return halt(
                origin,
                Trouble::Value(format!("declare-option wants NAME=KEY=VALUE, not {}", lossy(value))),
            );
        };
        let template = text
            .split(|b| *b == b';')
            .map_while(|item| values::split_first(item, b'='))
            .map(|(key, value)| (key.to_vec(), value.to_vec()))
            .collect();
        let declared = Declared { name: name.to_vec(), template, late, origin: origin.clone() };
        self.declared.entry(name.to_vec()).or_insert_with(|| Arc::new(declared));
        Ok(())
    }

    /// Applies what a declared option stands for.
    pub(super) fn use_declared(
        &mut self,
        declared: &Declared,
        value: Option<&[u8]>,
        origin: &Origin,
    ) -> Step {
        if self.declared_depth >= self.limits.depth {
            let text = format!("declared option {} stands for itself", lossy(&declared.name));
            return halt(origin, Trouble::Endless(text));
        }
        let value = value.unwrap_or_default();
        let mut words: Vec<&[u8]> = values::words(value, b' ').collect();
        if words.is_empty() {
            words.push(b"");
        }
        let derived = origin.with(How::Declared, &declared.origin);
        self.declared_depth += 1;
        for (key, value) in &declared.template {
            self.spend(key.len() + value.len() + words.len() + DERIVED_WORK, origin)?;
            self.perform_derived(&fill(key, &words), &fill(value, &words), derived.clone())?;
        }
        self.declared_depth -= 1;
        Ok(())
    }
}

/// What one derived pair counts for, so that a few options that stand for one another twice each have an end.
const DERIVED_WORK: usize = 512;

/// Puts the words for `$1`, `$2`… one number after the other, so `$10` begins with `$1`, and a word may itself bring
/// in a later number. Numbers without a word stay.
fn fill(template: &[u8], words: &[&[u8]]) -> Vec<u8> {
    let mut text = template.to_vec();
    for (at, word) in words.iter().enumerate() {
        if !text.contains(&b'$') {
            break;
        }
        text = replace(&text, format!("${}", at + 1).as_bytes(), word);
    }
    text
}

fn replace(text: &[u8], what: &[u8], by: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.windows(what.len()).position(|w| w == what) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(by);
        rest = &rest[at + what.len()..];
    }
    out.extend_from_slice(rest);
    out
}
