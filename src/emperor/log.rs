//! The emperor's log: one line an event on standard error, in uWSGI's form or as JSON.

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::sys::clock;

/// What a line looks like.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Form {
    /// `Sun Nov 22 15:00:13 2026 - [emperor] vassal x.ini is now loyal`.
    #[default]
    Uwsgi,
    /// One JSON object a line.
    Json,
}

/// Directs all events of this process to standard error, from `level` on. The first call counts.
pub fn start(form: Form, level: tracing::Level) {
    let builder =
        tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false);
    // A second call, as in a test that starts two roles, changes nothing.
    let _ = match form {
        Form::Uwsgi => builder.event_format(UwsgiForm).try_init(),
        Form::Json => builder.json().flatten_event(true).with_target(false).try_init(),
    };
}

struct UwsgiForm;

impl<S, N> FormatEvent<S, N> for UwsgiForm
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        write!(writer, "{} - ", clock::local_time(c"%a %b %e %H:%M:%S %Y"))?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
