//! The text of a snapshot.

use std::fmt::{self, Write};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::families::{FAMILIES, Kind, float};
use super::{Counts, Snapshot};

/// The formats that a client may ask for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, version 0.0.4: what curl, promtool and older tools read.
    Plain,
}

impl Format {
    /// What an `Accept` header asks for.
    #[must_use]
    pub fn accepted(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Plain,
        }
    }

    /// Its media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

impl Snapshot {
    /// Writes it. Takes some microseconds a vassal: not for the loop.
    #[must_use]
    pub fn text(self, format: Format) -> String {
        let mut text = String::with_capacity(4096 + self.rows.len() * 1800);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        // Into memory: it cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        match format {
            Format::OpenMetrics => text,
            Format::Plain => plain(&text),
        }
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut info =
            encoder.encode_descriptor("emperor_build_info", "Always 1", None, MetricType::Gauge)?;
        info.encode_family(&[("version", self.version)])?.encode_gauge(&1.0)?;
        let mut states =
            encoder.encode_descriptor("emperor_vassals", "Vassals by state", None, MetricType::Gauge)?;
        for (state, count) in &self.states {
            states.encode_family(&[("state", *state)])?.encode_gauge(&float(*count))?;
        }
        encoder
            .encode_descriptor(
                "emperor_vassals_left_out",
                "Vassals without series of their own, for there would be too many",
                None,
                MetricType::Gauge,
            )?
            .encode_gauge(&float(self.left_out))?;
        if let Some(counts) = &self.counts {
            encode_counts(counts, &mut encoder)?;
        }
        for family in FAMILIES {
            self.encode_family(family, &mut encoder)?;
        }
        Ok(())
    }
}

impl Snapshot {
    fn encode_family(&self, family: &super::Family, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match family.kind {
            Kind::Gauge => MetricType::Gauge,
            Kind::Counter => MetricType::Counter,
        };
        let mut series = encoder.encode_descriptor(family.name, family.help, family.unit.as_ref(), kind)?;
        for row in &self.rows {
            let mut written = Ok(());
            (family.values)(row, &mut |(label, value)| {
                let vassal = ("vassal", row.vassal.as_str());
                let one = match label {
                    None => encode_one(&mut series, &[vassal], family.kind, value),
                    Some(label) => encode_one(&mut series, &[vassal, label], family.kind, value),
                };
                written = written.and(one);
            });
            written?;
        }
        Ok(())
    }
}

fn encode_one(
    series: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    kind: Kind,
    value: f64,
) -> fmt::Result {
    let mut one = series.encode_family(labels)?;
    match kind {
        Kind::Gauge => one.encode_gauge(&value),
        Kind::Counter => one.encode_counter::<NoLabelSet, f64, f64>(&value, None),
    }
}

fn encode_counts(counts: &Counts, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    for (name, help, metric) in counts.all() {
        let series = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
        metric.encode(series)?;
    }
    for (name, help, metric) in counts.times() {
        let unit = prometheus_client::registry::Unit::Seconds;
        let series = encoder.encode_descriptor(name, help, Some(&unit), metric.metric_type())?;
        metric.encode(series)?;
    }
    Ok(())
}

/// The same in the older format, which knows no units, calls a counter by its series' name, and has no end.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help: Option<(&str, &str)> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
            continue;
        }
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let total = if kind == "counter" { "_total" } else { "" };
            let words = help.take().filter(|(of, _)| *of == name).map_or("", |(_, words)| words);
            let _ = writeln!(out, "# HELP {name}{total} {words}\n# TYPE {name}{total} {kind}");
            continue;
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::Row;
    use super::super::tests::full;
    use super::*;

    #[test]
    fn both_formats_name_each_family_with_its_type_and_each_series_by_the_convention() {
        let open = full(2).text(Format::OpenMetrics);
        assert!(open.ends_with("# EOF\n"), "{open}");
        let plain = full(2).text(Format::Plain);
        assert!(!plain.contains("# EOF") && !plain.contains("# UNIT"), "{plain}");
        for family in FAMILIES {
            let series = family.series();
            let family_name = series.strip_suffix("_total").unwrap_or(&series);
            let kind = if family.kind == Kind::Counter { "counter" } else { "gauge" };
            assert!(open.contains(&format!("# TYPE {family_name} {kind}\n")), "{family_name}: {open}");
            assert!(plain.contains(&format!("# TYPE {series} {kind}\n")), "{series}: {plain}");
            for text in [&open, &plain] {
                let of_first = format!("{series}{{vassal=\"site-0000.example.org.ini\"");
                assert!(text.contains(&of_first), "{of_first}: {text}");
            }
        }
        assert!(plain.contains("\nemperor_vassals{state=\"running\"} 2.0\n"), "{plain}");
        assert!(plain.contains("emperor_vassal_start_seconds_bucket{le=\"0.01\"} 0\n"), "{plain}");
    }

    #[test]
    fn a_name_of_any_characters_stays_within_its_label() {
        let mut snapshot = Snapshot::new("1", &["running"], false, None);
        let vassal = "a\"} 7\nemperor_vassals 9\\".to_owned();
        snapshot.add("running", 0, || Row { vassal, state: "running", ..Row::default() });
        for format in [Format::OpenMetrics, Format::Plain] {
            let mut again = Snapshot::new("1", &["running"], false, None);
            let row = snapshot.rows[0].clone();
            again.add("running", 0, || row);
            let text = again.text(format);
            assert!(text.contains(r#"{vassal="a\"} 7\nemperor_vassals 9\\",state="running"} 1.0"#), "{text}");
            assert!(!text.contains("\nemperor_vassals 9"), "{text}");
        }
    }

    #[test]
    fn a_thousand_vassals_fit_into_two_megabytes() {
        let text = full(1000).text(Format::Plain);
        assert!(text.len() < 2_000_000, "{} bytes", text.len());
    }

    #[test]
    fn who_asks_for_openmetrics_gets_it() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert_eq!(Format::accepted(Some(prometheus)), Format::OpenMetrics);
        assert_eq!(Format::accepted(Some("text/plain")), Format::Plain);
        assert_eq!(Format::accepted(None), Format::Plain);
    }
}
