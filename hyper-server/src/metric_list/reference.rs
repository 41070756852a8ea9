//! The reference page of the metrics.

use super::{Label, METRICS, Values};
use crate::metrics;
use std::fmt::Write as _;

/// The page docs/reference/metrics.md.
pub(crate) fn reference() -> String {
    let mut page = "# hyperregistry: metrics\n\nGenerated from the list in `hyper-server/src/metric_list.rs`, which `/metrics` is \
                    made of, by `cargo xtask generate`.\n\nThe counts are those of one server and begin anew with its process. \
                    No series has the name of a repository, a user or a client. [Monitoring](../operate.md#monitoring) says \
                    what to watch.\n\n| metric | type | unit | labels | meaning |\n|---|---|---|---|---|\n"
        .to_owned();
    let mut labels: Vec<&Label> = Vec::new();
    for metric in METRICS {
        let names: Vec<String> = metric.labels.iter().map(|label| format!("`{}`", label.name)).collect();
        let (name, kind) = (metric.name, metric.kind());
        let _ = writeln!(
            page,
            "| `hyperregistry_{name}` | {kind} | {} | {} | {} |",
            metric.unit,
            names.join(", "),
            metric.meaning
        );
        for label in metric.labels {
            if !labels.iter().any(|known| known.name == label.name) {
                labels.push(label);
            }
        }
    }
    page.push_str("\n## Labels\n\n| label | values |\n|---|---|\n");
    for label in labels {
        let values = match label.values {
            Values::Of(values) => {
                values().iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ")
            }
            Values::OneOf(words) => words.to_owned(),
        };
        let _ = writeln!(page, "| `{}` | {values} |", label.name);
    }
    let bounds: Vec<_> = metrics::bucket_bounds().collect();
    let _ = writeln!(
        page,
        "\n`route` is `none` for a path that the registry does not have. `method` and `status` are `other` for those that it does \
         not count apart. A series appears with its first request.\n\nA histogram has the series `_bucket`, `_sum` and `_count`. \
         The bounds of its buckets (`le`) are {} seconds and `+Inf`.",
        bounds.join(", ")
    );
    page
}
