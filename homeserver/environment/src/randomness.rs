#![expect(
    clippy::disallowed_methods,
    reason = "this is the one place that asks the machine for random bytes"
)]

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

/// Letters and digits without those that are easily taken for each other: for what people read and type.
const READABLE: &[u8] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Letters and digits.
const ALPHANUMERIC: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A source of random bytes, fit for secrets unless it was made from a seed. Cheap to clone.
#[derive(Clone)]
pub struct Randomness {
    seeded: Option<Arc<Mutex<StdRng>>>,
}

impl Randomness {
    /// The machine's: each thread's own generator, seeded and reseeded by the operating system.
    pub fn system() -> Self {
        Self { seeded: None }
    }

    /// The same bytes for the same seed, for tests.
    pub fn from_seed(seed: u64) -> Self {
        Self { seeded: Some(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))) }
    }

    fn with<T>(&self, draw: impl FnOnce(&mut dyn Rng) -> T) -> T {
        match &self.seeded {
            None => draw(&mut rand::rng()),
            Some(seeded) => draw(&mut *seeded.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.with(|rng| rng.fill_bytes(&mut bytes));
        bytes
    }

    /// A random number below `end`; 0 if there is none.
    pub fn below(&self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.with(|rng| rng.random_range(0..end)) }
    }

    /// A text of `length` letters and digits: 5.95 bits of entropy each.
    pub fn alphanumeric(&self, length: usize) -> String {
        self.text(ALPHANUMERIC, length)
    }

    /// A text of `length` lower-case letters and digits that a person can copy by hand: 5 bits of entropy each.
    pub fn readable(&self, length: usize) -> String {
        self.text(READABLE, length)
    }

    fn text(&self, alphabet: &[u8], length: usize) -> String {
        self.with(|rng| {
            (0..length).map(|_| char::from(alphabet[rng.random_range(0..alphabet.len())])).collect()
        })
    }
}

impl fmt::Debug for Randomness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.seeded.is_some() { "Randomness(seeded)" } else { "Randomness(system)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_the_system_does_not() {
        let (first, second) = (Randomness::from_seed(7), Randomness::from_seed(7));
        assert_eq!(first.alphanumeric(40), second.alphanumeric(40));
        assert_ne!(Randomness::system().bytes::<16>(), Randomness::system().bytes::<16>());
    }

    #[test]
    fn readable_text_has_no_lookalikes() {
        let text = Randomness::from_seed(1).readable(10_000);
        assert!(!text.contains(['0', '1', 'l', 'o']), "{text}");
    }
}
