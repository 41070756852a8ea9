//! When a directory suggests to renew a certificate (RFC 9773): earlier than usual, if it must revoke it.

use super::certificate::{Certificate, Name};
use super::handle::Acme;
use hyper_sdk::{Error, Result};
use tokio_util::task::AbortOnDropHandle;

/// How old a certificate is before anybody is asked about it.
const AGE: i64 = 24 * 60 * 60;
/// The shortest and the longest time between two questions, and that after one without an answer.
const AGAIN: (i64, i64) = (6 * 60 * 60, 24 * 60 * 60);

/// When a certificate may be renewed, as its directory says. Times are in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: i64,
    pub(super) end: i64,
    /// When to ask again, if the directory says so.
    pub(super) again: Option<i64>,
}

/// What a directory has said of the certificate in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Renewal {
    of: Option<Name>,
    /// When it is renewed.
    at: Option<i64>,
    /// When to ask again.
    next: i64,
}

impl Renewal {
    /// When a certificate is renewed, if that is earlier than `due`.
    pub(super) fn due(&self, certificate: &Certificate, due: i64) -> i64 {
        let is_known = certificate.name.is_some() && self.of == certificate.name;
        self.at.filter(|_| is_known).map_or(due, |at| at.min(due))
    }

    /// Asks the directory, when it is time. `spread`, of 0 to 1, says where in the window it is renewed.
    pub(super) async fn refresh(&mut self, acme: &Acme, certificate: &Certificate, now: i64, spread: f64) {
        if !self.is_wanted(certificate, now) {
            return;
        }
        let Some(name) = certificate.name.clone() else { return };
        // In a task of its own: what breaks there must not end the renewal for ever.
        let (at, of) = (acme.clone(), name.clone());
        let asking = AbortOnDropHandle::new(tokio::spawn(async move { window(&at, &of).await }));
        let asked = asking.await.map_err(|e| Error::internal("the question was interrupted").with_source(e));
        match asked.flatten() {
            Ok(window) => self.take(name, window, now, spread),
            Err(e) => {
                // It is a hint, and no server needs it.
                let error = crate::standard_io::chain(&e);
                tracing::debug!(error, "the directory does not say when the certificate is renewed");
                self.take(name, None, now, spread);
            }
        }
    }

    fn is_wanted(&self, certificate: &Certificate, now: i64) -> bool {
        let is_new = self.of != certificate.name;
        certificate.name.is_some()
            && now >= certificate.issued.saturating_add(AGE)
            && (is_new || now >= self.next)
    }

    fn take(&mut self, name: Name, window: Option<Window>, now: i64, spread: f64) {
        let again = window.and_then(|window| window.again).unwrap_or(now);
        self.next = again.clamp(now + AGAIN.0, now + AGAIN.1);
        let at = window.map(|window| {
            let length = window.end.saturating_sub(window.start).max(0) as f64;
            window.start.saturating_add((length * spread.clamp(0.0, 1.0)) as i64)
        });
        // A point that was chosen stays, while it is in the window: a choice at each question would tend to its begin.
        let is_same = self.of.as_ref() == Some(&name);
        let stays = self
            .at
            .filter(|at| is_same && window.is_some_and(|window| (window.start..=window.end).contains(at)));
        (self.of, self.at) = (Some(name), stays.or(at));
    }
}

#[cfg(not(feature = "acme"))]
async fn window(_: &Acme, _: &Name) -> Result<Option<Window>> {
    Ok(None)
}

#[cfg(feature = "acme")]
async fn window(acme: &Acme, (authority, serial): &Name) -> Result<Option<Window>> {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use hyper_sdk::clock::parse_rfc3339;
    use serde_json::Value;
    let wire = super::ask::wire(acme).await?;
    let json = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap_or_default();
    let (directory, _) = wire.get(acme.directory()).await?;
    let Some(url) = json(&directory)["renewalInfo"].as_str().map(str::to_owned) else { return Ok(None) };
    let name = format!("{}.{}", URL_SAFE_NO_PAD.encode(authority), URL_SAFE_NO_PAD.encode(serial));
    let (info, again) = wire.get(&format!("{}/{name}", url.trim_end_matches('/'))).await?;
    let info = json(&info);
    let time = |name: &str| info["suggestedWindow"][name].as_str().and_then(parse_rfc3339);
    Ok(time("start").zip(time("end")).filter(|(start, end)| start <= end).map(|(start, end)| Window {
        start,
        end,
        again,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;
    const DAY: i64 = 86_400;

    fn name(serial: u8) -> Name {
        (vec![1], vec![serial])
    }

    #[test]
    fn a_window_makes_a_renewal_earlier_and_never_later() {
        let certificate = Certificate::of_name(Some(name(1)), NOW - 10 * DAY, NOW + 80 * DAY);
        let mut renewal = Renewal::default();
        let due = NOW + 50 * DAY;
        assert_eq!(renewal.due(&certificate, due), due);
        assert!(renewal.is_wanted(&certificate, NOW));
        let window = |start: i64, end: i64| Some(Window { start, end, again: Some(NOW + 7 * 3600) });
        renewal.take(name(1), window(NOW + DAY, NOW + 3 * DAY), NOW, 0.5);
        assert_eq!(renewal.due(&certificate, due), NOW + 2 * DAY);
        assert!(!renewal.is_wanted(&certificate, NOW + 7 * 3600 - 1));
        assert!(renewal.is_wanted(&certificate, NOW + 7 * 3600));
        // The point stays as long as it is in the window.
        renewal.take(name(1), window(NOW + DAY, NOW + 4 * DAY), NOW, 0.0);
        assert_eq!(renewal.due(&certificate, due), NOW + 2 * DAY);
        renewal.take(name(1), window(NOW - 2 * DAY, NOW - DAY), NOW, 0.0);
        assert_eq!(renewal.due(&certificate, due), NOW - 2 * DAY);
        renewal.take(name(1), window(NOW + 70 * DAY, NOW + 71 * DAY), NOW, 0.0);
        assert_eq!(renewal.due(&certificate, due), due);
        // What was said of another certificate does not count.
        renewal.take(name(2), window(NOW - DAY, NOW), NOW, 0.0);
        assert_eq!(renewal.due(&certificate, due), due);
        renewal.take(name(1), None, NOW, 0.0);
        assert_eq!((renewal.due(&certificate, due), renewal.next), (due, NOW + AGAIN.0));
    }

    #[test]
    fn nobody_is_asked_about_a_new_certificate_or_too_often() {
        let mut renewal = Renewal::default();
        let new = Certificate::of_name(Some(name(1)), NOW - AGE + 1, NOW + 80 * DAY);
        assert!(!renewal.is_wanted(&new, NOW) && renewal.is_wanted(&new, NOW + 1));
        assert!(!renewal.is_wanted(&Certificate::of_name(None, 0, NOW), NOW), "it has no name");
        for (again, next) in [(None, AGAIN.0), (Some(0), AGAIN.0), (Some(i64::MAX), AGAIN.1)] {
            renewal.take(name(1), Some(Window { start: i64::MIN, end: i64::MAX, again }), NOW, 1.0);
            assert_eq!(renewal.next, NOW + next);
        }
    }
}
