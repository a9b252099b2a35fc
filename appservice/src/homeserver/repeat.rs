//! When a request is made again.

use std::time::Duration;

use http::Method;

use super::answer::Failure;

/// The first pause, where the homeserver does not name one.
const FIRST: Duration = Duration::from_millis(500);
/// The longest pause of our own choice.
const LONGEST: Duration = Duration::from_secs(15);
/// The least pause: a homeserver that says "at once" would be asked in a circle.
const LEAST: Duration = Duration::from_millis(50);

/// How long to wait before the next try.
#[derive(Debug)]
pub(super) struct Repeat {
    next: Duration,
    is_idempotent: bool,
}

impl Repeat {
    /// For a request by this method.
    pub(super) fn of(method: &Method) -> Self {
        Self { next: FIRST, is_idempotent: method.is_idempotent() }
    }

    /// The pause before the request is made again, if it may be.
    pub(super) fn after(&mut self, failure: &Failure) -> Option<Duration> {
        match failure {
            Failure::Bad(_) => None,
            // Whatever the method: nothing was done.
            Failure::NoAnswer { was_sent: false, .. } => Some(self.grow()),
            Failure::Status { retry_after, .. } if failure.is_rate_limit() => {
                Some(retry_after.unwrap_or_else(|| self.grow()).max(LEAST))
            }
            Failure::NoAnswer { .. } => self.is_idempotent.then(|| self.grow()),
            Failure::Status { status, retry_after, .. } => {
                let is_worth_it = status.is_server_error() && self.is_idempotent;
                is_worth_it.then(|| retry_after.unwrap_or_else(|| self.grow()).max(LEAST))
            }
        }
    }

    fn grow(&mut self) -> Duration {
        let pause = self.next;
        self.next = (2 * self.next).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn status(code: u16, retry_after: Option<u64>) -> Failure {
        Failure::Status {
            status: StatusCode::from_u16(code).unwrap(),
            errcode: String::new(),
            message: String::new(),
            retry_after: retry_after.map(Duration::from_millis),
        }
    }

    #[test]
    fn a_limit_is_waited_for_as_long_as_it_says() {
        let mut repeat = Repeat::of(&Method::POST);
        assert_eq!(repeat.after(&status(429, Some(2000))), Some(Duration::from_secs(2)));
        assert_eq!(repeat.after(&status(429, Some(0))), Some(LEAST));
    }

    #[test]
    fn what_may_have_been_done_is_not_done_twice() {
        let failures = || [status(502, None), Failure::NoAnswer { reason: String::new(), was_sent: true }];
        for failure in failures() {
            assert_eq!(Repeat::of(&Method::POST).after(&failure), None);
            assert_eq!(Repeat::of(&Method::PUT).after(&failure), Some(FIRST));
        }
        let unsent = Failure::NoAnswer { reason: String::new(), was_sent: false };
        assert_eq!(Repeat::of(&Method::POST).after(&unsent), Some(FIRST));
    }

    #[test]
    fn a_refusal_is_final_and_pauses_grow_to_a_limit() {
        let mut repeat = Repeat::of(&Method::PUT);
        assert_eq!(repeat.after(&status(403, None)), None);
        let pauses: Vec<_> = (0..8).filter_map(|_| repeat.after(&status(503, None))).collect();
        assert_eq!(pauses.first(), Some(&FIRST));
        assert_eq!(pauses.last(), Some(&LONGEST));
    }
}
