//! The fuzz targets of the configuration, run on random texts made of what each format is made of.

#[path = "../fuzz/config.rs"]
mod config;

use proptest::prelude::*;

/// Texts of up to `most` pieces.
fn texts(pieces: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        9 => prop::sample::select(pieces).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(piece, 0..most).prop_map(|pieces| pieces.concat())
}

const INI: &[&str] = &[
    "[uwsgi]\n",
    "\n",
    "\n",
    " = ",
    "=",
    "a",
    "b",
    "%(a)",
    "%(b)",
    "%(",
    "$(HOME)",
    "@(t)",
    "@(exec://x)",
    "%n",
    "%",
    "%%",
    "x",
    "include",
    "inherit",
    "ini",
    ":uwsgi",
    "a.ini",
    "input.ini",
    "set",
    "set-ph",
    "for",
    "for-times",
    "for-glob",
    "endfor",
    "if-env",
    "if-opt",
    "if-not-exists",
    "endif",
    "declare-option",
    "d=a=$1;d=$1",
    "d",
    "strict",
    "print",
    "exit",
    "processes",
    "-1",
    "chmod-socket",
    "socket",
    "hook-asap",
    "blacklist",
    "whitelist",
    "inject-before",
    "t",
    "early-envdir",
    "plugin",
    "python3",
    "fallback-config",
    "  ; c",
    "#",
    "\0",
    "\r",
    "\t",
    "%(a + b * 2)",
    "9999999999999999999",
    "listen",
    "[",
    "]",
];
const YAML: &[&str] = &[
    "uwsgi:\n",
    "  a: ",
    "  b:\n",
    "    - ",
    "- ",
    "\n",
    "  ",
    "[",
    "]",
    "{",
    "}",
    ",",
    ": ",
    ":",
    "? ",
    "\"",
    "'",
    "\\",
    "|",
    ">",
    "+",
    "-",
    "2",
    "x",
    "#c",
    "&a",
    "*a",
    "!t ",
    "---\n",
    "...",
    "%YAML 1.1\n",
    "%%",
    "\t",
    "\u{2028}",
    "\u{85}",
    "\r\n",
    "é",
    "%n",
    "%(a)",
    "json: input.json\n",
];
const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"uwsgi\"",
    "\"a\"",
    "\"",
    "\\",
    "\\u0041",
    "\\ud83d",
    "1",
    "-",
    ".5",
    "e3",
    "true",
    "null",
    "/*",
    "*/",
    "//",
    "\n",
    " ",
    "%n",
    "{\"uwsgi\":{",
    "}}",
    "\"include\":\"a.ini\"",
    "\"json\":\"input.json\"",
];
const XML: &[&str] = &[
    "<uwsgi>",
    "</uwsgi>",
    "<a>",
    "</a>",
    "<b/>",
    "<app mountpoint=\"/m\">",
    "</app>",
    "<c id=\"x\">",
    "</c>",
    "&amp;",
    "&#65;",
    "&",
    ";",
    "<!-- c -->",
    "<![CDATA[",
    "]]>",
    "<?p q?>",
    "<!DOCTYPE",
    ">",
    "<",
    "\"",
    "text",
    "\n",
    " ",
    "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>",
    "<include>a.ini</include>",
    "%n",
    "<x:y xmlns:x=\"z\">",
];
const ARGUMENTS: &[&str] = &[
    "--",
    "--ini",
    "--ini=",
    "input.ini",
    "a.ini",
    "-",
    "-p",
    "4",
    "-MT",
    "-C",
    "--set",
    "a=b",
    "--show-conf",
    "--processes",
    "=",
    "\n",
    "\n",
    "UWSGI_INI=a.ini\n",
    "UWSGI_A_B=%(a)\n",
    "--get",
    "a",
    "--emperor",
    "--emperor-s",
    "--exit",
    "[x]",
    "input.yml",
    ":x",
    "--if-env",
    "--for",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_ini_file_is_read_or_refused(text in texts(INI, 60)) {
        config::ini(&text);
    }

    #[test]
    fn any_yaml_file_is_read_or_refused(text in texts(YAML, 60)) {
        config::yaml(&text);
    }

    #[test]
    fn any_json_file_is_read_or_refused(text in texts(JSON, 40)) {
        config::json(&text);
    }

    #[test]
    fn any_xml_file_is_read_or_refused(text in texts(XML, 40)) {
        config::xml(&text);
    }

    #[test]
    fn any_command_line_is_read_or_refused(text in texts(ARGUMENTS, 40)) {
        config::arguments(&text);
    }
}
