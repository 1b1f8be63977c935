//! A vassal that means harm, under each level of the sandbox, in tyrant mode and out of it: what each of its attempts
//! comes to is a row of `attempts.tsv`, from which the table in `docs/security.md` is made. The same attempts are made
//! under uWSGI's Emperor and in a hardened unit of systemd.
//!
//! The program is `hostile/main.c`. All of it runs in namespaces of the test's own (`hostile/stage.c`), so that also
//! where an attempt succeeds nothing of the machine is touched. `EMPEROR_BLESS=1` writes what was found into the rows,
//! and the table into the documentation.

#[path = "../support/mod.rs"]
mod support;

mod app;
mod race;
mod rows;
mod stage;
mod unit;

use rows::{Rows, judge};
use stage::{Level, Stage, Who};
use support::emperor::Kind;

fn under(level: Level, who: Who) {
    if !stage::possible() {
        return;
    }
    judge(&level.column(who), &Stage::new(Kind::Ours, level, who).found());
}

#[test]
fn root_without_a_sandbox_the_attempts_of_a_tenant_are_real() {
    under(Level::None, Who::Tenant);
}

#[test]
fn root_without_a_sandbox_the_attempts_of_a_user_are_real() {
    under(Level::None, Who::User);
}

#[test]
fn root_without_a_sandbox_the_attempts_of_root_are_real() {
    under(Level::None, Who::Root);
}

#[test]
fn root_a_standard_sandbox_holds_a_tenant() {
    under(Level::Standard, Who::Tenant);
}

#[test]
fn root_a_standard_sandbox_holds_a_user() {
    under(Level::Standard, Who::User);
}

#[test]
fn root_a_standard_sandbox_holds_root() {
    under(Level::Standard, Who::Root);
}

#[test]
fn root_a_strict_sandbox_holds_a_tenant() {
    under(Level::Strict, Who::Tenant);
}

#[test]
fn root_a_strict_sandbox_holds_a_user() {
    under(Level::Strict, Who::User);
}

#[test]
fn root_a_strict_sandbox_holds_root() {
    under(Level::Strict, Who::Root);
}

#[test]
fn root_uwsgis_emperor_holds_a_tenant_as_far_as_the_rows_say() {
    if !stage::possible() || Kind::Real.program().is_none() {
        return;
    }
    judge("uwsgi", &Stage::new(Kind::Real, Level::None, Who::Tenant).found());
}

#[test]
fn root_a_hardened_unit_holds_a_user_as_far_as_the_rows_say() {
    if !stage::possible() {
        return;
    }
    if let Some(found) = unit::found() {
        judge("unit", &found);
    }
}

/// What no emperor leaves open is looked for by somebody who has it.
#[test]
fn root_without_an_emperor_a_descriptor_is_a_way_out() {
    if !stage::possible() {
        return;
    }
    for name in ["escape-descriptor", "escape-descriptor-secret", "escape-descriptor-directory"] {
        let log = stage::alone(&format!("only={name}"));
        assert!(log.contains(&format!("hostile {name} succeeded\n")), "{log}");
    }
}

/// An attempt that comes to nothing anywhere shows nothing about a sandbox.
#[test]
fn every_attempt_succeeds_somewhere_unless_its_row_says_why_not() {
    let rows = Rows::read();
    let idle = rows.all().filter(|row| !row.is_real()).map(|row| row.name.clone());
    assert_eq!(idle.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn the_table_of_the_documentation_is_that_of_the_rows() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/security.md");
    let text = std::fs::read_to_string(path).expect("docs/security.md");
    let (begin, end) = ("<!-- attempts -->\n", "<!-- /attempts -->");
    let head = text.find(begin).expect("where the table begins") + begin.len();
    let tail = text.find(end).expect("where the table ends");
    let made = format!("{}{}{}", &text[..head], Rows::read().markdown(), &text[tail..]);
    if rows::bless() {
        std::fs::write(path, made).expect("docs/security.md");
    } else {
        assert_eq!(text, made, "EMPEROR_BLESS=1 makes it again");
    }
}
