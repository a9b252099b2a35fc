//! One participant's signalling session: how it joined, and how its peer connections are negotiated.

mod answering;
mod join;
mod offering;
mod sdp;

pub(crate) use self::{
    answering::Answering,
    join::{JoinError, JoinParameters, Path, V0Query},
    offering::Offering,
    sdp::{MAXIMUM_SDP, MediaLabel, Section, SectionKind, with_plain_sound},
};
