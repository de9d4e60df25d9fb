//! `GET /netd/v1/metrics`: what monitoring asks for, as `OpenMetrics` text.
//!
//! No label per flow, address or sandbox: how many there are is for others to decide.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
};

use axum::{extract::State, http::header, response::IntoResponse};
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet, text},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::Registry,
};

use super::{extract::Failure, router::Api};
use crate::{
    controller::{Code, Error, Status},
    dataplane::{PortTries, TableUse},
};

/// The format's media type (`OpenMetrics` 1.0).
const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;

pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Result<impl IntoResponse, Failure> {
    let (status, drops) = (api.status().await?, api.handle.drops().await?);
    let text = text(&status, &drops)
        .map_err(|error| Failure::from(Error::new(Code::Failure, format!("write the metrics: {error}"))))?;
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], text))
}

fn text(status: &Status, drops: &[(&'static str, u64)]) -> Result<String, fmt::Error> {
    let mut all = Registry::with_prefix("netd");
    all.register("build", "What runs", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
    let degraded = usize::from(status.state != "ready");
    for (name, help, value) in [
        ("networks", "Bridge networks", status.networks),
        ("sandboxes", "Sandboxes", status.sandboxes),
        ("published_ports", "Published ports", status.published_ports),
        ("degraded", "1 while something is not as it should be", degraded),
    ] {
        gauge(&mut all, name, help, value);
    }
    let drops = drops.iter().map(|(reason, packets)| (vec![("reason", (*reason).to_owned())], *packets));
    counters(&mut all, "drops", "Packets dropped", drops);
    let looks = [(Vec::new(), status.map_looks)].into_iter();
    counters(
        &mut all,
        "map_looks",
        "Looks whether others have written to the maps that netd alone writes",
        looks,
    );
    for (name, help, count) in [
        ("audit_records", "Calls written to the audit log", status.audit.records),
        ("audit_lost", "Calls that found no room in its queue or on the disk", status.audit.lost),
    ] {
        let counter: Counter = Counter::default();
        counter.inc_by(count);
        all.register(name, help, counter);
    }
    flows(&mut all, status);
    let mut text = String::new();
    text::encode(&mut text, &all)?;
    Ok(text)
}

/// The flow tables, under the names of Linux's own connection tracking.
fn flows(all: &mut Registry, status: &Status) {
    let of = |what: fn(&TableUse) -> f64| {
        let tables = status.flows.tables.iter();
        tables.map(move |table| (vec![("map", table.map.clone())], what(table)))
    };
    gauges(
        all,
        "conntrack_entries",
        "Entries of the flow table, two for a flow",
        of(|table| table.entries.into()),
    );
    gauges(all, "conntrack_capacity", "Entries that it has room for", of(|table| table.capacity.into()));
    let quota = "Entries that one sandbox's endpoint may take";
    gauges(all, "conntrack_endpoint_quota", quota, of(|table| table.endpoint_quota.into()));
    let ratio = |table: &TableUse| f64::from(table.entries) / f64::from(table.capacity.max(1));
    gauges(all, "map_pressure_ratio", "How full a map is, 1 when full", of(ratio));
    let help = "1 while timeouts are short because room is";
    gauge(all, "conntrack_shortened_timeouts", help, usize::from(status.flows.shortened_timeouts));
    let reclaimed =
        status.flows.tables.iter().map(|table| (vec![("map", table.map.clone())], table.reclaimed));
    counters(all, "conntrack_reclaimed", "Entries of expired flows that were removed", reclaimed);
    let refused =
        status.flows.refused.iter().map(|(reason, packets)| (vec![("reason", reason.clone())], *packets));
    counters(all, "conntrack_insert_failures", "Packets whose flow found no room", refused);
    let help =
        "Ports tried until a masqueraded flow had one; flows without one are conntrack_insert_failures";
    all.register("nat_port_tries", help, Tries(status.flows.port_tries.clone()));
}

/// A histogram that the programs have counted.
#[derive(Debug)]
struct Tries(PortTries);

impl EncodeMetric for Tries {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let Self(PortTries { flows, tries }) = self;
        let mut classes: Vec<(f64, u64)> =
            flows.iter().map(|(most, flows)| (f64::from(*most), *flows)).collect();
        classes.push((f64::INFINITY, 0)); // nobody tries more often than the last class has it
        #[expect(clippy::cast_precision_loss, reason = "exact for the first 2^53 tries")]
        let sum = *tries as f64;
        encoder.encode_histogram::<NoLabelSet>(sum, flows.values().sum(), &classes, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

fn gauge(all: &mut Registry, name: &str, help: &str, value: usize) {
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    all.register(name, help, gauge);
}

fn gauges(all: &mut Registry, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) {
    let family = Gauges::default();
    for (labels, value) in values {
        family.get_or_create(&labels).set(value);
    }
    all.register(name, help, family);
}

fn counters(all: &mut Registry, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
    let family = Family::<Labels, Counter>::default();
    for (labels, value) in values {
        family.get_or_create(&labels).inc_by(value);
    }
    all.register(name, help, family);
}
