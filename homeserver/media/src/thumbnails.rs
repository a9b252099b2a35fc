//! Small pictures of uploads (C-S API, "Thumbnails"): made when somebody asks for one, and kept.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use entente_config::{ThumbnailMethod, ThumbnailSize};
use entente_environment::Timestamp;
use parking_lot::Mutex;

use crate::{Media, MediaError, MediaFile, drawing};

/// How long somebody waits for a place among those for whom pictures are made.
const LONGEST_QUEUE: Duration = Duration::from_secs(10);
/// How long it is remembered that no small picture can be made of something,
const FAILURE_LIFETIME: Duration = Duration::from_secs(10 * 60);
/// and of how much.
const MOST_FAILURES: usize = 1_000;
/// The longest side of a small picture, in pixels. Who asks for a larger one gets all pixels that there are.
const LARGEST_SIDE: u32 = 2_048;
const TWO: NonZeroU32 = NonZeroU32::new(2).expect("a constant above zero");

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

/// Of what no small picture can be made, so that it is not tried again for everybody who sees it.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<HashMap<String, Failure>>);

#[derive(Debug)]
struct Failure {
    until: Timestamp,
    takes_too_much: bool,
    reason: String,
}

impl Failures {
    fn known(&self, picture: &str, now: Timestamp) -> Option<MediaError> {
        let failures = self.0.lock();
        let failure = failures.get(picture).filter(|failure| failure.until > now)?;
        let reason = failure.reason.clone();
        Some(if failure.takes_too_much {
            MediaError::TooMuchToDraw(reason)
        } else {
            MediaError::NotDrawable(reason)
        })
    }

    fn note(&self, picture: String, error: &MediaError, now: Timestamp) {
        let (takes_too_much, reason) = match error {
            MediaError::TooMuchToDraw(reason) => (true, reason.clone()),
            MediaError::NotDrawable(reason) => (false, reason.clone()),
            _ => return,
        };
        let mut failures = self.0.lock();
        if failures.len() >= MOST_FAILURES {
            failures.retain(|_, failure| failure.until > now);
        }
        if failures.len() >= MOST_FAILURES {
            failures.clear();
        }
        failures.insert(picture, Failure { until: now.after(FAILURE_LIFETIME), takes_too_much, reason });
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
        let picture = format!("{}/{name}", file.object);
        let lock = self.lock_for(format!("draw {picture}"));
        let _turn = lock.lock().await;
        if let Some(known) = self.known(file, &name).await? {
            return Ok(known);
        }
        if let Some(known) = self.inner.failures.known(&picture, self.inner.environment.now()) {
            return Err(known);
        }
        let drawn = self.draw(file, size, asked.animated).await;
        let drawn = drawn.inspect_err(|error| {
            self.inner.failures.note(picture, error, self.inner.environment.now());
        });
        let Some(picture) = drawn? else { return Ok(Thumbnail::Original) };
        self.inner.objects.keep_thumbnail(&file.object, &name, picture.clone()).await?;
        // Whoever deleted the file meanwhile did not see the picture.
        if !self.is_named(&file.object).await? {
            self.inner.objects.delete_thumbnails(&file.object).await?;
        }
        Ok(drawn_as(picture, name))
    }

    async fn draw(
        &self,
        file: &MediaFile,
        size: ThumbnailSize,
        animated: bool,
    ) -> Result<Option<Bytes>, MediaError> {
        let settings = &self.inner.settings.thumbnails;
        if file.size > settings.max_source_size.as_u64() {
            return Err(MediaError::TooMuchToDraw(String::from("the file is too large")));
        }
        let place = tokio::time::timeout(LONGEST_QUEUE, Arc::clone(&self.inner.drawings).acquire_owned());
        let place = place.await.map_err(|_| MediaError::Busy)?.map_err(|_| MediaError::Busy)?;
        let source = self.inner.objects.read_whole(&file.object).await?;
        let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
        let order = drawing::Order {
            size,
            animated,
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
        drawn.map_err(|error| MediaError::NotDrawable(error.to_string()))?
    }

    async fn known(&self, file: &MediaFile, name: &str) -> Result<Option<Thumbnail>, MediaError> {
        let picture = self.inner.objects.thumbnail(&file.object, name).await?;
        Ok(picture.map(|picture| drawn_as(picture, name.to_owned())))
    }
}

fn drawn_as(picture: Bytes, name: String) -> Thumbnail {
    let content_type = drawing::content_type(&picture);
    Thumbnail::Drawn { picture, content_type, name }
}

/// The size that is made for one that is asked for, of the method that is asked for if there is one: the smallest that is not
/// smaller, or else the largest, doubled until it is not.
fn chosen(sizes: &[ThumbnailSize], asked: ThumbnailRequest) -> Option<ThumbnailSize> {
    let area = |size: &&ThumbnailSize| u64::from(size.width.get()) * u64::from(size.height.get());
    let of_method: Vec<&ThumbnailSize> = sizes.iter().filter(|size| size.method == asked.method).collect();
    let candidates = if of_method.is_empty() { sizes.iter().collect() } else { of_method };
    let is_enough =
        |size: &ThumbnailSize| size.width.get() >= asked.width && size.height.get() >= asked.height;
    let large_enough = candidates.iter().filter(|size| is_enough(size)).min_by_key(|size| area(size));
    if let Some(size) = large_enough {
        return Some(**size);
    }
    let mut size = **candidates.iter().max_by_key(|size| area(size))?;
    while !is_enough(&size) {
        size.width = size.width.saturating_mul(TWO);
        size.height = size.height.saturating_mul(TWO);
        if size.width.get().max(size.height.get()) > LARGEST_SIDE {
            (size.width, size.height) = (NonZeroU32::MAX, NonZeroU32::MAX);
        }
    }
    Some(size)
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
        assert_eq!(of(500, 500, Crop), (768, 768), "never smaller than was asked for");
        assert_eq!(of(10, 10, Scale), (320, 240));
        assert_eq!(of(321, 10, Scale), (800, 600));
        assert_eq!(of(801, 600, Scale), (1_600, 1_200));
        assert_eq!(of(1_601, 10, Scale), (u32::MAX, u32::MAX), "all that there is");
        assert_eq!(of(u32::MAX, u32::MAX, Crop), (u32::MAX, u32::MAX));
        let only_scaled = [size(320, 240, Scale)];
        let asked = ThumbnailRequest { width: 32, height: 32, method: Crop, animated: false };
        assert_eq!(super::chosen(&only_scaled, asked), Some(only_scaled[0]));
        assert_eq!(super::chosen(&[], asked), None);
    }

    #[test]
    fn what_cannot_be_drawn_is_remembered_for_a_while() {
        let failures = Failures::default();
        let at = |seconds: u64| Timestamp(seconds * 1_000);
        failures.note(String::from("a"), &MediaError::TooMuchToDraw(String::from("why")), at(0));
        failures.note(String::from("b"), &MediaError::Busy, at(0));
        assert!(matches!(failures.known("a", at(599)), Some(MediaError::TooMuchToDraw(why)) if why == "why"));
        assert!(failures.known("a", at(600)).is_none());
        assert!(failures.known("b", at(0)).is_none(), "that has nothing to do with the picture");
        for number in 0..2 * MOST_FAILURES {
            failures.note(number.to_string(), &MediaError::NotDrawable(String::new()), at(600));
        }
        assert!(failures.0.lock().len() <= MOST_FAILURES);
    }
}
