//! Small pictures of uploads (C-S API, "Thumbnails"): made when somebody asks for one, and kept.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use entente_config::{ThumbnailMethod, ThumbnailSize};

use crate::{Media, MediaError, MediaFile, drawing};

/// How long somebody waits for a place among those for whom pictures are made.
const LONGEST_QUEUE: Duration = Duration::from_secs(10);

/// A picture that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThumbnailRequest {
    /// Its width, in pixels.
    pub width: u32,
    /// Its height, in pixels.
    pub height: u32,
    /// How a picture of another shape is made to fit.
    pub method: ThumbnailMethod,
    /// Whether it may move.
    pub animated: bool,
}

/// What is given for a small picture.
#[derive(Clone, Debug)]
pub enum Thumbnail {
    /// A small picture.
    Drawn {
        /// Its bytes.
        picture: Bytes,
        /// What they are.
        content_type: &'static str,
        /// What makes it differ from other pictures: for an `ETag`.
        name: String,
    },
    /// The file itself, which is small enough.
    Original,
}

/// Stops what is being drawn when nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Media {
    /// A small picture of a file.
    pub async fn thumbnail(
        &self,
        file: &MediaFile,
        asked: ThumbnailRequest,
    ) -> Result<Thumbnail, MediaError> {
        let settings = &self.inner.settings.thumbnails;
        let size = chosen(&settings.sizes, asked).ok_or(MediaError::NotFound)?;
        let method = match size.method {
            ThumbnailMethod::Crop => "crop",
            ThumbnailMethod::Scale => "scale",
        };
        let moves = if asked.animated { "-animated" } else { "" };
        let name = format!("{}x{}-{method}{moves}", size.width, size.height);
        if let Some(known) = self.known(file, &name).await? {
            return Ok(known);
        }
        // Who asks for the same meanwhile waits for it.
        let lock = self.lock_for(format!("draw {}/{name}", file.digest));
        let _turn = lock.lock().await;
        if let Some(known) = self.known(file, &name).await? {
            return Ok(known);
        }
        if file.size > settings.max_source_size.as_u64() {
            return Err(MediaError::TooMuchToDraw(String::from("the file is too large")));
        }
        let place = tokio::time::timeout(LONGEST_QUEUE, Arc::clone(&self.inner.drawings).acquire_owned());
        let place = place.await.map_err(|_| MediaError::Busy)?.map_err(|_| MediaError::Busy)?;
        let source = self.inner.objects.read_whole(&file.digest).await?;
        let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
        let order = drawing::Order {
            size,
            animated: asked.animated,
            max_pixels: u64::from(settings.max_pixels.get()),
            stop: Arc::clone(&stop.0),
        };
        let drawn = tokio::task::spawn_blocking(move || {
            // The place is free again when it is done, and not when nobody waits for it any more.
            let _place = place;
            drawing::draw(&source, &order)
        });
        let drawn = tokio::time::timeout(settings.timeout.duration(), drawn).await;
        let drawn = drawn.map_err(|_| MediaError::TooMuchToDraw(String::from("it takes too long")))?;
        let drawn = drawn.map_err(|error| MediaError::NotDrawable(error.to_string()))??;
        drop(stop);
        let Some(picture) = drawn else { return Ok(Thumbnail::Original) };
        self.inner.objects.keep_thumbnail(&file.digest, &name, picture.clone()).await?;
        Ok(drawn_as(picture, name))
    }

    async fn known(&self, file: &MediaFile, name: &str) -> Result<Option<Thumbnail>, MediaError> {
        let picture = self.inner.objects.thumbnail(&file.digest, name).await?;
        Ok(picture.map(|picture| drawn_as(picture, name.to_owned())))
    }
}

fn drawn_as(picture: Bytes, name: String) -> Thumbnail {
    let content_type = drawing::content_type(&picture);
    Thumbnail::Drawn { picture, content_type, name }
}

/// The size that is made for one that is asked for: the smallest that is not smaller, or else the largest, of the method that is
/// asked for if there is one.
fn chosen(sizes: &[ThumbnailSize], asked: ThumbnailRequest) -> Option<ThumbnailSize> {
    let area = |size: &&ThumbnailSize| u64::from(size.width.get()) * u64::from(size.height.get());
    let of_method: Vec<&ThumbnailSize> = sizes.iter().filter(|size| size.method == asked.method).collect();
    let candidates = if of_method.is_empty() { sizes.iter().collect() } else { of_method };
    let large_enough =
        candidates.iter().filter(|size| size.width.get() >= asked.width && size.height.get() >= asked.height);
    large_enough
        .min_by_key(|size| area(size))
        .or_else(|| candidates.iter().max_by_key(|size| area(size)))
        .map(|size| **size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: u32, height: u32, method: ThumbnailMethod) -> ThumbnailSize {
        ThumbnailSize { width: width.try_into().unwrap(), height: height.try_into().unwrap(), method }
    }

    #[test]
    fn the_next_larger_size_is_made() {
        use ThumbnailMethod::{Crop, Scale};
        let sizes = [size(32, 32, Crop), size(96, 96, Crop), size(320, 240, Scale), size(800, 600, Scale)];
        let of = |width, height, method| {
            let asked = ThumbnailRequest { width, height, method, animated: false };
            let chosen = chosen(&sizes, asked).unwrap();
            (chosen.width.get(), chosen.height.get())
        };
        assert_eq!(of(32, 32, Crop), (32, 32));
        assert_eq!(of(33, 10, Crop), (96, 96));
        assert_eq!(of(500, 500, Crop), (96, 96));
        assert_eq!(of(10, 10, Scale), (320, 240));
        assert_eq!(of(321, 10, Scale), (800, 600));
        assert_eq!(of(u32::MAX, u32::MAX, Scale), (800, 600));
        let only_scaled = [size(320, 240, Scale)];
        let asked = ThumbnailRequest { width: 32, height: 32, method: Crop, animated: false };
        assert_eq!(super::chosen(&only_scaled, asked), Some(only_scaled[0]));
        assert_eq!(super::chosen(&[], asked), None);
    }
}
