//! What can be asked for: methods, paths, and how names of any bytes stand in them.

use hyper::{Method, StatusCode};

use super::Answer;
use crate::emperor::court::Wish;

/// What a request is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Route {
    /// `GET /metrics`.
    Metrics,
    /// `GET /v1/openapi.json`.
    Description,
    /// `GET /v1/emperor`.
    Emperor,
    /// `POST /v1/emperor/renew`.
    Renew,
    /// `GET /v1/events`; with `?follow`, and what happens from then on.
    Events {
        /// Whether the answer goes on.
        follow: bool,
    },
    /// `GET /v1/vassals`.
    Vassals,
    /// `GET /v1/vassals/{name}`.
    Vassal(Vec<u8>),
    /// `GET /v1/vassals/{name}/events`.
    EventsOf(Vec<u8>),
    /// `GET /v1/vassals/{name}/why`.
    Why(Vec<u8>),
    /// `POST /v1/vassals/{name}/{verb}`.
    Operate(Vec<u8>, Wish),
    /// `GET /v1/stats`: figures of all vassals.
    Figures,
    /// `GET /v1/vassals/{name}/stats`: all that is known of one.
    Stats(Vec<u8>),
    /// The document of one vassal and nothing else; at `emperor-stats-full` only.
    Document(Vec<u8>),
    /// Everything; at `emperor-stats-full` only.
    Full,
}

/// What there is, for programs.
pub(super) const DESCRIPTION: &str = include_str!("../../../docs/openapi.json");

/// The longest name that is taken: no source has longer ones.
const MOST_NAME: usize = 4096;

impl Route {
    /// Reads a request's method and path.
    ///
    /// # Errors
    /// The answer to a request that is for nothing.
    pub fn parse(method: &Method, path: &str) -> Result<Self, Answer> {
        let nothing = || {
            Answer::problem(
                StatusCode::NOT_FOUND,
                "nothing is at this path; /v1/emperor, /v1/vassals, /v1/stats, /v1/events and /metrics are there",
            )
        };
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        if path == "/metrics" {
            return if *method == Method::GET {
                Ok(Self::Metrics)
            } else {
                Err(Answer::not_allowed(&Method::GET))
            };
        }
        let mut parts = path.strip_prefix("/v1/").ok_or_else(nothing)?.split('/');
        let parts = [parts.next(), parts.next(), parts.next(), parts.next()];
        let name = |text: &str| {
            unescape(text).filter(|name| (1..=MOST_NAME).contains(&name.len())).ok_or_else(|| {
                Answer::problem(
                    StatusCode::BAD_REQUEST,
                    "this is no vassal's name: a byte that is no letter, digit, `-`, `.`, `_` or `~` is written %XX",
                )
            })
        };
        let (route, wanted) = match parts {
            [Some("openapi.json"), None, ..] => (Self::Description, Method::GET),
            [Some("emperor"), None, ..] => (Self::Emperor, Method::GET),
            [Some("emperor"), Some("renew"), None, _] => (Self::Renew, Method::POST),
            [Some("vassals"), None, ..] => (Self::Vassals, Method::GET),
            [Some("events"), None, ..] => (Self::Events { follow: asks_to_follow(query) }, Method::GET),
            [Some("vassals"), Some(text), None, _] => (Self::Vassal(name(text)?), Method::GET),
            [Some("stats"), None, ..] => (Self::Figures, Method::GET),
            [Some("vassals"), Some(text), Some("stats"), None] => (Self::Stats(name(text)?), Method::GET),
            [Some("vassals"), Some(text), Some("events"), None] => (Self::EventsOf(name(text)?), Method::GET),
            [Some("vassals"), Some(text), Some("why"), None] => (Self::Why(name(text)?), Method::GET),
            [Some("vassals"), Some(text), Some(verb), None] => {
                (Self::Operate(name(text)?, wish(verb).ok_or_else(nothing)?), Method::POST)
            }
            _ => return Err(nothing()),
        };
        if *method != wanted {
            return Err(Answer::not_allowed(&wanted));
        }
        Ok(route)
    }

    /// Reads what is asked for at `emperor-stats-full`: `/` for everything, or `/{name}` for one vassal's document.
    ///
    /// # Errors
    /// The answer to a request that is for nothing.
    pub fn of_stats(path: &str) -> Result<Self, Answer> {
        let path = path.split(['?', '#']).next().unwrap_or_default();
        match path.strip_prefix('/').unwrap_or(path) {
            "" => Ok(Self::Full),
            text => unescape(text).map(Self::Document).ok_or_else(|| {
                Answer::problem(
                    StatusCode::NOT_FOUND,
                    "nothing is at this path; `/` and `/{vassal}` are there",
                )
            }),
        }
    }
}

/// `follow`, `follow=1`, `follow=true`.
fn asks_to_follow(query: &str) -> bool {
    query.split('&').any(|part| matches!(part, "follow" | "follow=" | "follow=1" | "follow=true"))
}

fn wish(verb: &str) -> Option<Wish> {
    VERBS.iter().find(|(word, _)| *word == verb).map(|(_, wish)| *wish)
}

/// What can be done with a vassal.
const VERBS: [(&str, Wish); 6] = [
    ("stop", Wish::Stop),
    ("start", Wish::Start),
    ("restart", Wish::Restart),
    ("reload", Wish::Reload),
    ("roll", Wish::Roll),
    ("clear", Wish::Clear),
];

/// A name as it stands in a path. Source: RFC 3986, 2.3: what needs no escape.
#[must_use]
pub fn escape(name: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(name.len());
    for byte in name {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "%{byte:02X}"); // into memory: it cannot fail
        }
    }
    text
}

/// The name that stands in a path; `None` if none does.
#[must_use]
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        if *first != b'%' {
            name.push(*first);
            continue;
        }
        let [high, low, behind @ ..] = rest else { return None };
        let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        name.push(digit(high)? << 4 | digit(low)?);
        rest = behind;
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_bytes_come_back() {
        let all: Vec<u8> = (0..=255).collect();
        for name in [&all[..], b"shop.ini", b"/srv/a b/%2F.ini", b"\xff\0"] {
            let text = escape(name);
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'), "{text}");
            assert_eq!(unescape(&text).as_deref(), Some(name));
        }
        assert_eq!(escape(b"shop-1.ini"), "shop-1.ini");
        for bad in ["%", "%4", "%zz", "a%", "%+1", "%%%"] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }

    /// Where a route is; a new one does not compile before it is here.
    fn place(route: &Route) -> Option<(&'static str, String)> {
        let path = match route {
            Route::Metrics => "/metrics",
            Route::Description => "/v1/openapi.json",
            Route::Emperor => "/v1/emperor",
            Route::Renew => return Some(("post", "/v1/emperor/renew".into())),
            Route::Events { .. } => "/v1/events",
            Route::Vassals => "/v1/vassals",
            Route::Vassal(_) => "/v1/vassals/{name}",
            Route::EventsOf(_) => "/v1/vassals/{name}/events",
            Route::Why(_) => "/v1/vassals/{name}/why",
            Route::Stats(_) => "/v1/vassals/{name}/stats",
            Route::Operate(_, wish) => {
                let (verb, _) = VERBS.iter().find(|(_, known)| known == wish)?;
                return Some(("post", format!("/v1/vassals/{{name}}/{verb}")));
            }
            Route::Figures => "/v1/stats",
            Route::Document(_) | Route::Full => return None, // not at the control socket
        };
        Some(("get", path.into()))
    }

    #[test]
    fn the_openapi_document_has_each_route_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(DESCRIPTION).unwrap();
        let mut described = 0;
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                let wanted: Method = method.to_uppercase().parse().unwrap();
                let route = Route::parse(&wanted, &path.replace("{name}", "a.ini"));
                let route = route.unwrap_or_else(|answer| panic!("{method} {path}: {answer:?}"));
                assert_eq!(place(&route), Some((&**method, path.clone())));
                described += 1;
            }
        }
        let name = || b"a".to_vec();
        let plain = [
            Route::Metrics,
            Route::Description,
            Route::Emperor,
            Route::Renew,
            Route::Events { follow: true },
            Route::Vassals,
            Route::Vassal(name()),
            Route::EventsOf(name()),
            Route::Why(name()),
            Route::Stats(name()),
            Route::Figures,
        ];
        let verbs = VERBS.map(|(_, wish)| Route::Operate(name(), wish));
        let all: Vec<_> = plain.iter().chain(&verbs).filter_map(place).collect();
        assert_eq!(all.len(), described);
        for (method, path) in all {
            assert!(document["paths"][&path][method].is_object(), "docs/openapi.json lacks {method} {path}");
        }
    }

    #[test]
    fn each_path_has_one_method_and_one_meaning() {
        let get = |path| Route::parse(&Method::GET, path);
        let post = |path| Route::parse(&Method::POST, path);
        assert_eq!(get("/v1/emperor").unwrap(), Route::Emperor);
        assert_eq!(post("/v1/emperor/renew").unwrap(), Route::Renew);
        assert_eq!(get("/v1/vassals").unwrap(), Route::Vassals);
        assert_eq!(get("/metrics").unwrap(), Route::Metrics);
        assert_eq!(get("/v1/vassals/a%2Fb").unwrap(), Route::Vassal(b"a/b".to_vec()));
        assert_eq!(get("/v1/stats").unwrap(), Route::Figures);
        assert_eq!(get("/v1/vassals/stats").unwrap(), Route::Vassal(b"stats".to_vec()));
        assert_eq!(get("/v1/vassals/a%2Fb/stats").unwrap(), Route::Stats(b"a/b".to_vec()));
        assert_eq!(Route::of_stats("/?x=1").unwrap(), Route::Full);
        assert_eq!(Route::of_stats("").unwrap(), Route::Full);
        assert_eq!(Route::of_stats("/a%2Fb?x").unwrap(), Route::Document(b"a/b".to_vec()));
        assert_eq!(Route::of_stats("/%").unwrap_err().status().as_u16(), 404);
        assert_eq!(get("/v1/vassals/a/why").unwrap(), Route::Why(b"a".to_vec()));
        assert_eq!(get("/v1/vassals/a/events").unwrap(), Route::EventsOf(b"a".to_vec()));
        assert_eq!(get("/v1/events").unwrap(), Route::Events { follow: false });
        assert_eq!(get("/v1/events?x&follow=1").unwrap(), Route::Events { follow: true });
        assert_eq!(get("/v1/vassals/a?follow").unwrap(), Route::Vassal(b"a".to_vec()));
        assert_eq!(post("/v1/vassals/a/stop").unwrap(), Route::Operate(b"a".to_vec(), Wish::Stop));
        let status = |answer: Result<Route, Answer>| answer.unwrap_err().status().as_u16();
        for path in
            ["/", "", "/v2/emperor", "/v1", "/v1/", "/v1/vassals/a/eat", "/v1/vassals/a/stop/now", "*"]
        {
            assert_eq!((status(get(path)), status(post(path))), (404, 404), "{path}");
        }
        for path in ["/v1/vassals/", "/v1/vassals/%", "/v1/vassals//stop"] {
            assert_eq!(status(get(path)), 400, "{path}");
        }
        let long = format!("/v1/vassals/{}", "a".repeat(5000));
        assert_eq!(status(get(&long)), 400);
        for path in ["/metrics", "/v1/emperor", "/v1/vassals", "/v1/vassals/a"] {
            assert_eq!(status(post(path)), 405, "{path}");
        }
        assert_eq!(status(get("/v1/vassals/a/stop")), 405);
    }
}
