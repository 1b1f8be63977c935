//! The OpenAPI document, held against what a real emperor answers. That it has each route, and no other, is tested
//! beside the routes.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::Value;
use support::Bed;
use support::emperor::{Builder, Kind};

const DOCUMENT: &str = include_str!("../docs/openapi.json");

/// What keeps a value from being what a schema says, with its place.
fn faults(document: &Value, schema: &Value, value: &Value, place: &str) -> Vec<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let target = document.pointer(name.trim_start_matches('#')).expect("what is referred to");
        return faults(document, target, value, place);
    }
    let fits = |kind: &Value| match kind.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        other => panic!("a type of the document that is not known here: {other:?}"),
    };
    let kinds = &schema["type"];
    let mut found = Vec::new();
    if !kinds.as_array().map_or_else(|| fits(kinds), |kinds| kinds.iter().any(fits)) {
        found.push(format!("{place}: {value} is no {kinds}"));
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        found.push(format!("{place}: {value} is none of the words"));
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        found.extend(faults(document, &schema["items"], item, &format!("{place}[{index}]")));
    }
    if let (Some(object), Some(properties)) = (value.as_object(), schema["properties"].as_object()) {
        for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(key) {
                found.push(format!("{place} lacks {key}"));
            }
        }
        for (key, value) in object {
            match properties.get(key) {
                Some(schema) => found.extend(faults(document, schema, value, &format!("{place}.{key}"))),
                None if schema["additionalProperties"] == true => {}
                None => found.push(format!("{place}.{key} is not in the document")),
            }
        }
    }
    found
}

fn ask(bed: &Bed, method: &str, path: &str) -> (String, String, String) {
    let mut stream = UnixStream::connect(bed.path("control.sock")).expect("the control socket");
    write!(stream, "{method} {path} HTTP/1.0\r\nContent-Length: 0\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {answer}"));
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).expect("a type");
    (head[9..12].to_owned(), kind.to_owned(), body.to_owned())
}

#[test]
fn what_is_answered_is_what_the_document_says() {
    let document: Value = serde_json::from_str(DOCUMENT).expect("the document");
    let bed = Bed::new();
    bed.script("bad.ini", "exit=1");
    bed.vassal("a.ini");
    bed.vassal("bad.ini");
    let emperor = Builder::new(&bed, Kind::Ours)
        .opt("emperor-control", bed.path("control.sock"))
        .opt("emperor-runtime-dir", bed.path("run"))
        .start();
    bed.started("a.ini", 1);
    bed.started("bad.ini", 2);
    let mut checked = 0;
    let paths = document["paths"].as_object().expect("paths");
    // Another program takes over then, and does not answer while it does.
    for (path, methods) in paths.iter().filter(|(path, _)| !path.ends_with("/renew")) {
        for (method, operation) in methods.as_object().expect("methods") {
            for name in ["a.ini", "bad.ini", "nobody.ini"] {
                let place = format!("{method} {}", path.replace("{name}", name));
                let (status, kind, body) = ask(&bed, &method.to_uppercase(), &path.replace("{name}", name));
                let responses = &operation["responses"];
                let response = responses.get(&status).unwrap_or(&responses["default"]);
                let response = match response["$ref"].as_str() {
                    Some(name) => document.pointer(name.trim_start_matches('#')).expect("a response"),
                    None => response,
                };
                let content = response["content"].as_object().expect("content");
                let kind = kind.split(';').next().unwrap_or_default();
                let schema = content.get(kind).unwrap_or_else(|| panic!("{place}: {status} {kind}: {body}"));
                let texts: Vec<&str> = match kind {
                    "application/x-ndjson" => body.lines().collect(),
                    "application/json" | "application/problem+json" => vec![&body],
                    _ => continue,
                };
                for text in texts {
                    let value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{place}: {e}: {text}"));
                    let found = faults(&document, &schema["schema"], &value, &place);
                    assert!(found.is_empty(), "\n{}", found.join("\n"));
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 40, "{checked}");
    emperor.stop(&bed);
}
