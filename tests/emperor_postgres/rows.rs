//! Rows become vassals, and follow them.

use crate::support::{Bed, postgres::Postgres, root};
use crate::{Builder, Kind, NEVER, listening};

#[test]
fn a_row_is_a_vassal_that_is_told_of_changes_and_stopped_with_its_row() {
    let Some(postgres) = Postgres::announcing() else { return };
    let bed = Bed::new();
    postgres.vassal("a.ini", "[uwsgi]\n");
    postgres.vassal("b.yml", "uwsgi:\n");
    postgres.vassal("notes.txt", "nobody");
    let emperor = listening(&bed, &postgres).start();
    let given = bed.given("a.ini", 1);
    assert_eq!(given.argv[1..], ["--ini", "emperor://a.ini"]);
    assert_eq!(given.fd_in("UWSGI_EMPEROR_FD_CONFIG"), Some(5));
    assert!(given.fd(5).is_some_and(|fd| fd.target.starts_with("socket:") && !fd.cloexec));
    assert_eq!(given.cwd, bed.root());
    assert_eq!(bed.given("b.yml", 1).argv[1..], ["--yaml", "emperor://b.yml"]);
    bed.until("loyal", |log| log.said("a.ini", 17) == 1 && log.said("b.yml", 17) == 1);

    // Each by itself: a text, a date, both; and nothing for what is as it was.
    postgres.sql("UPDATE vassals SET config = '[uwsgi]\nprocesses = 2' WHERE name = 'a.ini'");
    bed.until("told of the text", |log| log.heard("a.ini") == ["1"]);
    postgres.sql("UPDATE vassals SET ts = ts + interval '1 ms' WHERE name = 'a.ini'");
    bed.until("told of the date", |log| log.heard("a.ini") == ["1", "1"]);
    postgres.sql("UPDATE vassals SET config = config");
    postgres.vassal("c.ini", "[uwsgi]\n");
    bed.started("c.ini", 1);
    assert_eq!((bed.log().heard("a.ini").len(), bed.log().heard("b.yml").len()), (2, 0));

    postgres.sql("DELETE FROM vassals WHERE name = 'a.ini'");
    bed.until("stopped", |log| log.heard("a.ini") == ["1", "1", "0"]);
    postgres.sql("TRUNCATE vassals");
    bed.until("all stopped", |log| log.heard("b.yml") == ["0"] && log.heard("c.ini") == ["0"]);
    assert!(emperor.lines("notes.txt").is_empty(), "{}", emperor.log());
    emperor.stop(&bed);
}

#[test]
fn without_a_trigger_it_looks_every_emperor_freq_and_says_so_once() {
    let Some(postgres) = Postgres::start() else { return };
    let bed = Bed::new();
    postgres.vassal("a.ini", "[uwsgi]\n");
    let emperor = Builder::bare(&bed, Kind::Ours).on(postgres.all()).witnessed().quick().start();
    bed.started("a.ini", 1);
    emperor.wait_log("is asked every 1s: no trigger notifies uwsgi_emperor_vassals");
    postgres.vassal("b.ini", "[uwsgi]\n");
    bed.started("b.ini", 1);
    postgres.sql(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN NOTIFY uwsgi_emperor_vassals; RETURN NULL; END $$; \
         CREATE TRIGGER t AFTER INSERT ON vassals FOR EACH STATEMENT EXECUTE FUNCTION f()",
    );
    emperor.wait_log("is asked whenever uwsgi_emperor_vassals is notified");
    assert_eq!(emperor.lines("is asked").len(), 2, "{}", emperor.log());
    emperor.stop(&bed);
}

#[test]
fn root_a_tenants_row_says_who_he_is_and_one_that_does_not_is_passed_over() {
    if !root() {
        return;
    }
    let Some(postgres) = Postgres::announcing() else { return };
    let bed = Bed::new();
    for name in ["a.ini", "root.ini", "nobody.ini"] {
        postgres.vassal(name, "[uwsgi]\n");
    }
    postgres.sql("UPDATE vassals SET uid = 4242, gid = 4343 WHERE name = 'a.ini'");
    postgres.sql("UPDATE vassals SET uid = 0, gid = 0 WHERE name = 'root.ini'");
    let emperor = listening(&bed, &postgres).flag("emperor-tyrant").start();
    let given = bed.given("a.ini", 1);
    assert_eq!(
        (given.field("Uid"), given.field("Gid")),
        ("4242 4242 4242 4242".into(), "4343 4343 4343 4343".into())
    );
    assert_eq!(given.argv[1..], ["--ini", "emperor://a.ini"]);
    assert_eq!(given.fd_in("UWSGI_EMPEROR_FD_CONFIG"), Some(5));
    assert!(given.fd(5).is_some(), "{:?}", given.fds);
    emperor
        .wait_log("nobody.ini is no vassal: in tyrant mode its source must say as which uid and gid it runs");
    emperor.wait_log("invalid permissions for vassal root.ini");
    bed.until("loyal", |log| log.said("a.ini", 17) == 1);
    postgres.sql("UPDATE vassals SET uid = 4244 WHERE name = 'a.ini'");
    bed.started("a.ini", 2);
    assert_eq!(bed.given("a.ini", 2).field("Uid"), "4244 4244 4244 4244");
    let log = bed.log();
    assert!(log.execs("root.ini").is_empty() && log.execs("nobody.ini").is_empty());
    emperor.stop(&bed);
}

#[test]
fn rows_and_files_live_side_by_side() {
    let Some(postgres) = Postgres::announcing() else { return };
    let bed = Bed::new();
    bed.vassal("file.ini");
    postgres.vassal("row.ini", "[uwsgi]\n");
    let emperor = listening(&bed, &postgres).on(bed.v()).start();
    let given = bed.given("file.ini", 1);
    assert_eq!((given.fd_in("UWSGI_EMPEROR_FD_CONFIG"), given.fd(5)), (None, None));
    assert!(bed.given("row.ini", 1).fd(5).is_some());
    let stats = emperor.stats();
    assert!(
        stats["emperor"][0].as_str().is_some_and(|it| it.starts_with("pg://host=127.0.0.1")),
        "{stats:#}"
    );
    emperor.stop(&bed);
}

#[test]
fn a_query_that_is_no_query_is_named_and_changes_nothing() {
    let Some(postgres) = Postgres::announcing() else { return };
    let bed = Bed::new();
    postgres.vassal("a.ini", "[uwsgi]\n");
    let emperor = Builder::bare(&bed, Kind::Ours)
        .on(postgres.source("SELECT name, config, EXTRACT(EPOCH FROM ts) FROM vassals"))
        .witnessed()
        .quick()
        .opt("emperor-rescan", NEVER)
        .start();
    bed.started("a.ini", 1);
    emperor.wait_log("is notified");
    postgres.sql("ALTER TABLE vassals RENAME TO others; NOTIFY uwsgi_emperor_vassals");
    let line = emperor.wait_log("relation \"vassals\" does not exist");
    assert!(line.contains("its vassals keep running"), "{line}");
    postgres.sql("ALTER TABLE others RENAME TO vassals");
    emperor.wait_log("answers again");
    assert_eq!(emperor.lines("does not exist").len(), 1, "{}", emperor.log());
    assert_eq!(bed.log().heard("a.ini"), [""; 0]);
    emperor.stop(&bed);
}

/// What a file may ask of the emperor, a text may, too; in tyrant mode it is read by a process that is the tenant.
#[test]
fn a_row_may_name_a_program_of_its_own() {
    let Some(postgres) = Postgres::announcing() else { return };
    for tyrant in [false, true] {
        if tyrant && !root() {
            return;
        }
        let bed = Bed::new();
        let witness = bed.witness();
        postgres.vassal("a.ini", &format!("[uwsgi]\ncommand = {} --own\n", witness.display()));
        postgres.sql("UPDATE vassals SET uid = 4242, gid = 4242");
        let emperor = listening(&bed, &postgres);
        let emperor = if tyrant { emperor.flag("emperor-tyrant") } else { emperor };
        let emperor = emperor.start();
        let given = bed.wait("its start", |log| {
            log.0.iter().any(|event| event.what == "exec").then(|| log.0[0].name.clone())
        });
        assert_eq!(bed.given(&given, 1).argv[1..], ["--own"], "{}", emperor.log());
        emperor.stop(&bed);
    }
}
