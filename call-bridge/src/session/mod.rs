//! One participant's signalling session: how it joined, and how its peer connections are negotiated.

mod answering;
mod join;
mod offering;
mod sdp;

pub(crate) use self::{
    answering::{Answering, Plan},
    join::{ClientKind, JoinError, JoinParameters, Path, V0Query},
    offering::{Offering, Round},
    sdp::{Direction, MediaLabel, Section, SectionKind, sections},
};
