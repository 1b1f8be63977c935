//! `for` and `if`: a block is asked for every pair between its word and an end word.
//!
//! There is no nesting and no `else`. The argument is evaluated anew for each pair, unexpanded.

use super::door::PathKind;
use super::engine::Engine;
use super::error::{Step, Trouble, halt};
use super::expand::fill_item;
use super::model::{How, Origin, lossy};
use super::values;

/// A block that is open.
#[derive(Debug)]
pub(super) struct Block {
    /// The canonical name of its word.
    pub word: &'static str,
    /// Its argument.
    pub argument: Vec<u8>,
    /// The pair that opened it.
    pub origin: Origin,
}

/// Whether a key ends a block. Any of them ends any block.
pub(super) fn is_end(key: &[u8]) -> bool {
    matches!(key, b"end" | b"endfor" | b"end-for" | b"endif" | b"end-if")
}

/// What a block makes of a pair.
enum Verdict {
    Skip,
    Take(Option<Vec<u8>>),
    Each(Vec<Vec<u8>>),
}

impl Engine<'_> {
    /// Hands a pair to the open block.
    pub(super) fn pass_block(
        &mut self,
        block: &Block,
        key: &[u8],
        value: Option<&[u8]>,
        origin: &Origin,
    ) -> Step {
        let items = match self.judge(block)? {
            Verdict::Skip => return Ok(()),
            Verdict::Take(item) => vec![item],
            Verdict::Each(items) => items.into_iter().map(Some).collect(),
        };
        let Some(value) = value else {
            let text = format!(
                "the block `{}` opened at {} is still open here, where {} has no value",
                block.word,
                block.origin,
                lossy(key)
            );
            return halt(origin, Trouble::Block(text));
        };
        let origin = origin.with(How::Block, &block.origin);
        self.running = true;
        for item in items {
            self.push(key, Some(&fill_item(value, item.as_deref())), origin.clone())?;
        }
        self.running = false;
        Ok(())
    }

    fn judge(&mut self, block: &Block) -> Step<Verdict> {
        let argument = &block.argument[..];
        self.spend(argument.len() + 1, &block.origin)?;
        let plain = block.word.replacen("if-not-", "if-", 1);
        let negated = plain.len() != block.word.len();
        let (name, wanted) = match values::split_first(argument, b'=') {
            Some((name, wanted)) => (name, Some(wanted)),
            None => (argument, None),
        };
        let same = |found: Option<&[u8]>| found.is_some_and(|f| wanted.is_none_or(|w| w == f));
        let itself = || Some(argument.to_vec());
        let (truth, item) = match &plain[..] {
            "for" => return Ok(Verdict::Each(values::words(argument, b' ').map(<[u8]>::to_vec).collect())),
            "for-times" => {
                // One more than there may be pairs ends in the error about that.
                let times =
                    usize::try_from(values::atoi(Some(argument))).unwrap_or(0).min(self.limits.pairs + 1);
                return Ok(Verdict::Each((1..=times).map(|n| n.to_string().into_bytes()).collect()));
            }
            "for-glob" => {
                self.count_read(&block.origin)?;
                return Ok(Verdict::Each(self.world.glob(argument)));
            }
            "for-readline" => return self.lines_of(block).map(Verdict::Each),
            "if-env" => {
                let found = self.environment.get(name).map(Vec::as_slice);
                (same(found), found.map(<[u8]>::to_vec))
            }
            "if-opt" => {
                let found = self.first_value(name);
                (same(found), found.map(<[u8]>::to_vec))
            }
            "if-exists" => (self.world.readable(argument), itself()),
            "if-file" => (self.world.kind(argument) == Some(PathKind::File), itself()),
            "if-dir" => (self.world.kind(argument) == Some(PathKind::Directory), itself()),
            "if-reload" => (self.reloading, None),
            "if-plugin" => (self.plugin_names.iter().any(|p| p.as_bytes() == argument), itself()),
            "if-hostname" => (self.world.host_name() == argument, itself()),
            "if-hostname-match" => (self.host_matches(block)?, itself()),
            other => return halt(&block.origin, Trouble::Block(format!("{other} is no block word"))),
        };
        Ok(if truth == negated { Verdict::Skip } else { Verdict::Take(item) })
    }

    fn host_matches(&self, block: &Block) -> Step<bool> {
        let pattern = String::from_utf8_lossy(&block.argument);
        match regex_lite::Regex::new(&pattern) {
            Ok(regex) => Ok(regex.is_match(&String::from_utf8_lossy(&self.world.host_name()))),
            Err(error) => {
                halt(&block.origin, Trouble::Block(format!("{pattern} is no regular expression: {error}")))
            }
        }
    }

    /// The lines of a file without CR and LF at their ends; long ones come in pieces. A missing file is only reported.
    fn lines_of(&mut self, block: &Block) -> Step<Vec<Vec<u8>>> {
        self.count_read(&block.origin)?;
        let text = match self.world.read(&block.argument, self.limits.file_bytes) {
            Ok(text) => {
                self.spend(text.len(), &block.origin)?;
                text
            }
            Err(error) => {
                let name = block.argument.clone();
                let text = Trouble::Unreadable { name, error }.to_string();
                self.output.say(&[text.as_bytes()]);
                return Ok(Vec::new());
            }
        };
        let mut lines = Vec::new();
        for line in text.split_inclusive(|b| *b == b'\n') {
            for piece in line.chunks(LINE_PIECE) {
                let cut = piece.iter().rposition(|b| !matches!(b, b'\r' | b'\n')).map_or(0, |at| at + 1);
                lines.push(piece[..cut].to_vec());
            }
        }
        Ok(lines)
    }
}

/// Longer lines of `for-readline` are cut into pieces of this many bytes; measured.
const LINE_PIECE: usize = 1023;
