//! One try to get a certificate (RFC 8555, section 7.4).

use super::handle::Acme;
use super::options::AcmeChallenge;
use super::problem::{explain, kind_of, refusal, said, shown};
use super::tries::Failure;
use super::wire::Wire;
use super::{account, certificate, challenge};
use hyper_sdk::clock::{Clock as _, SystemClock};
use hyper_sdk::{Error, ErrorKind, Result};
use instant_acme::{
    AuthorizationStatus, ChallengeType, Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};
use std::fmt::Write as _;
use std::time::Duration;

/// The longest time for a try.
const TIME: Duration = Duration::from_secs(10 * 60);
/// How the directory is asked whether it has got on.
const POLLS: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(240));
/// What a directory says when it does not know the account (RFC 8555, section 6.7).
const NO_ACCOUNT: &str = "accountDoesNotExist";

/// Gets a certificate for these domains. Returns the content of its file.
pub(super) async fn ask(acme: &Acme, domains: &[String]) -> Result<String, Failure> {
    let wire = match wire(acme).await {
        Ok(wire) => wire,
        Err(error) => return Err(Failure { error, is_refusal: false, not_before: None }),
    };
    let mut is_refusal = false;
    let outcome = tokio::time::timeout(TIME, attempt(acme, domains, &wire, &mut is_refusal)).await;
    let outcome = outcome.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Timeout, "the directory has not issued a certificate in time"))
    });
    outcome.map_err(|error| Failure { error, is_refusal, not_before: wire.not_before() })
}

/// Reads what is needed to speak with the directory.
///
/// # Errors
/// [`ErrorKind::Timeout`] when the file of authorities cannot be read in time.
pub(super) async fn wire(acme: &Acme) -> Result<Wire> {
    let reading = acme.at_disk(|acme| Wire::new(acme.options().authorities.as_deref()));
    let slow = || Error::new(ErrorKind::Timeout, "the authorities of the directory cannot be read in time");
    tokio::time::timeout(TIME, reading).await.unwrap_or_else(|_| Err(slow()))
}

/// `is_refusal` is set when a failure counts for the directory.
async fn attempt(acme: &Acme, domains: &[String], wire: &Wire, is_refusal: &mut bool) -> Result<String> {
    let mut order = match order(acme, domains, wire).await {
        Err(e) => {
            // All but no answer: what this machine does wrong must not make accounts without end, either.
            *is_refusal = !matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Timeout);
            return Err(e);
        }
        Ok(order) => order,
    };
    *is_refusal = true;
    answer(acme, domains, &mut order).await?;
    if order.state().status == OrderStatus::Pending {
        match order.poll_ready(&POLLS).await {
            Ok(OrderStatus::Ready) => {}
            Ok(_) => {
                let unknown =
                    || Error::new(ErrorKind::Denied, "the directory could not validate the domains");
                return Err(why_invalid(&mut order).await.unwrap_or_else(unknown));
            }
            // The order says of all domains together what the challenges say of each.
            Err(instant_acme::Error::Api(problem)) => {
                return Err(why_invalid(&mut order).await.unwrap_or_else(|| refusal(&problem)));
            }
            Err(e) => return Err(explain(e)),
        }
    }
    let key = order.finalize().await.map_err(explain)?;
    let chain = order.poll_certificate(&POLLS).await.map_err(explain)?;
    Ok(certificate::file(acme.directory(), domains, SystemClock.now(), &key, &chain))
}

/// An order of the account, which is made anew when the directory does not have it any more.
async fn order(acme: &Acme, domains: &[String], wire: &Wire) -> Result<Order> {
    let identifiers: Vec<_> = domains.iter().cloned().map(Identifier::Dns).collect();
    let new = NewOrder::new(&identifiers);
    let account = account::open(acme, wire.clone()).await?;
    match account.new_order(&new).await {
        Err(instant_acme::Error::Api(problem)) if kind_of(&problem) == NO_ACCOUNT => {
            tracing::warn!("the directory does not know the account of ACME any more: a new one is made");
            account::forget(acme).await?;
            let account = account::open(acme, wire.clone()).await?;
            account.new_order(&new).await.map_err(explain)
        }
        order => order.map_err(explain),
    }
}

/// Makes the answers to the challenges of an order, and says that they are there.
async fn answer(acme: &Acme, domains: &[String], order: &mut Order) -> Result<()> {
    let (wanted, kind) = match acme.options().challenge {
        AcmeChallenge::TlsAlpn01 => (ChallengeType::TlsAlpn01, AcmeChallenge::TlsAlpn01.name()),
        AcmeChallenge::Http01 => (ChallengeType::Http01, AcmeChallenge::Http01.name()),
    };
    let mut all = order.authorizations();
    while let Some(one) = all.next().await {
        let mut one = one.map_err(explain)?;
        let domain = one.identifier().to_string().to_ascii_lowercase();
        if !domains.contains(&domain) {
            return Err(invalid(format!(
                "the directory wants a proof for `{}`, which was not asked for",
                shown(&domain)
            )));
        }
        match one.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => {
                return Err(invalid(format!(
                    "the directory has an authorization of `{domain}` that is {status:?}"
                )));
            }
        }
        let Some(mut asked) = one.challenge(wanted.clone()) else {
            return Err(Error::new(
                ErrorKind::Denied,
                format!("the directory does not offer the challenge {kind} for `{domain}`"),
            ));
        };
        let proof = asked.key_authorization();
        let (name, text) = match acme.options().challenge {
            AcmeChallenge::TlsAlpn01 => {
                (challenge::tls_file(&domain), challenge::certificate(&domain, proof.digest().as_ref())?)
            }
            AcmeChallenge::Http01 => {
                let name = challenge::http_file(&asked.token);
                let name = name.ok_or_else(|| invalid("the token of the directory is not well formed"))?;
                (name, proof.as_str().to_owned())
            }
        };
        acme.remember(&name, &text);
        acme.at_disk(move |acme| acme.folder().write(&name, &text)).await?;
        asked.set_ready().await.map_err(|e| explain(e).with_context("domain", &domain))?;
    }
    Ok(())
}

/// What the directory says of the challenges that failed; `None` when it says nothing.
async fn why_invalid(order: &mut Order) -> Option<Error> {
    let mut text = String::new();
    let mut all = order.authorizations();
    while let Some(Ok(mut one)) = all.next().await {
        let domain = one.identifier().to_string();
        let Ok(state) = one.refresh().await else { continue };
        for problem in state.challenges.iter().filter_map(|challenge| challenge.error.as_ref()) {
            let _ = write!(text, "; `{}`: {}", shown(&domain), said(problem));
        }
    }
    let message = format!("the directory could not validate the domains{text}");
    (!text.is_empty()).then(|| Error::new(ErrorKind::Denied, message))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::invalid(message.into())
}
