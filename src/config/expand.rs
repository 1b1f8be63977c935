//! The three passes over values: `$(NAME)`, `@(SOURCE)`, `%(key)`, and the arithmetic inside the last.
//!
//! One scanner serves all three. Its rules are odd and kept: after a replacement the value is scanned again from
//! its second byte, so text that was brought in is itself expanded unless it starts the value.

use super::values::leading_integer;
use std::borrow::Cow;

/// What one scan may cost.
pub(super) struct Most<'m> {
    /// Length of the value.
    pub bytes: usize,
    /// References replaced.
    pub replacements: usize,
    /// Bytes looked at, taken from what is left for the whole reading.
    pub work: &'m mut usize,
}

/// How a scan went wrong.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Runaway {
    /// The value became longer than allowed.
    Length,
    /// More references were replaced than allowed.
    Count,
}

/// Replaces every `symbol(..)` in `value` for which `look_up` knows text; `Ok(None)` if nothing was replaced.
///
/// Linear in the bytes scanned and brought in: the part that is still to be scanned is a stack of bytes, so a
/// replacement is pushed, not spliced.
pub(super) fn expand<'a, E: From<Runaway>>(
    symbol: u8,
    value: &[u8],
    most: Most<'_>,
    mut look_up: impl FnMut(&[u8]) -> Result<Option<Cow<'a, [u8]>>, E>,
) -> Result<Option<Vec<u8>>, E> {
    if !value.windows(2).any(|two| two == [symbol, b'(']) {
        return Ok(None);
    }
    let mut rest: Vec<u8> = value.iter().rev().copied().collect();
    let mut done: Vec<u8> = Vec::with_capacity(value.len());
    let mut state = State::Text;
    // Where the run of symbols and open references that we are in began. A replacement may complete it anew.
    let mut clean = 0;
    let mut replaced = 0;
    while let Some(byte) = rest.pop() {
        // References inside an unfinished one make their surroundings be read again; that, too, has an end.
        *most.work = most.work.checked_sub(1).ok_or(Runaway::Count)?;
        let at = done.len();
        done.push(byte);
        state = match state {
            _ if byte == symbol => {
                if matches!(state, State::Text) {
                    clean = at;
                }
                State::Symbol
            }
            State::Text => State::Text,
            State::Symbol if byte == b'(' => State::Open { start: at - 1, depth: 0 },
            State::Symbol => State::Text,
            State::Open { start, depth } if byte == b'(' => State::Open { start, depth: depth + 1 },
            State::Open { start, depth } if byte == b')' && depth > 0 => {
                State::Open { start, depth: depth - 1 }
            }
            State::Open { start, .. } if byte == b')' => {
                let name = &done[start + 2..at];
                let text = if name.is_empty() { None } else { look_up(name)? };
                if let Some(text) = text {
                    replaced += 1;
                    if replaced > most.replacements {
                        return Err(Runaway::Count.into());
                    }
                    if start + text.len() + rest.len() > most.bytes {
                        return Err(Runaway::Length.into());
                    }
                    rest.extend(text.iter().rev());
                    let again = clean.max(1).min(start);
                    rest.extend(done[again..start].iter().rev());
                    done.truncate(again);
                    if done.is_empty() {
                        done.extend(rest.pop());
                    }
                }
                State::Text
            }
            open @ State::Open { .. } => open,
        };
    }
    Ok((replaced > 0).then_some(done))
}

#[derive(Clone, Copy)]
enum State {
    Text,
    Symbol,
    Open { start: usize, depth: usize },
}

/// What `%(reference)` stands for: a key's value or, with a space in it, the result of a pipeline of words.
pub(super) fn placeholder<'a>(
    reference: &[u8],
    most_bytes: usize,
    get: impl Fn(&[u8]) -> Option<&'a [u8]>,
) -> Result<Option<Cow<'a, [u8]>>, Runaway> {
    if !reference.contains(&b' ') {
        return Ok(get(reference).map(Cow::Borrowed));
    }
    let mut result: Option<Vec<u8>> = None;
    let mut operation = None;
    for word in reference.split(|b| *b == b' ').filter(|w| !w.is_empty()) {
        match word {
            b"+" | b"-" | b"*" | b"/" => operation = Some(word[0]),
            b"++" | b"--" => {
                let step = if word == b"++" { 1 } else { -1 };
                let number = leading_integer(result.as_deref().unwrap_or_default()).0.wrapping_add(step);
                result = Some(number.to_string().into_bytes());
            }
            _ => {
                let text =
                    if word.iter().all(u8::is_ascii_digit) { word } else { get(word).unwrap_or_default() };
                match operation.take() {
                    None => result.get_or_insert_default().extend_from_slice(text),
                    Some(operation) => {
                        result = Some(calculate(operation, result.as_deref().unwrap_or_default(), text));
                    }
                }
                if result.as_ref().is_some_and(|result| result.len() > most_bytes) {
                    return Err(Runaway::Length);
                }
            }
        }
    }
    Ok(result.map(Cow::Owned))
}

fn calculate(operation: u8, left: &[u8], right: &[u8]) -> Vec<u8> {
    let (left, right) = (leading_integer(left).0, leading_integer(right).0);
    let number = match operation {
        b'+' => left.wrapping_add(right),
        b'-' => left.wrapping_sub(right),
        b'*' => left.wrapping_mul(right),
        _ if right == 0 => 0,
        _ => left.wrapping_div(right),
    };
    number.to_string().into_bytes()
}

/// Replaces every `%(_)` by the current item of a block.
pub(super) fn fill_item(value: &[u8], item: Option<&[u8]>) -> Vec<u8> {
    let (Some(item), true) = (item, value.windows(4).any(|w| w == b"%(_)")) else { return value.to_vec() };
    let mut out = Vec::with_capacity(value.len() + item.len());
    let mut rest = value;
    while let Some(at) = rest.windows(4).position(|w| w == b"%(_)") {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(item);
        rest = &rest[at + 4..];
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    impl From<Runaway> for String {
        fn from(runaway: Runaway) -> Self {
            format!("{runaway:?}")
        }
    }

    fn with(pairs: &[(&str, &str)], value: &str) -> Result<String, String> {
        let get = |key: &[u8]| pairs.iter().find(|(k, _)| k.as_bytes() == key).map(|(_, v)| v.as_bytes());
        let most = Most { bytes: 1000, replacements: 100, work: &mut 100_000 };
        let out = expand::<String>(b'%', value.as_bytes(), most, |r| Ok(placeholder(r, 1000, get)?))?;
        Ok(out.map_or(value.to_owned(), |o| String::from_utf8(o).unwrap()))
    }

    #[test]
    fn text_that_starts_a_value_is_not_looked_at_again() {
        let pairs = [("b", "%(c)"), ("c", "5"), ("v2", "two"), ("i", "2"), ("n(1)", "paren"), ("e", "")];
        for (value, wanted) in [
            ("%(b)", "%(c)"),
            ("x%(b)", "x5"),
            ("%(c)%(b)", "55"),
            ("%(b)%(b)", "%(c)5"),
            ("-%(v%(i))", "-two"),
            ("%(v%(i))", "%(v2)"),
            ("%(n(1))", "paren"),
            ("a%%(c)", "a%5"),
            ("%(nope)%(c)", "%(nope)5"),
            ("%()%(c", "%()%(c"),
            ("[%(e)]", "[]"),
            ("%(e)%(c)", "%(c)"),
        ] {
            assert_eq!(with(&pairs, value).as_deref(), Ok(wanted), "{value}");
        }
    }

    #[test]
    fn a_value_that_contains_itself_ends_in_an_error() {
        assert_eq!(with(&[("a", "x%(a)")], "x%(a)"), Err("Count".into()));
        assert_eq!(with(&[("a", "%(a)")], "%(a)").as_deref(), Ok("%(a)"));
        assert_eq!(with(&[("a", "%(a)%(a)yyyyyyyyyyyyyyyyyyyyyy")], "x%(a)"), Err("Length".into()));
    }

    #[test]
    fn words_separated_by_spaces_are_a_pipeline() {
        let pairs = [("foo", "17"), ("bar", "30"), ("a", "5"), ("f", "1.9"), ("n", "-3")];
        for (value, wanted) in [
            ("%(foo + bar + 3 * 2)", "100"),
            ("%(foo bar ++)", "1731"),
            ("%(foo+bar)", "%(foo+bar)"),
            ("%(foo * -2)", "0"),
            ("%(bar / 0)", "0"),
            ("%(f + 1)", "2"),
            ("%(n + 1)", "-2"),
            ("%(a + a - )", "10"),
            ("%(a - + 3)", "8"),
            ("%(+ )", "%(+ )"),
            ("%(12 )", "12"),
            ("%(12)", "%(12)"),
            ("%(a ++ 3)", "63"),
            ("%(- a)", "-5"),
            ("%(nope nada)", ""),
            ("%(a + 99999999999999999999)", "-9223372036854775804"),
        ] {
            assert_eq!(with(&pairs, value).as_deref(), Ok(wanted), "{value}");
        }
    }

    #[test]
    fn an_unfinished_reference_does_not_make_all_behind_it_be_read_again_and_again() {
        let value = format!("x%(a{}", "%(b)".repeat(50_000));
        let most = Most { bytes: 1 << 24, replacements: 1 << 20, work: &mut (1 << 20) };
        let out = expand::<String>(b'%', value.as_bytes(), most, |_| Ok(Some(Cow::Borrowed(b"y"))));
        assert_eq!(out, Err("Count".into()));
    }

    #[test]
    fn many_references_cost_as_much_as_they_bring_in() {
        let value = "x%(c)".repeat(200_000);
        let most = Most { bytes: 1 << 24, replacements: 1 << 20, work: &mut (value.len() * 2) };
        let out = expand::<String>(b'%', value.as_bytes(), most, |_| Ok(Some(Cow::Borrowed(b"y"))));
        assert_eq!(out.unwrap().unwrap().len(), 400_000);
    }
}
