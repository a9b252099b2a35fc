//! Small pictures, drawn: on a blocking thread, within bounds that are checked before anything is decoded.

use std::{
    io::Cursor,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use entente_config::{ThumbnailMethod, ThumbnailSize};
use image::{
    AnimationDecoder, DynamicImage, Frame, Frames, ImageDecoder, ImageError, ImageFormat, ImageReader,
    Limits,
    codecs::{
        gif::{GifDecoder, GifEncoder, Repeat},
        jpeg::JpegEncoder,
        png::{PngDecoder, PngEncoder},
        webp::WebPDecoder,
    },
    imageops::FilterType,
};

use crate::MediaError;

/// What may be in memory while one is made, for each pixel of the source: a decoded picture of 16 bits a channel, and a copy.
const BYTES_A_PIXEL: u64 = 16;
/// Frames of a picture that moves.
const MOST_FRAMES: usize = 300;
/// All pixels of all its frames, in pictures of the largest size.
const MOST_MOVING: u64 = 4;
/// Of a hundred.
const JPEG_QUALITY: u8 = 80;
/// From 1, the best, to 30, the fastest.
const GIF_SPEED: i32 = 10;

/// What is to be drawn.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) size: ThumbnailSize,
    pub(crate) animated: bool,
    pub(crate) max_pixels: u64,
    /// Set when nobody waits for it any more.
    pub(crate) stop: Arc<AtomicBool>,
}

/// Draws a small picture of a larger one; `None` if it is small already.
pub(crate) fn draw(source: &[u8], order: &Order) -> Result<Option<Bytes>, MediaError> {
    let format = image::guess_format(source).map_err(|_| not_a_picture())?;
    if order.animated
        && let Some(moving) = draw_moving(source, format, order)?
    {
        return Ok(Some(moving));
    }
    let mut decoder = ImageReader::with_format(Cursor::new(source), format).into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    check_pixels(width, height, order)?;
    decoder.set_limits(limits(order)).map_err(broken)?;
    if is_small(width, height, order.size) {
        return Ok(None);
    }
    let orientation = decoder.orientation().map_err(broken)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(broken)?;
    // Turned when it is small: it may lie on its side.
    let size = if swaps_sides(orientation) { turned(order.size) } else { order.size };
    picture = fitted(&picture, size);
    picture.apply_orientation(orientation);
    encode(picture).map(Some)
}

/// What a small picture's bytes are.
pub(crate) fn content_type(picture: &[u8]) -> &'static str {
    match image::guess_format(picture) {
        Ok(ImageFormat::Png) => "image/png",
        Ok(ImageFormat::Gif) => "image/gif",
        _ => "image/jpeg",
    }
}

fn not_a_picture() -> MediaError {
    MediaError::NotDrawable(String::from("it is no JPEG, PNG, GIF or WebP picture"))
}

fn broken(error: ImageError) -> MediaError {
    match error {
        ImageError::Limits(error) => MediaError::TooMuchToDraw(error.to_string()),
        ImageError::Unsupported(_) => not_a_picture(),
        error => MediaError::NotDrawable(format!("the picture is broken: {error}")),
    }
}

fn limits(order: &Order) -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(order.max_pixels.saturating_mul(BYTES_A_PIXEL));
    limits
}

fn check_pixels(width: u32, height: u32, order: &Order) -> Result<(), MediaError> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels > order.max_pixels {
        let message = format!("it has {pixels} pixels, and {} are allowed", order.max_pixels);
        return Err(MediaError::TooMuchToDraw(message));
    }
    Ok(())
}

fn is_small(width: u32, height: u32, size: ThumbnailSize) -> bool {
    width <= size.width.get() && height <= size.height.get()
}

fn swaps_sides(orientation: image::metadata::Orientation) -> bool {
    use image::metadata::Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

fn turned(size: ThumbnailSize) -> ThumbnailSize {
    ThumbnailSize { width: size.height, height: size.width, method: size.method }
}

/// Never larger than it was.
fn fitted(picture: &DynamicImage, size: ThumbnailSize) -> DynamicImage {
    let (width, height) = (size.width.get(), size.height.get());
    match size.method {
        ThumbnailMethod::Scale => {
            if picture.width() <= width && picture.height() <= height {
                return picture.clone();
            }
            picture.resize(width, height, FilterType::Triangle)
        }
        ThumbnailMethod::Crop => {
            let (width, height) = (width.min(picture.width()), height.min(picture.height()));
            picture.resize_to_fill(width, height, FilterType::Triangle)
        }
    }
}

fn encode(picture: DynamicImage) -> Result<Bytes, MediaError> {
    let mut bytes = Vec::new();
    if picture.color().has_alpha() {
        let picture = DynamicImage::ImageRgba8(picture.into_rgba8());
        picture.write_with_encoder(PngEncoder::new(&mut bytes)).map_err(broken)?;
    } else {
        let picture = DynamicImage::ImageRgb8(picture.into_rgb8());
        picture
            .write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY))
            .map_err(broken)?;
    }
    Ok(Bytes::from(bytes))
}

/// Draws a picture that moves; `None` if it does not, or if it moves too much.
fn draw_moving(source: &[u8], format: ImageFormat, order: &Order) -> Result<Option<Bytes>, MediaError> {
    let source = Cursor::new(source);
    match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(source).map_err(broken)?;
            prepare(&mut decoder, order)?;
            draw_frames(decoder.dimensions(), decoder.into_frames(), order)
        }
        ImageFormat::Png => {
            let mut decoder = PngDecoder::new(source).map_err(broken)?;
            if !decoder.is_apng().map_err(broken)? {
                return Ok(None);
            }
            prepare(&mut decoder, order)?;
            let dimensions = decoder.dimensions();
            draw_frames(dimensions, decoder.apng().map_err(broken)?.into_frames(), order)
        }
        ImageFormat::WebP => {
            let mut decoder = WebPDecoder::new(source).map_err(broken)?;
            if !decoder.has_animation() {
                return Ok(None);
            }
            prepare(&mut decoder, order)?;
            draw_frames(decoder.dimensions(), decoder.into_frames(), order)
        }
        _ => Ok(None),
    }
}

fn prepare(decoder: &mut impl ImageDecoder, order: &Order) -> Result<(), MediaError> {
    let (width, height) = decoder.dimensions();
    check_pixels(width, height, order)?;
    decoder.set_limits(limits(order)).map_err(broken)
}

fn draw_frames(
    (width, height): (u32, u32),
    frames: Frames<'_>,
    order: &Order,
) -> Result<Option<Bytes>, MediaError> {
    if is_small(width, height, order.size) {
        return Ok(None);
    }
    let most_pixels = order.max_pixels.saturating_mul(MOST_MOVING);
    let mut pixels = 0_u64;
    let mut drawn: Vec<Frame> = Vec::new();
    for frame in frames {
        let frame = frame.map_err(broken)?;
        pixels = pixels.saturating_add(u64::from(width) * u64::from(height));
        if order.stop.load(Ordering::Relaxed) {
            return Err(MediaError::TooMuchToDraw(String::from("it takes too long")));
        }
        if pixels > most_pixels || drawn.len() >= MOST_FRAMES {
            return Ok(None);
        }
        let delay = frame.delay();
        let picture = fitted(&DynamicImage::ImageRgba8(frame.into_buffer()), order.size);
        drawn.push(Frame::from_parts(picture.into_rgba8(), 0, 0, delay));
    }
    if drawn.len() < 2 {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut bytes, GIF_SPEED);
    encoder.set_repeat(Repeat::Infinite).map_err(broken)?;
    encoder.encode_frames(drawn).map_err(broken)?;
    drop(encoder);
    Ok(Some(Bytes::from(bytes)))
}
