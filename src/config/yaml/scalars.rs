//! The text of scalars: plain, quoted, block.

use super::scanner::{Fault, Scanner, is_blank_or_end, is_break, is_break_or_end};

/// Blanks and line ends between two pieces of text, which fold into one blank or fewer line ends.
#[derive(Default)]
struct Gap {
    blanks: String,
    first_break: Option<&'static str>,
    breaks: String,
}

impl Gap {
    fn take_break(&mut self, end: &'static str) {
        match self.first_break {
            None => {
                self.blanks.clear();
                self.first_break = Some(end);
            }
            Some(_) => self.breaks.push_str(end),
        }
    }

    fn fold_into(&mut self, text: &mut String) {
        match self.first_break.take() {
            None => text.push_str(&self.blanks),
            Some("\n") if self.breaks.is_empty() => text.push(' '),
            Some("\n") => text.push_str(&self.breaks),
            Some(end) => {
                text.push_str(end);
                text.push_str(&self.breaks);
            }
        }
        self.blanks.clear();
        self.breaks.clear();
    }
}

impl Scanner<'_> {
    pub(super) fn plain_scalar(&mut self) -> Result<String, Fault> {
        let start = self.mark.offset;
        let mut text = String::new();
        let mut gap = Gap::default();
        loop {
            if self.at_document_mark() || self.peek(0) == Some('#') {
                break;
            }
            while let Some(letter) = self.peek(0).filter(|c| !is_blank_or_end(Some(*c))) {
                let next = self.peek(1);
                if self.in_flow() && letter == ':' && next.is_some_and(|c| ",?[]{}".contains(c)) {
                    return Err((start, "found unexpected ':'"));
                }
                if letter == ':' && is_blank_or_end(next) || self.in_flow() && ",[]{}".contains(letter) {
                    break;
                }
                gap.fold_into(&mut text);
                text.push(letter);
                self.advance(1);
            }
            if !self.take_gap(&mut gap, Some(self.indent + 1))? {
                break;
            }
            if !self.in_flow() && self.column() <= self.indent {
                break;
            }
        }
        if gap.first_break.is_some() {
            self.key_allowed = true;
        }
        Ok(text)
    }

    pub(super) fn quoted_scalar(&mut self, quote: char) -> Result<String, Fault> {
        let start = self.mark.offset;
        let mut text = String::new();
        let mut gap = Gap::default();
        self.advance(1);
        loop {
            if self.at_document_mark() {
                return Err((start, "found unexpected document indicator"));
            }
            if self.peek(0).is_none() {
                return Err((start, "found unexpected end of stream"));
            }
            let mut escaped_break = false;
            while let Some(letter) = self.peek(0).filter(|c| !is_blank_or_end(Some(*c))) {
                match letter {
                    '\'' if quote == '\'' && self.peek(1) == Some('\'') => {
                        text.push('\'');
                        self.advance(2);
                    }
                    _ if letter == quote => {
                        self.advance(1);
                        return Ok(text);
                    }
                    '\\' if quote == '"' && is_break(self.peek(1)) => {
                        self.advance(1);
                        self.take_break();
                        escaped_break = true;
                        break;
                    }
                    '\\' if quote == '"' => text.push(self.escape()?),
                    _ => {
                        text.push(letter);
                        self.advance(1);
                    }
                }
            }
            if escaped_break {
                gap.first_break = Some("");
            }
            self.take_gap(&mut gap, None)?;
            gap.fold_into(&mut text);
        }
    }

    /// Blanks and line ends; `false` if there is none. Within `least` columns of a new line a TAB is an error.
    fn take_gap(&mut self, gap: &mut Gap, least: Option<isize>) -> Result<bool, Fault> {
        let start = self.mark.offset;
        loop {
            match self.peek(0) {
                Some(blank @ (' ' | '\t')) => {
                    if gap.first_break.is_none() {
                        gap.blanks.push(blank);
                    } else if blank == '\t' && least.is_some_and(|least| self.column() < least) {
                        return Err((self.mark.offset, "found a tab character that violates indentation"));
                    }
                    self.advance(1);
                }
                letter if is_break(letter) => gap.take_break(self.take_break()),
                _ => return Ok(self.mark.offset > start),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Fault> {
        let start = self.mark.offset;
        let letter = self.peek(1);
        let digits = match letter {
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => 0,
        };
        self.advance(2);
        if digits > 0 {
            let mut code = 0;
            for _ in 0..digits {
                let digit = self.peek(0).and_then(|c| c.to_digit(16));
                code = code * 16 + digit.ok_or((start, "did not find expected hexdecimal number"))?;
                self.advance(1);
            }
            return char::from_u32(code).ok_or((start, "found invalid Unicode character escape code"));
        }
        Ok(match letter {
            Some('0') => '\0',
            Some('a') => '\x07',
            Some('b') => '\x08',
            Some('t' | '\t') => '\t',
            Some('n') => '\n',
            Some('v') => '\x0b',
            Some('f') => '\x0c',
            Some('r') => '\r',
            Some('e') => '\x1b',
            Some('N') => '\u{85}',
            Some('_') => '\u{a0}',
            Some('L') => '\u{2028}',
            Some('P') => '\u{2029}',
            Some(same @ (' ' | '"' | '/' | '\\')) => same,
            _ => return Err((start, "found unknown escape character")),
        })
    }

    pub(super) fn block_scalar(&mut self, literal: bool) -> Result<String, Fault> {
        let start = self.mark.offset;
        self.advance(1);
        let (mut keep, mut strip, mut increment) = (false, false, 0);
        while let Some(letter) = self.peek(0) {
            match letter {
                '+' if !keep && !strip => keep = true,
                '-' if !keep && !strip => strip = true,
                '0' => return Err((start, "found an indentation indicator equal to 0")),
                '1'..='9' if increment == 0 => increment = letter.to_digit(10).unwrap_or(0),
                _ => break,
            }
            self.advance(1);
        }
        while matches!(self.peek(0), Some(' ' | '\t')) {
            self.advance(1);
        }
        if self.peek(0) == Some('#') {
            while !is_break_or_end(self.peek(0)) {
                self.advance(1);
            }
        }
        if !is_break_or_end(self.peek(0)) {
            return Err((start, "did not find expected comment or line break"));
        }
        if is_break(self.peek(0)) {
            self.take_break();
        }
        let mut indent = match isize::try_from(increment).unwrap_or(0) {
            0 => 0,
            increment => self.indent.max(0) + increment,
        };
        let mut text = String::new();
        let mut leading_break = "";
        let mut breaks = self.block_breaks(&mut indent)?;
        let mut was_blank = false;
        while self.column() == indent && self.peek(0).is_some() {
            let is_blank = matches!(self.peek(0), Some(' ' | '\t'));
            if !literal && leading_break == "\n" && !was_blank && !is_blank {
                if breaks.is_empty() {
                    text.push(' ');
                }
            } else {
                text.push_str(leading_break);
            }
            text.push_str(&breaks);
            was_blank = is_blank;
            while let Some(letter) = self.peek(0).filter(|c| !is_break(Some(*c))) {
                text.push(letter);
                self.advance(1);
            }
            leading_break = if self.peek(0).is_some() { self.take_break() } else { "" };
            breaks = self.block_breaks(&mut indent)?;
        }
        if !strip {
            text.push_str(leading_break);
        }
        if keep {
            text.push_str(&breaks);
        }
        Ok(text)
    }

    /// Empty lines and indentation; finds the indentation if it is not known yet.
    fn block_breaks(&mut self, indent: &mut isize) -> Result<String, Fault> {
        let mut breaks = String::new();
        let mut widest = 0;
        loop {
            while (*indent == 0 || self.column() < *indent) && self.peek(0) == Some(' ') {
                self.advance(1);
            }
            widest = widest.max(self.column());
            if (*indent == 0 || self.column() < *indent) && self.peek(0) == Some('\t') {
                return Err((
                    self.mark.offset,
                    "found a tab character where an indentation space is expected",
                ));
            }
            if !is_break(self.peek(0)) {
                break;
            }
            breaks.push_str(self.take_break());
        }
        if *indent == 0 {
            *indent = widest.max(self.indent + 1).max(1);
        }
        Ok(breaks)
    }
}
