use std::{fmt, future::Future, pin::Pin};

use crate::Claims;

/// Decides whether the holder of a token may still do what it was signed for: much can happen while a token is valid.
pub trait Admission: fmt::Debug + Send + Sync {
    /// Asked whenever somebody joins or comes back. `Err` says for the log why it cannot be decided; then nobody gets in.
    fn may_join<'a>(
        &'a self,
        claims: &'a Claims,
    ) -> Pin<Box<dyn Future<Output = Result<bool, String>> + Send + 'a>>;
}

/// Lets in whoever has a valid token.
#[derive(Clone, Copy, Debug)]
pub struct EveryHolder;

impl Admission for EveryHolder {
    fn may_join<'a>(
        &'a self,
        _: &'a Claims,
    ) -> Pin<Box<dyn Future<Output = Result<bool, String>> + Send + 'a>> {
        Box::pin(async { Ok(true) })
    }
}
