//! What is written of rows: the answers to those who ask.

use hyper::StatusCode;
use serde::ser::{SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Row;
use crate::emperor::control::{Answer, escape};
use crate::emperor::metrics::Snapshot;

/// What an answer is to be like.
#[derive(Debug)]
pub enum Paper {
    /// One vassal with its document.
    One,
    /// All of them without.
    List,
    /// The document of one vassal, and nothing else.
    Document,
    /// The emperor's own document, minified, in which the vassals stand in the same order; with all that is known.
    Full(Vec<u8>),
    /// The empire in numbers, of which the vassals that have series stand in the same order.
    Metrics(Box<Snapshot>),
}

#[derive(Serialize)]
struct Entry<'a> {
    name: std::borrow::Cow<'a, str>,
    id: String,
    #[serde(flatten)]
    row: &'a Row,
}

#[derive(Serialize)]
struct One<'a> {
    #[serde(flatten)]
    entry: Entry<'a>,
    stats: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct List<'a> {
    vassals: Vec<Entry<'a>>,
}

/// The emperor's own document.
#[derive(Deserialize, Serialize)]
struct Full<'a, V> {
    #[serde(borrow)]
    version: &'a RawValue,
    #[serde(borrow)]
    pid: &'a RawValue,
    #[serde(borrow)]
    uid: &'a RawValue,
    #[serde(borrow)]
    gid: &'a RawValue,
    #[serde(borrow)]
    cwd: &'a RawValue,
    #[serde(borrow)]
    emperor: &'a RawValue,
    #[serde(borrow)]
    emperor_tyrant: &'a RawValue,
    #[serde(borrow)]
    throttle_level: &'a RawValue,
    vassals: V,
    #[serde(borrow)]
    blacklist: &'a RawValue,
}

/// Writes it. Names and rows are in the same order.
pub(super) fn write(paper: Paper, names: &[Box<[u8]>], rows: &[Row]) -> Answer {
    let entries = || names.iter().zip(rows).map(|(name, row)| entry(name, row));
    match paper {
        Paper::List => Answer::document(&List { vassals: entries().collect() }),
        Paper::Full(own) => full(&own, rows),
        Paper::Metrics(mut snapshot) => {
            // The numbers are wanted, not the documents.
            snapshot.gathered(rows.iter().map(|row| Row { document: None, ..row.clone() }));
            Answer::metrics(*snapshot)
        }
        Paper::One => match entries().next() {
            Some(entry) => {
                let stats = entry.row.document.as_deref();
                Answer::document(&One { entry, stats })
            }
            None => gone(),
        },
        Paper::Document => match rows.first() {
            Some(Row { document: Some(document), .. }) => Answer::document(&&**document),
            Some(Row { error: Some(why), .. }) => Answer::problem(StatusCode::BAD_GATEWAY, why),
            Some(_) => {
                Answer::problem(StatusCode::NOT_FOUND, "its file names no stats server: set `stats` there")
            }
            None => gone(),
        },
    }
}

fn gone() -> Answer {
    Answer::problem(StatusCode::NOT_FOUND, "the vassal is no more")
}

fn entry<'a>(name: &'a [u8], row: &'a Row) -> Entry<'a> {
    Entry { name: String::from_utf8_lossy(name), id: escape(name), row }
}

fn full(own: &[u8], rows: &[Row]) -> Answer {
    let Ok(Full { version, pid, uid, gid, cwd, emperor, emperor_tyrant, throttle_level, vassals, blacklist }) =
        serde_json::from_slice::<Full<'_, Vec<&RawValue>>>(own)
    else {
        return Answer::problem(StatusCode::INTERNAL_SERVER_ERROR, "the emperor's own document is broken");
    };
    let vassals = Nested { own: vassals, rows };
    Answer::document(&Full {
        version,
        pid,
        uid,
        gid,
        cwd,
        emperor,
        emperor_tyrant,
        throttle_level,
        vassals,
        blacklist,
    })
}

/// What the emperor says of vassals, and beside it what is known else.
struct Nested<'a> {
    own: Vec<&'a RawValue>,
    rows: &'a [Row],
}

#[derive(Serialize)]
struct Beside<'a> {
    #[serde(flatten)]
    own: std::collections::BTreeMap<&'a str, &'a RawValue>,
    #[serde(flatten)]
    row: &'a Row,
    stats: Option<&'a RawValue>,
}

impl Serialize for Nested<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(None)?;
        for (own, row) in self.own.iter().zip(self.rows) {
            let own = serde_json::from_str(own.get()).unwrap_or_default();
            sequence.serialize_element(&Beside { own, row, stats: row.document.as_deref() })?;
        }
        sequence.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emperor::forward::document;

    fn row(text: &str) -> Row {
        let (document, figures) = document::read(text.into()).unwrap();
        Row { document: Some(document), figures: Some(figures), ..Row::default() }
    }

    fn text(answer: Answer) -> String {
        String::from_utf8(answer.into_document()).unwrap()
    }

    fn names(count: usize) -> Vec<Box<[u8]>> {
        vec![b"a b.ini".to_vec().into(); count]
    }

    #[test]
    fn an_own_document_stands_in_the_answer_as_it_came() {
        let own = "{\n\t\"workers\":[],\"x\":1.50}";
        let one = text(write(Paper::One, &names(1), &[row(own)]));
        assert!(one.contains(r#""name":"a b.ini","id":"a%20b.ini""#) && one.contains(own), "{one}");
        assert_eq!(text(write(Paper::Document, &names(1), &[row(own)])), format!("{own}\n"));
        let list = text(write(Paper::List, &names(1), &[row(own)]));
        assert!(!list.contains("1.50") && list.contains("\"figures\":{"), "{list}");
    }

    #[test]
    fn the_full_document_has_the_emperors_keys_and_the_vassals() {
        let own = r#"{"version":"1","pid":2,"uid":0,"gid":0,"cwd":"/","emperor":["/v"],"emperor_tyrant":1,
            "throttle_level":0,"vassals":[{"id":"a","pid":7},{"id":"b","pid":-1}],"blacklist":[]}"#;
        let rows = [row(r#"{"x":1}"#), Row { error: Some("gone".into()), ..Row::default() }];
        let full = text(write(Paper::Full(own.into()), &names(2), &rows));
        let value: serde_json::Value = serde_json::from_str(&full).unwrap();
        assert_eq!(value["emperor"][0], "/v");
        assert_eq!(value["vassals"][0]["id"], "a");
        assert_eq!(value["vassals"][0]["stats"]["x"], 1);
        assert_eq!(value["vassals"][0]["figures"]["requests"], 0);
        assert_eq!(value["vassals"][1]["pid"], -1);
        assert_eq!(value["vassals"][1]["error"], "gone");
        assert_eq!(value["vassals"][1]["stats"], serde_json::Value::Null);
    }

    #[test]
    fn why_there_is_no_document_is_said() {
        let silent = Row { error: Some("it is late".into()), ..Row::default() };
        let answer = write(Paper::Document, &names(1), &[silent]);
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        assert!(text(answer).contains("it is late"));
        let none = write(Paper::Document, &names(1), &[Row::default()]);
        assert_eq!(none.status(), StatusCode::NOT_FOUND);
    }
}
