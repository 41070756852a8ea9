//! The states of a breaker, at a clock that stands still.

use super::*;
use tokio::time::advance;

const SECOND: Duration = Duration::from_secs(1);

fn breaker() -> Breaker {
    Breaker::new("database", BreakerOptions::default())
}

/// Lets requests fail, one after the other, a second apart.
async fn fail(breaker: &Breaker, times: u32) {
    for _ in 0..times {
        breaker.enter().unwrap().failed(&"no route");
        advance(SECOND).await;
    }
}

/// An open breaker whose first pause has just begun.
async fn open() -> Breaker {
    let breaker = breaker();
    fail(&breaker, 2).await;
    breaker.enter().unwrap().failed(&"no route");
    assert_eq!(breaker.state(), BreakerState::Open);
    breaker
}

#[tokio::test(start_paused = true)]
async fn an_answer_ends_a_row_of_failures() {
    let breaker = breaker();
    for _ in 0..10 {
        fail(&breaker, 2).await;
        breaker.enter().unwrap().answered();
    }
    assert_eq!((breaker.state(), breaker.opened()), (BreakerState::Closed, 0));
    fail(&breaker, 2).await;
    breaker.enter().unwrap().failed(&"no route");
    assert_eq!((breaker.state(), breaker.opened()), (BreakerState::Open, 1));
    // Nothing is refused after the pause, so nothing is shown as open for ever.
    advance(SECOND).await;
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
}

/// A restart breaks whatever is under way.
#[tokio::test(start_paused = true)]
async fn requests_that_fail_together_count_once() {
    let breaker = breaker();
    for round in 1..=3 {
        let together: Vec<_> = (0..50).map(|_| breaker.enter().unwrap()).collect();
        advance(SECOND).await;
        together.iter().for_each(|attempt| attempt.failed(&"reset"));
        assert_eq!(breaker.state() == BreakerState::Open, round == 3, "round {round}");
    }
}

#[tokio::test(start_paused = true)]
async fn failures_within_a_moment_open_nothing() {
    let breaker = breaker();
    for _ in 0..100 {
        breaker.enter().unwrap().failed(&"refused");
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    advance(2 * SECOND).await;
    breaker.enter().unwrap().failed(&"refused");
    assert_eq!(breaker.state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn after_a_pause_one_request_is_let_through_and_its_answer_closes() {
    let breaker = open().await;
    assert!(breaker.enter().is_err() && breaker.check().is_err());
    assert_eq!(breaker.refused(), 2);
    advance(SECOND).await;
    breaker.check().unwrap();
    let probe = breaker.enter().unwrap();
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    let refused = Error::from(breaker.enter().unwrap_err());
    assert!(is_refusal(&refused) && refused.retry_after() == Some(SECOND), "{refused:?}");
    assert!(refused.to_string().contains("the database does not answer"), "{refused}");
    probe.answered();
    assert_eq!(breaker.state(), BreakerState::Closed);
    // The row of failures begins anew.
    fail(&breaker, 2).await;
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn each_failure_after_a_pause_doubles_it_up_to_a_limit() {
    let breaker = open().await;
    for seconds in [1, 2, 4, 8, 16, 30, 30, 30] {
        let wait = Error::from(breaker.enter().unwrap_err()).retry_after();
        assert_eq!(wait, Some(Duration::from_secs(seconds)));
        advance(Duration::from_secs(seconds) - Duration::from_millis(1)).await;
        assert!(breaker.enter().is_err(), "{seconds}");
        advance(Duration::from_millis(1)).await;
        breaker.enter().unwrap().failed(&"no route");
    }
    assert_eq!(breaker.opened(), 1);
    advance(30 * SECOND).await;
    breaker.enter().unwrap().answered();
    // The next time it begins with a short pause.
    fail(&breaker, 2).await;
    breaker.enter().unwrap().failed(&"no route");
    assert_eq!(Error::from(breaker.enter().unwrap_err()).retry_after(), Some(SECOND));
    assert_eq!(breaker.opened(), 2);
}

/// A client that goes away drops the request that all others wait for.
#[tokio::test(start_paused = true)]
async fn a_request_that_is_dropped_leaves_its_place_to_the_next() {
    let breaker = open().await;
    advance(SECOND).await;
    for _ in 0..3 {
        let probe = breaker.enter().unwrap();
        assert!(breaker.enter().is_err());
        drop(probe);
    }
    let probe = breaker.enter().unwrap();
    probe.failed(&"no route");
    // What it says has been heard.
    drop(probe);
    assert_eq!(breaker.state(), BreakerState::Open);
    assert!(breaker.enter().is_err());
    // One that was dropped while it is closed says nothing.
    let other = self::breaker();
    drop(other.enter().unwrap());
    assert_eq!(other.state(), BreakerState::Closed);
}

/// Clients have less patience than a request to a server that swallows everything.
#[tokio::test(start_paused = true)]
async fn requests_that_are_given_up_after_a_long_time_have_failed() {
    let breaker = breaker();
    for _ in 0..10 {
        let short = breaker.enter().unwrap();
        advance(GIVEN_UP - Duration::from_millis(1)).await;
        drop(short);
        let answered = breaker.enter().unwrap();
        answered.answered();
        advance(GIVEN_UP).await;
        drop(answered);
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
    for _ in 0..3 {
        let long = breaker.enter().unwrap();
        advance(GIVEN_UP).await;
        drop(long);
    }
    assert_eq!(breaker.state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_long_ago_does_not_count() {
    let breaker = breaker();
    fail(&breaker, 2).await;
    advance(FORGOTTEN).await;
    breaker.enter().unwrap().failed(&"no route");
    breaker.enter().unwrap().failed(&"no route");
    assert_eq!(breaker.state(), BreakerState::Closed);
    advance(2 * SECOND).await;
    breaker.enter().unwrap().failed(&"no route");
    assert_eq!(breaker.state(), BreakerState::Open);
}

/// A request that takes minutes, such as the end of a large upload, keeps nobody from a dependency that answers again.
#[tokio::test(start_paused = true)]
async fn a_request_that_takes_long_does_not_keep_the_others_waiting() {
    let breaker = open().await;
    advance(SECOND).await;
    let slow = breaker.enter().unwrap();
    advance(PROBE - Duration::from_millis(1)).await;
    assert!(breaker.enter().is_err() && !breaker.is_passable());
    advance(Duration::from_millis(1)).await;
    breaker.check().unwrap();
    let second = breaker.enter().unwrap();
    assert!(breaker.enter().is_err(), "one in five seconds");
    // What an older one says of a failure, or does not say, is not waited for.
    slow.failed(&"too slow");
    drop(slow);
    assert!(breaker.enter().is_err());
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    second.answered();
    assert_eq!(breaker.state(), BreakerState::Closed);
    // The older one may be the first that is answered.
    fail(&breaker, 2).await;
    breaker.enter().unwrap().failed(&"no route");
    advance(SECOND).await;
    let slow = breaker.enter().unwrap();
    advance(PROBE).await;
    let second = breaker.enter().unwrap();
    slow.answered();
    assert_eq!(breaker.state(), BreakerState::Closed);
    second.failed(&"late");
    assert_eq!(breaker.state(), BreakerState::Closed);
}

/// What began before the breaker opened does not decide for the request that it waits for.
#[tokio::test(start_paused = true)]
async fn a_late_answer_or_failure_decides_nothing() {
    let breaker = breaker();
    let late = [breaker.enter().unwrap(), breaker.enter().unwrap()];
    fail(&breaker, 2).await;
    breaker.enter().unwrap().failed(&"no route");
    late[0].answered();
    assert_eq!(breaker.state(), BreakerState::Open);
    advance(SECOND).await;
    let probe = breaker.enter().unwrap();
    late[0].answered();
    late[1].failed(&"late");
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    probe.answered();
    late[1].failed(&"late");
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_threads_one_gets_the_right() {
    let options = BreakerOptions {
        failures: 1,
        failing_for: Duration::ZERO,
        first_pause: Duration::ZERO,
        longest_pause: Duration::ZERO,
    };
    let breaker = Breaker::new("bucket", options);
    for _ in 0..200 {
        breaker.enter().unwrap().failed(&"no route");
        let all = (0..4).map(|_| {
            let breaker = breaker.clone();
            tokio::spawn(async move { breaker.enter().ok() })
        });
        let got: Vec<Attempt> =
            futures::future::join_all(all).await.into_iter().filter_map(|one| one.unwrap()).collect();
        assert_eq!(got.len(), 1);
        got[0].answered();
    }
}
