//! The task that asks: when, by which server, and what becomes of a failure.

use super::certificate::{self, Certificate};
use super::folder::Folder;
use super::handle::{Acme, millis};
use super::renewal::Renewal;
use super::tries::{Failure, Tries};
use crate::standard_io::chain;
use hyper_sdk::clock::{Clock as _, SystemClock, rfc3339};
use hyper_sdk::{Error, Result};
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;

/// The longest time between two looks at the disk, where another server may have written.
const LOOK: Duration = Duration::from_secs(60);
/// The time between two looks while another server asks.
const TURN: Duration = Duration::from_secs(1);

/// How long another server may hold the lock before that is an error: longer than a try takes.
const HELD: Duration = Duration::from_secs(12 * 60);
/// How long after a fault was logged it is logged again.
const AGAIN: Duration = Duration::from_secs(60 * 60);
/// The file that keeps room for a certificate, which goes with all unfinished ones.
const RESERVE: &str = ".new-reserve";
const RESERVED: usize = 64 << 10;

/// What is to be done now.
enum Step {
    /// Nothing, for so long at most. There is a certificate that fits, or none.
    Wait(Duration, Option<Certificate>),
    /// Nothing: another server asks.
    Turn,
    /// A certificate for these domains is requested, by this server alone. The tries are those before this one.
    Ask(Vec<String>, Tries, File),
}

/// What is wrong with the folder.
#[derive(Default)]
struct Fault {
    text: String,
    said: Option<Instant>,
}

impl Fault {
    /// Counts and logs it: when it is new, and once an hour, not at every look.
    fn say(&mut self, acme: &Acme, error: String) {
        if self.text != error || self.said.is_none_or(|said| said.elapsed() >= AGAIN) {
            tracing::error!(error, "the folder of ACME cannot be used");
            acme.count_failure();
            (self.text, self.said) = (error, Some(Instant::now()));
        }
    }
}

/// Sees to it that there is a certificate, for as long as it is polled. When another task does so for the same folder of this process,
/// it waits until that one has ended.
pub(crate) async fn run(acme: Acme) {
    let _running = loop {
        match acme.start_running() {
            Some(running) => break running,
            None => tokio::time::sleep(LOOK).await,
        }
    };
    let spread = random();
    let (mut fault, mut renewal, mut held) = (Fault::default(), Renewal::default(), None);
    loop {
        let (looking, suggested) = (acme.clone(), renewal.clone());
        let step = tokio::task::spawn_blocking(move || next_step(&looking, &suggested, spread)).await;
        let wait = match step {
            Ok(Ok(Step::Wait(wait, kept))) => {
                (fault, held) = (Fault::default(), None);
                if let Some(kept) = kept {
                    let now = SystemClock.now();
                    renewal.refresh(&acme, &kept, now, spread).await;
                    if renewal.due(&kept, i64::MAX) <= now { Duration::ZERO } else { wait }
                } else {
                    wait
                }
            }
            Ok(Ok(Step::Turn)) => {
                if held.get_or_insert_with(Instant::now).elapsed() > HELD {
                    fault.say(
                        &acme,
                        "another server holds the lock, and does not get on: is it stopped?".to_owned(),
                    );
                }
                TURN
            }
            Ok(Ok(Step::Ask(domains, tries, lock))) => {
                held = None;
                let (wanted, lock) = (acme.asked_ms(), Arc::new(lock));
                acme.begin_try(&lock);
                let outcome = ask_alone(&acme, &domains).await;
                acme.forget_answers();
                note(&acme, &domains, tries, outcome).await;
                // What hangs at the disk still has it: that must not end in the turn of another server.
                drop(lock);
                // Whoever wanted a try meanwhile has perhaps mended what was wrong.
                if acme.asked_ms() > wanted {
                    acme.ask_now();
                }
                Duration::ZERO
            }
            Ok(Err(e)) => {
                fault.say(&acme, chain(&e));
                LOOK
            }
            Err(e) if e.is_cancelled() => return,
            Err(e) => {
                fault.say(&acme, e.to_string());
                LOOK
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = acme.woken() => {}
        }
    }
}

/// Looks at the disk.
fn next_step(acme: &Acme, renewal: &Renewal, spread: f64) -> Result<Step> {
    if let Some((wait, kept)) = look(acme, renewal, spread)? {
        return Ok(Step::Wait(wait, kept));
    }
    let Some(lock) = acme.folder().try_lock()? else { return Ok(Step::Turn) };
    // Another server may have had the lock between the look and now.
    if let Some((wait, kept)) = look(acme, renewal, spread)? {
        return Ok(Step::Wait(wait, kept));
    }
    let (domains, folder) = (acme.domains(), acme.folder());
    let file = tries_file(&certificate::purpose(acme.directory(), &domains));
    let tries = Tries::read(folder.read(&file)?.as_deref());
    // An issued certificate must find room: this file makes it, and is removed before.
    folder.write(RESERVE, &"-".repeat(RESERVED))?;
    // A try counts from its begin, also when this process is killed. Where that cannot be written, nobody is asked.
    let mut cut = tries.clone();
    let error = Error::internal("the try was cut");
    cut.fail(&Failure { error, is_refusal: true, not_before: None }, SystemClock.now(), random());
    cut.at_ms = millis();
    folder.write(&file, &cut.text())?;
    Ok(Step::Ask(domains, tries, lock))
}

/// How long nobody is asked for a certificate, and the one that fits; `None` when somebody is to be asked now.
fn look(acme: &Acme, renewal: &Renewal, spread: f64) -> Result<Option<(Duration, Option<Certificate>)>> {
    let (now, domains) = (SystemClock.now(), acme.domains());
    let until = |at: i64| {
        let seconds = u64::try_from(at.saturating_sub(now)).unwrap_or(0);
        (seconds > 0).then(|| Duration::from_secs(seconds).min(LOOK))
    };
    let purpose = certificate::purpose(acme.directory(), &domains);
    // A file that cannot be used is replaced; one that cannot be read is not.
    let kept = acme.folder().read(&certificate::file_name(&purpose))?;
    let kept = kept.and_then(|text| Certificate::parse(&text).ok());
    let kept = kept.filter(|kept| kept.fits(acme.directory(), &domains));
    if let Some(kept) = kept
        && let Some(wait) = until(renewal.due(&kept, kept.due(spread)))
    {
        acme.content();
        return Ok(Some((wait, Some(kept))));
    }
    let tries = Tries::read(acme.folder().read(&tries_file(&purpose))?.as_deref());
    Ok(until(tries.earliest(now, acme.asked_ms())).map(|wait| (wait, None)))
}

/// The file of the tries for a purpose.
fn tries_file(purpose: &str) -> String {
    format!("tries-{purpose}.json")
}

#[cfg(feature = "acme")]
async fn ask(acme: &Acme, domains: &[String]) -> Result<String, Failure> {
    tracing::info!(
        directory = acme.directory(),
        domains = domains.join(" "),
        "a certificate is requested by ACME"
    );
    super::ask::ask(acme, domains).await
}

#[cfg(not(feature = "acme"))]
async fn ask(_: &Acme, _: &[String]) -> Result<String, Failure> {
    let error = Error::unsupported("a certificate by ACME needs the feature `acme`");
    Err(Failure { error, is_refusal: true, not_before: None })
}

/// One try, in a task of its own: what breaks there must not end the renewal for ever.
async fn ask_alone(acme: &Acme, domains: &[String]) -> Result<String, Failure> {
    let (at, of) = (acme.clone(), domains.to_vec());
    let asking = AbortOnDropHandle::new(tokio::spawn(async move { ask(&at, &of).await }));
    asking.await.unwrap_or_else(|e| {
        let error = Error::internal("the try was interrupted").with_source(e);
        Err(Failure { error, is_refusal: true, not_before: None })
    })
}

/// Writes the outcome to the disk and to the log. `tries` are those before.
async fn note(acme: &Acme, domains: &[String], mut tries: Tries, outcome: Result<String, Failure>) {
    let (at, domains) = (acme.clone(), domains.to_vec());
    let noted = tokio::task::spawn_blocking(move || {
        let folder = at.folder();
        folder.remove_challenges();
        let purpose = certificate::purpose(at.directory(), &domains);
        let tries_file = tries_file(&purpose);
        let failure = match outcome.and_then(|text| keep(folder, &certificate::file_name(&purpose), &text)) {
            Ok(certificate) => {
                tracing::info!(
                    domains = domains.join(" "),
                    ends = rfc3339(certificate.ends),
                    "there is a new certificate by ACME"
                );
                return folder.remove(&tries_file);
            }
            Err(failure) => failure,
        };
        at.count_failure();
        let now = SystemClock.now();
        tries.fail(&failure, now, random());
        tries.at_ms = millis();
        // First: whoever reads the line may end the server.
        let written = folder.write(&tries_file, &tries.text());
        let next = rfc3339(tries.earliest(now, 0));
        let (error, directory, domains) = (chain(&failure.error), at.directory(), domains.join(" "));
        tracing::error!(error, directory, domains, next, "ACME gave no certificate");
        written
    });
    let failed = match noted.await {
        Ok(Ok(())) => return,
        Ok(Err(e)) => chain(&e),
        Err(e) => e.to_string(),
    };
    tracing::error!(error = failed, "the folder of ACME cannot be written");
    // What cannot be noted must not make this server ask without a pause.
    tokio::time::sleep(LOOK).await;
}

/// Puts a new certificate into its place, and removes those of other purposes that have ended.
fn keep(folder: &Folder, name: &str, text: &str) -> Result<Certificate, Failure> {
    let now = SystemClock.now();
    let kept = Certificate::parse(text).and_then(|certificate| {
        if certificate.ends <= now {
            let message = "the new certificate has expired already: is the clock of this machine right?";
            return Err(Error::invalid(message));
        }
        folder.write(name, text)?;
        Ok(certificate)
    });
    let kept = kept.map_err(|error| Failure { error, is_refusal: true, not_before: None })?;
    for other in folder.names(certificate::NAMES).iter().filter(|other| *other != name) {
        let text = folder.read(other).ok().flatten();
        if text.and_then(|text| Certificate::parse(&text).ok()).is_some_and(|other| other.ends <= now) {
            let _ = folder.remove(other);
        }
    }
    Ok(kept)
}

/// A number from 0 to 1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    let _ = crate::auth::fill_random(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}
