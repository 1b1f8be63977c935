//! Every command in docs/languages.md does what is written beside it: one vassal in each language, behind nginx.

mod support;

use std::path::Path;

use support::page::{Page, Play};

const LANGUAGES: Page = Page { text: include_str!("../docs/languages.md"), also: &[] };

/// The chapter that comes before each of the others.
const BEFORE: &str = "nginx and the emperor";

macro_rules! languages {
    ($($name:ident: $chapter:literal needs $needs:expr;)*) => {
        $(
            #[test]
            fn $name() {
                LANGUAGES.play(&Play {
                    chapters: &[BEFORE, $chapter],
                    emperor: Path::new(env!("CARGO_BIN_EXE_emperor")),
                    needs: &[&["nginx"], &$needs[..]].concat(),
                    hidden: &[],
                });
            }
        )*

        #[test]
        fn every_language_is_tried() {
            assert_eq!(LANGUAGES.chapters(), [BEFORE, $($chapter),*]);
        }
    };
}

languages! {
    root_cgi: "CGI" needs ["uwsgi"];
    root_php: "PHP" needs ["uwsgi", "/usr/lib/uwsgi/plugins/php_plugin.so"];
    root_perl: "Perl" needs ["uwsgi", "/usr/lib/uwsgi/plugins/psgi_plugin.so"];
    root_ruby: "Ruby" needs ["uwsgi", "/usr/lib/uwsgi/plugins/rack_plugin.so"];
    root_lua: "Lua" needs ["uwsgi", "/usr/lib/uwsgi/plugins/lua51_plugin.so"];
    root_java: "Java" needs ["uwsgi", "/usr/lib/uwsgi/plugins/jwsgi_plugin.so", "javac"];
    root_webdav: "WebDAV" needs ["uwsgi", "/usr/lib/uwsgi/plugins/webdav_plugin.so"];
    root_pypy: "PyPy" needs ["pypy3", "gunicorn"];
    root_mono: "Mono" needs ["fastcgi-mono-server4"];
}
