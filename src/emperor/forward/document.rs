//! A vassal's own document, from its bytes: bounded, well-formed, summed up. Pure.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{Document, Figures};

/// The longest document that is taken, bytes.
pub const MOST_BYTES: usize = 4 << 20;
/// How deep it may be. uWSGI's are seven deep.
const MOST_DEPTH: usize = 32;

/// Why bytes are no document.
#[derive(Debug, thiserror::Error)]
pub enum BadDocument {
    /// Nothing came.
    #[error("its stats server closes the connection without a word")]
    Empty,
    /// Too much.
    #[error("what its stats server says is longer than {MOST_BYTES} bytes")]
    TooLong,
    /// Brackets in brackets.
    #[error("what its stats server says is more than {MOST_DEPTH} brackets deep")]
    TooDeep,
    /// Something else.
    #[error("what its stats server says is no JSON object: {0}")]
    NoJson(String),
}

/// Reads a document; behind an HTTP header if there is one.
///
/// # Errors
/// [`BadDocument`].
pub fn read(bytes: Vec<u8>) -> Result<(Document, Figures), BadDocument> {
    if bytes.len() > MOST_BYTES {
        return Err(BadDocument::TooLong);
    }
    let mut text = match String::from_utf8(behind_header(bytes)) {
        Ok(text) => text,
        // The variables of a request are a stranger's bytes.
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    };
    if text.trim_ascii().is_empty() {
        return Err(BadDocument::Empty);
    }
    mend(&mut text)?;
    if !text.trim_ascii().starts_with('{') {
        return Err(BadDocument::NoJson("it does not begin with a brace".into()));
    }
    let wrong = |error: serde_json::Error| BadDocument::NoJson(error.to_string());
    let figures = serde_json::from_str::<Whole>(text.trim_ascii()).map_err(wrong)?.figures();
    let document: Box<RawValue> = serde_json::from_str(text.trim_ascii()).map_err(wrong)?;
    Ok((document.into(), figures))
}

fn behind_header(mut bytes: Vec<u8>) -> Vec<u8> {
    const END: &[u8] = b"\r\n\r\n";
    if bytes.starts_with(b"HTTP/")
        && let Some(at) = bytes.windows(END.len()).position(|window| window == END)
    {
        bytes.drain(..at + END.len());
    }
    bytes
}

/// Control characters in texts, which uWSGI passes on from requests, become blanks. Whoever reads documents further on
/// may be less careful about their depth than we are.
fn mend(text: &mut String) -> Result<(), BadDocument> {
    let mut bytes = std::mem::take(text).into_bytes();
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in &mut bytes {
        match (*byte, quoted) {
            _ if escaped => escaped = false,
            (b'\\', true) => escaped = true,
            (b'"', _) => quoted = !quoted,
            (0..0x20, true) => *byte = b' ',
            (b'[' | b'{', false) => depth += 1,
            (b']' | b'}', false) => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MOST_DEPTH {
            return Err(BadDocument::TooDeep);
        }
    }
    // One ASCII byte for another.
    *text = String::from_utf8(bytes).unwrap_or_default();
    Ok(())
}

/// What is read of it. Whatever is missing or of another kind counts as nothing: versions differ.
#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(borrow, default)]
    listen_queue: Field<'a>,
    #[serde(borrow, default)]
    workers: Field<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Worker<'a> {
    #[serde(borrow)]
    pid: Field<'a>,
    #[serde(borrow)]
    status: Field<'a>,
    #[serde(borrow)]
    requests: Field<'a>,
    #[serde(borrow)]
    exceptions: Field<'a>,
    #[serde(borrow)]
    harakiri_count: Field<'a>,
    #[serde(borrow)]
    signals: Field<'a>,
    #[serde(borrow)]
    respawn_count: Field<'a>,
    #[serde(borrow)]
    running_time: Field<'a>,
    #[serde(borrow)]
    avg_rt: Field<'a>,
    #[serde(borrow)]
    tx: Field<'a>,
    #[serde(borrow)]
    rss: Field<'a>,
}

/// Anything.
#[derive(Clone, Copy, Default, Deserialize)]
struct Field<'a>(#[serde(borrow)] Option<&'a RawValue>);

impl<'a> Field<'a> {
    fn text(self) -> &'a str {
        self.0.map_or("", RawValue::get)
    }

    fn number(self) -> u64 {
        self.text().parse().unwrap_or(0)
    }
}

impl Whole<'_> {
    fn figures(&self) -> Figures {
        let mut sum = Sum::default();
        // What is no list has no workers.
        let _ = serde_json::Deserializer::from_str(self.workers.text()).deserialize_seq(&mut sum);
        let Sum { mut figures, weighed } = sum;
        figures.listen_queue = self.listen_queue.number();
        let mean = weighed.checked_div(u128::from(figures.requests)).unwrap_or(0);
        figures.response_micros = u64::try_from(mean).unwrap_or(u64::MAX);
        figures
    }
}

/// Workers are added up one by one: a list may be as long as a document.
#[derive(Default)]
struct Sum {
    figures: Figures,
    /// Average times, each taken as often as there were requests.
    weighed: u128,
}

impl<'de> Visitor<'de> for &mut Sum {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("workers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut workers: A) -> Result<(), A::Error> {
        while let Some(worker) = workers.next_element::<&RawValue>()? {
            self.add(&serde_json::from_str(worker.get()).unwrap_or_default());
        }
        Ok(())
    }
}

impl Sum {
    fn add(&mut self, worker: &Worker<'_>) {
        let sum = &mut self.figures;
        match worker.status.text() {
            "\"cheap\"" => sum.cheap += 1,
            _ if worker.pid.number() == 0 => {}
            status => {
                sum.workers += 1;
                let busy = status == "\"busy\"" || status.starts_with("\"sig");
                *(if busy { &mut sum.busy } else { &mut sum.idle }) += 1;
            }
        }
        let requests = worker.requests.number();
        let weight = u128::from(requests) * u128::from(worker.avg_rt.number());
        self.weighed = self.weighed.saturating_add(weight);
        for (total, field) in [
            (&mut sum.requests, worker.requests),
            (&mut sum.exceptions, worker.exceptions),
            (&mut sum.harakiri, worker.harakiri_count),
            (&mut sum.signals, worker.signals),
            (&mut sum.respawns, worker.respawn_count),
            (&mut sum.running_micros, worker.running_time),
            (&mut sum.tx_bytes, worker.tx),
            (&mut sum.rss_bytes, worker.rss),
        ] {
            *total = total.saturating_add(field.number());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(text: &str) -> Figures {
        read(text.as_bytes().to_vec()).unwrap().1
    }

    fn refused(bytes: impl Into<Vec<u8>>) -> String {
        read(bytes.into()).unwrap_err().to_string()
    }

    #[test]
    fn the_sums_of_a_document_are_those_of_its_workers() {
        let text = r#"{"version":"2.0.21-debian","listen_queue":3,"workers":[
            {"id":1,"pid":7,"requests":3,"exceptions":1,"harakiri_count":2,"signals":1,"status":"busy","rss":10,
             "running_time":50,"respawn_count":1,"tx":100,"avg_rt":10},
            {"id":2,"pid":8,"requests":1,"status":"idle","rss":5,"running_time":40,"respawn_count":2,"tx":1,"avg_rt":30},
            {"id":3,"pid":9,"status":"sig4"},
            {"id":0,"pid":0,"status":"cheap"},{"id":5,"pid":0,"status":"idle"}]}"#;
        let wanted = Figures {
            workers: 3,
            idle: 1,
            busy: 2,
            cheap: 1,
            requests: 4,
            exceptions: 1,
            harakiri: 2,
            signals: 1,
            respawns: 3,
            running_micros: 90,
            response_micros: 15,
            tx_bytes: 101,
            rss_bytes: 15,
            listen_queue: 3,
        };
        assert_eq!(figures(text), wanted);
        let with_header = format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{text}");
        assert_eq!(figures(&with_header), wanted);
    }

    #[test]
    fn a_document_is_passed_on_byte_for_byte() {
        let text = "{\n\t\"b\":1,\n\t\"a\":[1.50,\"\\u00e4\"]}";
        assert_eq!(read(text.into()).unwrap().0.get(), text);
    }

    #[test]
    fn what_a_document_says_of_another_kind_counts_as_nothing() {
        assert_eq!(figures("{}"), Figures::default());
        assert_eq!(figures(r#"{"workers":7,"listen_queue":"x"}"#), Figures::default());
        let lies = r#"{"listen_queue":-1,"workers":[{"pid":1,"requests":1e300,"tx":18446744073709551615,"status":{}},
            {"pid":1,"tx":18446744073709551615,"requests":-5,"avg_rt":[[]]}]}"#;
        let sum = figures(lies);
        assert_eq!((sum.requests, sum.tx_bytes, sum.workers), (0, u64::MAX, 2));
    }

    #[test]
    fn what_is_no_document_is_refused_by_name() {
        assert!(refused("").contains("without a word"));
        assert!(refused("garbage").contains("no JSON object"));
        assert!(refused("[1]").contains("no JSON object"));
        assert!(refused("7").contains("no JSON object"));
        assert!(refused(r#"{"a":1}{"b":2}"#).contains("no JSON object"));
        assert!(refused(r#"{"a":"#).contains("no JSON object"));
        assert!(refused(vec![b'{'; MOST_BYTES + 1]).contains("longer than"));
        assert!(
            refused(format!("{{\"a\":{}{}}}", "[".repeat(1 << 20), "]".repeat(1 << 20))).contains("deep")
        );
        let fine = format!("{{\"a\":{}{}}}", "[".repeat(31), "]".repeat(31));
        assert!(read(fine.into_bytes()).is_ok());
    }

    #[test]
    fn bytes_of_strangers_in_texts_are_mended() {
        let bytes = b"{\"vars\":[\"Q=\xff\x01[[[\",\"P=\\\"\"]}".to_vec();
        assert_eq!(read(bytes).unwrap().0.get(), "{\"vars\":[\"Q=\u{fffd} [[[\",\"P=\\\"\"]}");
    }
}
