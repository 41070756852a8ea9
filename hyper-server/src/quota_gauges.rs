//! The gauges of quotas. Their series are bounded: one for each limit of a rule, whatever clients push.

use hyper_sdk::store::{QuotaNamespace, QuotaResource, QuotaUse};

type Each<'a> = &'a mut dyn FnMut(&[&str], i64);

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Whether a namespace has the limits of `*`, if it has any.
fn is_of_each(one: &QuotaUse) -> bool {
    !one.has_rule
}

/// What is used of each limit. For `*` that is what the namespace uses that uses most.
pub(crate) fn used(uses: &[QuotaUse], each: Each<'_>) {
    let star = uses.iter().find(|one| one.namespace == QuotaNamespace::Each);
    for resource in QuotaResource::ALL {
        for one in uses.iter().filter(|one| one.limits.of(resource).is_some()) {
            if one.namespace != QuotaNamespace::Each && !is_of_each(one) {
                let used = one.used.map_or(0, |used| used.of(resource));
                each(&[&one.namespace.to_string(), resource.name()], number(used));
            }
        }
        if star.is_some_and(|star| star.limits.of(resource).is_some()) {
            let those = uses.iter().filter(|one| is_of_each(one));
            let most = those.filter_map(|one| Some(one.used?.of(resource))).max();
            each(&["*", resource.name()], number(most.unwrap_or_default()));
        }
    }
}

/// The limits.
pub(crate) fn limits(uses: &[QuotaUse], each: Each<'_>) {
    for resource in QuotaResource::ALL {
        for one in uses.iter().filter(|one| !is_of_each(one)) {
            if let Some(limit) = one.limits.of(resource) {
                each(&[&one.namespace.to_string(), resource.name()], number(limit));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_sdk::store::{QuotaCounts, QuotaLimits};

    fn one(namespace: &str, used: u64, limit: u64, has_rule: bool) -> QuotaUse {
        let limits = QuotaLimits { tags: Some(limit), ..QuotaLimits::default() };
        let used = Some(QuotaCounts { tags: used, ..QuotaCounts::default() }).filter(|_| namespace != "*");
        QuotaUse {
            namespace: QuotaNamespace::parse(namespace).unwrap(),
            used,
            counting: None,
            limits,
            has_rule,
        }
    }

    #[test]
    fn what_clients_push_makes_no_series() {
        let uses = [
            one("*", 0, 5, true),
            one("**", 9, 20, true),
            one("a", 3, 5, false),
            one("b", 4, 5, false),
            // It has the limit of `*`, and a rule.
            one("own", 7, 5, true),
        ];
        let shown = |read: fn(&[QuotaUse], Each<'_>)| {
            let mut shown = Vec::new();
            read(&uses, &mut |labels, value| shown.push((labels.join(" "), value)));
            shown.sort();
            shown
        };
        let of = |list: [(&str, i64); 3]| list.map(|(labels, value)| (labels.to_owned(), value));
        assert_eq!(shown(used), of([("* tags", 4), ("** tags", 9), ("own tags", 7)]));
        assert_eq!(shown(limits), of([("* tags", 5), ("** tags", 20), ("own tags", 5)]));
    }
}
