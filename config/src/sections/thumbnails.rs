//! `[media.thumbnails]`: small pictures of uploads.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::{
    validation::Contradictions,
    values::{ByteSize, TimeSpan},
};

/// Small pictures of uploads: which there are, and what making one may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Thumbnails {
    /// The sizes that are made; a client that asks for another gets the next larger one.
    pub sizes: Vec<ThumbnailSize>,
    /// The largest file of which one is made, in bytes.
    pub max_source_size: ByteSize,
    /// The most pixels of a picture of which one is made. Each takes up to 8 bytes of memory while it is made.
    pub max_pixels: NonZeroU32,
    /// How many are made at once.
    pub at_once: NonZeroU32,
    /// How long making one may take.
    pub timeout: TimeSpan,
}

/// A size of thumbnails, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThumbnailSize {
    /// The width.
    pub width: NonZeroU32,
    /// The height.
    pub height: NonZeroU32,
    /// How a picture of another shape is made to fit.
    pub method: ThumbnailMethod,
}

/// How a picture of another shape is made to fit (C-S API, "Thumbnails").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ThumbnailMethod {
    /// It fills the size; what hangs over is cut off.
    Crop,
    /// It fits into the size as a whole.
    Scale,
}

/// Beyond it a thumbnail is not a small picture any more.
const LARGEST_SIDE: u32 = 2_048;

impl Default for Thumbnails {
    fn default() -> Self {
        let constant = |number| NonZeroU32::new(number).expect("a constant above zero");
        let size = |width, height, method| ThumbnailSize {
            width: constant(width),
            height: constant(height),
            method,
        };
        Self {
            // The sizes that C-S API, "Thumbnails" recommends.
            sizes: vec![
                size(32, 32, ThumbnailMethod::Crop),
                size(96, 96, ThumbnailMethod::Crop),
                size(320, 240, ThumbnailMethod::Scale),
                size(640, 480, ThumbnailMethod::Scale),
                size(800, 600, ThumbnailMethod::Scale),
            ],
            max_source_size: ByteSize::mebibytes(32),
            max_pixels: constant(32_000_000),
            at_once: constant(2),
            timeout: TimeSpan::seconds(20),
        }
    }
}

impl Thumbnails {
    pub(crate) fn check(&self, found: &mut Contradictions) {
        if self.sizes.is_empty() {
            found.add(&["media.thumbnails.sizes"], "at least one size is needed");
        }
        for (index, size) in self.sizes.iter().enumerate() {
            if size.width.get() > LARGEST_SIDE || size.height.get() > LARGEST_SIDE {
                let key = format!("media.thumbnails.sizes.{index}");
                found.add(&[&key], format!("at most {LARGEST_SIDE} pixels a side are made"));
            }
        }
        found.refuse_zero_spans(&[("media.thumbnails.timeout", Some(self.timeout))]);
    }
}
