//! What is private here and reads what others made, for the fuzz targets in `tests/fuzz`. Only with the feature `fuzzing`.

use std::{
    num::NonZeroU32,
    sync::{Arc, atomic::AtomicBool},
};

use entente_config::{ThumbnailMethod, ThumbnailSize};
use serde_json::{Map, Value};

use crate::{
    drawing::{Order, draw},
    previews::page::Page,
};

/// What a page says of itself, and the address of its picture.
pub fn page(bytes: &[u8], content_type: &str) -> (Map<String, Value>, Option<String>) {
    let page = Page::read(bytes, content_type);
    (page.open_graph(), page.picture())
}

/// Draws a small picture of one of at most `max_pixels`; `None` if there is none to be drawn.
pub fn thumbnail(
    source: &[u8],
    side: NonZeroU32,
    crop: bool,
    animated: bool,
    max_pixels: u64,
) -> Option<Vec<u8>> {
    let method = if crop { ThumbnailMethod::Crop } else { ThumbnailMethod::Scale };
    let size = ThumbnailSize { width: side, height: side, method };
    let order = Order { size, animated, max_pixels, stop: Arc::new(AtomicBool::new(false)) };
    draw(source, &order).ok().flatten().map(|picture| picture.to_vec())
}
