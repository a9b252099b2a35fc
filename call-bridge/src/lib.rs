//! Calls.
#![allow(dead_code, unused_imports, unreachable_pub, unfulfilled_lint_expectations)]
mod proto;
mod token;
mod transport;
mod forwarding;
