//! Calls.
#![allow(dead_code, unused_imports, unreachable_pub, unfulfilled_lint_expectations)]
mod event;
mod forwarding;
mod proto;
mod room;
mod session;
mod settings;
mod token;
mod transport;
pub use self::{event::CallEvent, settings::*, token::*};
