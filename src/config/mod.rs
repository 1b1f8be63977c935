//! uWSGI's configuration language: ini, yaml, json and xml become one ordered list of options, each with its file and line.
#![forbid(unsafe_code)]
