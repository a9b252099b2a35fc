//! From one stream of a publisher to a stream of a subscriber: which layer, with which numbers.

mod allocation;
mod forwarder;
mod keyframe;
mod layers;
mod sequence;

pub(crate) use self::{
    allocation::{Wish, allocate, floods},
    forwarder::Forwarder,
    layers::Layers,
};
