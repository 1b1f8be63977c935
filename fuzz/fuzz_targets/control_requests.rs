#![no_main]

use emperor::emperor::control::{Route, escape, unescape};
use libfuzzer_sys::arbitrary::{Arbitrary, Unstructured};

// Whatever a request's method and path are, they are a route or a problem; a name in a path is the bytes that it was
// made of, and is nothing else.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut input = Unstructured::new(bytes);
    let Ok(method) = <&[u8]>::arbitrary(&mut input) else { return };
    let rest = input.take_rest();
    let path = String::from_utf8_lossy(rest);
    let (get, post) = ("GET".parse().unwrap(), "POST".parse().unwrap());
    let other = method.try_into().unwrap_or("PUT".parse().unwrap());
    for method in [&get, &post, &other] {
        match Route::parse(method, &path) {
            Ok(Route::Vassal(name) | Route::Why(name) | Route::EventsOf(name) | Route::Operate(name, _)) => {
                assert!((1..=4096).contains(&name.len()));
                assert_eq!(unescape(&escape(&name)).as_deref(), Some(&*name));
            }
            Ok(_) => {}
            Err(answer) => assert!([400, 404, 405].contains(&answer.status().as_u16())),
        }
    }
    let _ = Route::of_stats(&path);
    let escaped = escape(rest);
    assert_eq!(unescape(&escaped).as_deref(), Some(rest));
    assert!(!escaped.contains(['/', '?', '#', ' ']));
    if (1..=4096).contains(&rest.len()) {
        let route = Route::parse(&get, &format!("/v1/vassals/{escaped}/why"));
        assert_eq!(route.ok(), Some(Route::Why(rest.to_vec())));
    }
});
