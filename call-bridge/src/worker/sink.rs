use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::mpsc;

/// Responses that wait for a client. Who lies further behind is cut off.
const WAITING_RESPONSES: usize = 1_024;
/// Their bytes together.
const WAITING_BYTES: usize = 4 * 1_024 * 1_024;
/// As how many bytes a response counts at most. Who comes is told of everybody, at once: how much that is, is not its fault.
const MOST_OF_ONE: usize = 1_024 * 1_024;

/// Where encoded responses to a client go. When it is dropped, the connection is closed.
pub(crate) struct Sink {
    responses: mpsc::Sender<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
}

/// Where they come out.
pub(crate) struct Responses {
    responses: mpsc::Receiver<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
}

/// The client reads too slowly, or is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotTaken;

/// A sink and its other end.
pub(crate) fn sink() -> (Sink, Responses) {
    let (sender, receiver) = mpsc::channel(WAITING_RESPONSES);
    let waiting = Arc::<AtomicUsize>::default();
    let sink = Sink { responses: sender, waiting: waiting.clone() };
    (sink, Responses { responses: receiver, waiting })
}

fn size(response: &[u8]) -> usize {
    response.len().min(MOST_OF_ONE)
}

impl Sink {
    /// Lets a response wait for the client.
    pub(super) fn say(&self, response: Vec<u8>) -> Result<(), NotTaken> {
        let size = size(&response);
        // Only this side adds, so it cannot become more in between.
        if self.waiting.load(Ordering::Relaxed) + size > WAITING_BYTES {
            return Err(NotTaken);
        }
        self.waiting.fetch_add(size, Ordering::Relaxed);
        self.responses.try_send(response).map_err(|_| NotTaken)
    }
}

impl Responses {
    /// The next response; `None` when there will be none any more.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        let response = self.responses.recv().await?;
        self.waiting.fetch_sub(size(&response), Ordering::Relaxed);
        Some(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_is_bounded_in_number_and_in_bytes() {
        let (sink, _responses) = super::sink();
        for _ in 0..WAITING_RESPONSES {
            assert_eq!(sink.say(vec![0; 10]), Ok(()));
        }
        assert_eq!(sink.say(vec![0; 10]), Err(NotTaken), "too many");

        let (sink, mut responses) = super::sink();
        let large = vec![0; 64 * 1_024];
        for _ in 0..WAITING_BYTES / large.len() {
            assert_eq!(sink.say(large.clone()), Ok(()));
        }
        assert_eq!(sink.say(vec![0; 10]), Err(NotTaken), "too much");
        assert_eq!(responses.next().await.as_ref(), Some(&large));
        assert_eq!(sink.say(large.clone()), Ok(()), "one was taken");
        assert_eq!(sink.say(vec![0; 10]), Err(NotTaken));
        drop(sink);
        while responses.next().await.is_some() {}
        assert_eq!(responses.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_large_room_can_be_told_of_at_once() {
        let (sink, _responses) = sink();
        assert_eq!(sink.say(vec![0; 2 * WAITING_BYTES]), Ok(()));
        assert_eq!(sink.say(vec![0; 64 * 1_024]), Ok(()), "and then the rest");
    }
}
