use std::{fmt, future::Future, pin::Pin};

use crate::Claims;

/// Decides whether the holder of a token may still do what it was signed for: much can happen while a token is valid.
pub trait Admission: fmt::Debug + Send + Sync {
    /// Asked whenever somebody joins or comes back. `Err` says for the log why it cannot be decided; then nobody gets in.
    fn may_join<'a>(
        &'a self,
        claims: &'a Claims,
    ) -> Pin<Box<dyn Future<Output = Result<Admitted, String>> + Send + 'a>>;
}

/// How somebody gets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// Not at all.
    No,
    /// As the token says.
    AsGranted,
    /// As the token says, but whether it may send media and data is this.
    Publishing(bool),
}

/// Lets in whoever has a valid token.
#[derive(Clone, Copy, Debug)]
pub struct EveryHolder;

impl Admission for EveryHolder {
    fn may_join<'a>(
        &'a self,
        _: &'a Claims,
    ) -> Pin<Box<dyn Future<Output = Result<Admitted, String>> + Send + 'a>> {
        Box::pin(async { Ok(Admitted::AsGranted) })
    }
}
