//! The yaml reader. The old server builds no document: it walks over the tokens of a YAML 1.1 scanner, and what its
//! files mean follows from that walk (flattened maps, dropped empty values, a section at any depth).
//!
//! So the walk needs tokens. saphyr-parser has them but does not let them out, and its events come after a grammar
//! check that the old server never makes; hence a scanner of our own, in [`scanner`].

mod scalars;
mod scanner;

use super::error::Failed;
use scanner::{Scanner, Token};

/// What is worth knowing about a reading that succeeded.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    /// Reading stopped here, at a scalar where none was expected; all below is lost.
    pub stopped: Option<usize>,
    /// Keys of the section that have no value, so they were dropped.
    pub dropped: Vec<usize>,
}

/// Hands every pair of the section to `each`, with the offset of its key, or of the item in a list.
pub(super) fn read<E>(
    text: &[u8],
    section: &[u8],
    mut each: impl FnMut(usize, &[u8], &[u8]) -> Result<(), E>,
) -> Result<Remarks, Failed<E>> {
    let bad = |at, why| Failed::Syntax(Some(at), format!("error parsing YAML file: {why}"));
    if let Some(at) = text.iter().position(|b| matches!(b, 0..=8 | 11 | 12 | 14..=31 | 127)) {
        return Err(bad(at, "control characters are not allowed".into()));
    }
    let text = std::str::from_utf8(text)
        .map_err(|e| bad(e.valid_up_to(), "incomplete UTF-8 octet sequence".into()))?;
    let mut scanner = Scanner::new(text);
    let mut remarks = Remarks::default();
    let mut key: Option<(usize, String)> = None;
    let mut state = State::Nothing;
    let mut depth = 0_usize;
    // A key whose value has not begun yet.
    let mut waiting: Option<usize> = None;
    loop {
        let (at, token) = scanner.next().map_err(|(at, why)| bad(at, why.to_owned()))?;
        if matches!(token, Token::Key | Token::BlockEnd | Token::StreamEnd) {
            remarks.dropped.extend(waiting.filter(|_| depth > 0));
        }
        if token != Token::Value {
            waiting = None;
        }
        match token {
            Token::StreamEnd => return Ok(remarks),
            Token::Key => state = State::Key,
            Token::Value => {
                state = State::Value;
                waiting = key.as_ref().map(|(at, _)| *at);
            }
            Token::BlockSequenceStart | Token::FlowSequenceStart => {
                depth += usize::from(depth > 0);
                state = State::Entry;
            }
            Token::BlockEntry | Token::FlowEntry => state = State::Entry,
            Token::BlockMappingStart if depth > 0 => depth += 1,
            Token::BlockMappingStart => {
                depth = usize::from(key.as_ref().is_some_and(|(_, key)| key.as_bytes() == section));
            }
            Token::BlockEnd | Token::FlowSequenceEnd => {
                if depth > 0 {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(remarks);
                    }
                }
                key = None;
                state = State::Nothing;
            }
            Token::Scalar(text) => match state {
                State::Key => key = Some((at, text)),
                State::Value | State::Entry => {
                    if let Some((named, key)) = key.as_ref().filter(|_| depth > 0) {
                        let place = if state == State::Value { *named } else { at };
                        each(place, key.as_bytes(), text.as_bytes()).map_err(Failed::Each)?;
                    }
                    if state == State::Value {
                        key = None;
                        state = State::Nothing;
                    }
                }
                State::Nothing => {
                    remarks.stopped = Some(at);
                    return Ok(remarks);
                }
            },
            Token::Other => state = State::Nothing,
        }
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum State {
    Nothing,
    Key,
    Value,
    Entry,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> (Vec<String>, Remarks) {
        let mut out = Vec::new();
        let result: Result<Remarks, Failed<()>> = read(text.as_bytes(), b"uwsgi", |_, k, v| {
            out.push(format!("{}={}", String::from_utf8_lossy(k), String::from_utf8_lossy(v)));
            Ok(())
        });
        (out, result.unwrap())
    }

    #[test]
    fn parity_scalars_keep_their_text() {
        let text = "uwsgi:\n  a: 0660\n  b: \"x\\n\\u00e9\\x41\"\n  c: 'it''s'\n  d: ~ # x\n  e: x#y\n  f: x:y http://q/\n  \
            g: |-\n    k\n     l\n  h: >+\n    q\n    r\n\n  i: m\n    n\n\n    o\n  j: \"p\n    q\"\n";
        let wanted = [
            "a=0660",
            "b=x\né\x41",
            "c=it's",
            "d=~",
            "e=x#y",
            "f=x:y http://q/",
            "g=k\n l",
            "h=q r\n\n",
            "i=m n\no",
            "j=p q",
        ];
        assert_eq!(pairs(text).0, wanted);
    }

    #[test]
    fn parity_maps_are_flattened_and_lists_repeat_the_key() {
        for (text, wanted) in [
            (
                "uwsgi:\n  a:\n    - 1\n    - 2\n  b:\n  - 3\n  c: [4, 5]\n",
                &["a=1", "a=2", "b=3", "c=4", "c=5"][..],
            ),
            (
                "uwsgi:\n  m:\n    k: v\n  f: {q: 1}\n  l:\n    - z: 2\n  e: 3\n",
                &["k=v", "q=1", "z=2", "e=3"],
            ),
            ("uwsgi:\n  a: [[1, 2], [3]]\n  b: 5\n", &["a=1", "a=2", "b=5"]),
            ("uwsgi:\n  a: [1, {b: 2}, 3]\n  c: 4\n", &["a=1", "b=2", "c=4"]),
            ("uwsgi:\n  - a: 1\n  - b: 2\n", &["a=1"]),
            ("uwsgi:\n  a: [1, 2\n  c: 3\n", &["a=1", "a=2 c", "a=3"]),
            ("uwsgi:\n  ? q\n  : 2\n  z: 3\n", &["q=2", "z=3"]),
            ("uwsgi:\n  a: 1\n b: 2\n", &["a=1"]),
            ("uwsgi: {a: 1}\n", &[]),
            ("a: 1\nuwsgi:\r\n  a: 2\r\n...\n", &["a=2"]),
        ] {
            assert_eq!(pairs(text).0, wanted, "{text}");
        }
    }

    #[test]
    fn parity_keys_without_a_value_are_dropped_and_remembered() {
        let (found, remarks) = pairs("uwsgi:\n  master:\n  a: \"\"\n  endif:\nx: 1\n");
        assert_eq!((&found[..], remarks.dropped.len()), (&["a=".to_owned()][..], 2));
    }

    #[test]
    fn parity_anchors_and_tags_stop_the_reading() {
        let (found, remarks) = pairs("uwsgi:\n  z: 0\n  a: &x 1\n  c: 3\n");
        assert_eq!((&found[..], remarks.stopped.is_some()), (&["z=0".to_owned()][..], true));
        assert!(pairs("uwsgi:\n  a: !!str 1\n").1.stopped.is_some());
    }

    #[test]
    fn parity_only_what_no_token_can_be_made_of_is_an_error() {
        for text in [
            "uwsgi:\n\ta: 1\n",
            "uwsgi:\n  a: b: c\n",
            "uwsgi:\n  a: 1\n   b: 2\n",
            "uwsgi:\n  a: \"x\\q\"\n",
            "uwsgi:\n  a: \"x\n",
            "uwsgi:\n  b: - 1\n",
            "uwsgi:\n  a: @x\n",
            "uwsgi:\n  a: x\u{1}\n",
        ] {
            assert!(read::<()>(text.as_bytes(), b"uwsgi", |_, _, _| Ok(())).is_err(), "{text}");
        }
    }
}
