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
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::{
    AnimationDecoder, DynamicImage, Frame, Frames, ImageDecoder, ImageError, ImageFormat, ImageReader,
    Limits,
    codecs::{
        gif::{GifDecoder, GifEncoder, Repeat},
        jpeg::JpegEncoder,
        png::{PngDecoder, PngEncoder},
        webp::WebPDecoder,
    },
    metadata::Orientation,
};

use crate::{
    MediaError,
    avif::{self, Avif},
};

/// What opening a picture may take, in bytes: its profiles and texts, which a few bytes can be swollen to, but no pixels.
const MOST_TO_OPEN: u64 = 64 * 1024 * 1024;
/// What may be in memory while one is made, for each pixel of the source: a decoded picture of 16 bits a channel, and a copy.
const BYTES_A_PIXEL: u64 = 16;
/// Frames of a picture that moves.
const MOST_FRAMES: usize = 300;
/// All pixels of all its frames, in pictures of the largest size.
const MOST_MOVING: u64 = 4;
/// All pixels of all frames that are drawn; a GIF has a byte for each.
const MOST_DRAWN: u64 = 32 * 1024 * 1024;
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

/// Draws a small picture of a larger one, or a still one of one that moves; `None` if it is as it should be already.
pub(crate) fn draw(source: &[u8], order: &Order) -> Result<Option<Bytes>, MediaError> {
    if avif::is_avif(source) {
        return draw_avif(source, order);
    }
    let format = image::guess_format(source).map_err(|_| not_a_picture())?;
    if order.animated
        && let Some(moving) = draw_moving(source, format, order)?
    {
        return Ok(Some(moving));
    }
    let mut decoder = opened(source, format).into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    check_pixels(width, height, order)?;
    decoder.set_limits(limits(order)).map_err(broken)?;
    if is_small(width, height, order.size) && (order.animated || !moves(source, format, order)?) {
        return Ok(None);
    }
    let orientation = decoder.orientation().map_err(broken)?;
    let picture = DynamicImage::from_decoder(decoder).map_err(broken)?;
    finish(picture, orientation, order)
}

/// The same of a picture in an AVIF file. It does not move: what does is drawn as it begins.
fn draw_avif(source: &[u8], order: &Order) -> Result<Option<Bytes>, MediaError> {
    let avif = Avif::read(source)?;
    let (width, height) = avif.dimensions()?;
    check_pixels(width, height, order)?;
    if is_small(width, height, order.size) && (order.animated || !avif.moves()) {
        return Ok(None);
    }
    let orientation = avif.orientation()?;
    finish(avif.decode(order)?, orientation, order)
}

fn finish(
    picture: DynamicImage,
    orientation: Orientation,
    order: &Order,
) -> Result<Option<Bytes>, MediaError> {
    // Turned when it is small: it may lie on its side.
    let size = if swaps_sides(orientation) { turned(order.size) } else { order.size };
    let mut picture = fitted(picture, size)?;
    picture.apply_orientation(orientation);
    encode(picture).map(Some)
}

/// How many pixels a picture has, across and down, if it says so within bounds.
pub(crate) fn dimensions(source: &[u8]) -> Option<(u32, u32)> {
    if avif::is_avif(source) {
        return Avif::read(source).ok()?.dimensions().ok();
    }
    opened(source, image::guess_format(source).ok()?).into_dimensions().ok()
}

/// Whether these are a picture's bytes, as far as their beginning tells.
pub(crate) fn is_picture(bytes: &[u8]) -> bool {
    image::guess_format(bytes).is_ok() || avif::is_avif(bytes)
}

fn opened(source: &[u8], format: ImageFormat) -> ImageReader<Cursor<&[u8]>> {
    let mut reader = ImageReader::with_format(Cursor::new(source), format);
    reader.limits(limits_to_open());
    reader
}

fn limits_to_open() -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_TO_OPEN);
    limits
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
    MediaError::NotDrawable(String::from("it is no JPEG, PNG, GIF, WebP or AVIF picture"))
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

fn swaps_sides(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

fn turned(size: ThumbnailSize) -> ThumbnailSize {
    ThumbnailSize { width: size.height, height: size.width, method: size.method }
}

/// Never larger than it was.
fn fitted(picture: DynamicImage, size: ThumbnailSize) -> Result<DynamicImage, MediaError> {
    let (width, height) = match size.method {
        ThumbnailMethod::Scale => scaled(picture.width(), picture.height(), size),
        ThumbnailMethod::Crop => {
            (size.width.get().min(picture.width()), size.height.get().min(picture.height()))
        }
    };
    if (width, height) == (picture.width(), picture.height()) {
        return Ok(picture);
    }
    let mut small = DynamicImage::new(width, height, picture.color());
    // What is too much of another shape is cut off at both sides.
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
        .fit_into_destination(None);
    let resized = Resizer::new().resize(&picture, &mut small, &options);
    resized.map_err(|error| MediaError::NotDrawable(error.to_string()))?;
    Ok(small)
}

/// The largest size of the same shape that fits, and is not larger than it was.
fn scaled(width: u32, height: u32, size: ThumbnailSize) -> (u32, u32) {
    let (most_across, most_down) = (size.width.get(), size.height.get());
    if width <= most_across && height <= most_down {
        return (width, height);
    }
    let (across, down) = (u64::from(width), u64::from(height));
    let rounded = |part: u64, of: u64, whole: u64| {
        u32::try_from((part * whole + of / 2) / of.max(1)).unwrap_or(u32::MAX).max(1)
    };
    // Which side is the one that must give way the more?
    if u64::from(most_across) * down <= u64::from(most_down) * across {
        (most_across, rounded(u64::from(most_across), across, down).min(most_down))
    } else {
        (rounded(u64::from(most_down), down, across).min(most_across), most_down)
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

/// Whether a picture has more than one frame.
fn moves(source: &[u8], format: ImageFormat, order: &Order) -> Result<bool, MediaError> {
    let source = Cursor::new(source);
    match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(source).map_err(broken)?;
            prepare(&mut decoder, order)?;
            Ok(decoder.into_frames().take(2).count() > 1)
        }
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(source, limits_to_open()).map_err(broken)?;
            decoder.is_apng().map_err(broken)
        }
        ImageFormat::WebP => Ok(WebPDecoder::new(source).map_err(broken)?.has_animation()),
        _ => Ok(false),
    }
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
            let mut decoder = PngDecoder::with_limits(source, limits_to_open()).map_err(broken)?;
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
    let (mut pixels, mut drawn_pixels, mut drawn) = (0_u64, 0_u64, 0);
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut bytes, GIF_SPEED);
    encoder.set_repeat(Repeat::Infinite).map_err(broken)?;
    for frame in frames {
        let frame = frame.map_err(broken)?;
        pixels = pixels.saturating_add(u64::from(width) * u64::from(height));
        if order.stop.load(Ordering::Relaxed) {
            return Err(MediaError::TooMuchToDraw(String::from("it takes too long")));
        }
        let delay = frame.delay();
        let picture = fitted(DynamicImage::ImageRgba8(frame.into_buffer()), order.size)?;
        drawn_pixels = drawn_pixels.saturating_add(u64::from(picture.width()) * u64::from(picture.height()));
        if pixels > most_pixels || drawn_pixels > MOST_DRAWN || drawn >= MOST_FRAMES {
            return Ok(None);
        }
        // Frame by frame, so that one is in memory at a time.
        encoder.encode_frame(Frame::from_parts(picture.into_rgba8(), 0, 0, delay)).map_err(broken)?;
        drawn += 1;
    }
    drop(encoder);
    Ok((drawn > 1).then(|| Bytes::from(bytes)))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use image::{Delay, RgbaImage, codecs::webp::WebPEncoder};

    use super::*;

    fn order(side: u32, animated: bool) -> Order {
        let side = NonZeroU32::new(side).unwrap();
        let size = ThumbnailSize { width: side, height: side, method: ThumbnailMethod::Crop };
        Order { size, animated, max_pixels: 1_000_000, stop: Arc::default() }
    }

    fn frame(shade: u8) -> RgbaImage {
        RgbaImage::from_pixel(200, 200, image::Rgba([shade, 255 - shade, 0, 255]))
    }

    /// A chunk of a PNG (PNG, section 5.3).
    fn chunk(name: [u8; 4], data: &[u8]) -> Vec<u8> {
        let named = [name.as_slice(), data].concat();
        let length = u32::try_from(data.len()).unwrap().to_be_bytes();
        [length.as_slice(), &named, &crc32(&named).to_be_bytes()].concat()
    }

    /// ISO 3309.
    fn crc32(bytes: &[u8]) -> u32 {
        let mut check = u32::MAX;
        for byte in bytes {
            check ^= u32::from(*byte);
            for _ in 0..8 {
                check = (check >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(check & 1));
            }
        }
        !check
    }

    fn png(shade: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame(shade).write_with_encoder(PngEncoder::new(&mut bytes)).unwrap();
        bytes
    }

    /// The data of the first chunk of a kind.
    fn data(png: &[u8], name: [u8; 4]) -> &[u8] {
        let at = png.windows(4).position(|window| window == name).unwrap();
        let length = usize::try_from(u32::from_be_bytes(png[at - 4..at].try_into().unwrap())).unwrap();
        &png[at + 4..at + 4 + length]
    }

    /// A picture of two frames (APNG).
    fn moving_png() -> Vec<u8> {
        let (first, second) = (png(0), png(200));
        let control = |sequence: u32| {
            let mut data = sequence.to_be_bytes().to_vec();
            for number in [200_u32, 200, 0, 0] {
                data.extend(number.to_be_bytes());
            }
            data.extend([0, 1, 0, 10, 0, 0]);
            chunk(*b"fcTL", &data)
        };
        let next = [2_u32.to_be_bytes().as_slice(), data(&second, *b"IDAT")].concat();
        [
            first[..33].to_vec(),
            chunk(*b"acTL", &[0, 0, 0, 2, 0, 0, 0, 0]),
            control(0),
            chunk(*b"IDAT", data(&first, *b"IDAT")),
            control(1),
            chunk(*b"fdAT", &next),
            chunk(*b"IEND", &[]),
        ]
        .concat()
    }

    /// A picture of two frames (WebP, "Animation").
    fn moving_webp() -> Vec<u8> {
        let part = |name: &[u8; 4], data: &[u8]| {
            let length = u32::try_from(data.len()).unwrap().to_le_bytes();
            let padding: &[u8] = if data.len().is_multiple_of(2) { &[] } else { &[0] };
            [name.as_slice(), &length, data, padding].concat()
        };
        let still = |shade: u8| {
            let mut bytes = Vec::new();
            frame(shade).write_with_encoder(WebPEncoder::new_lossless(&mut bytes)).unwrap();
            bytes[12..].to_vec()
        };
        let moment = |shade: u8| {
            let head = [0_u8, 0, 0, 0, 0, 0, 199, 0, 0, 199, 0, 0, 100, 0, 0, 0];
            part(b"ANMF", &[head.as_slice(), &still(shade)].concat())
        };
        let body = [
            b"WEBP".to_vec(),
            part(b"VP8X", &[0b10, 0, 0, 0, 199, 0, 0, 199, 0, 0]),
            part(b"ANIM", &[0; 6]),
            moment(0),
            moment(200),
        ];
        part(b"RIFF", &body.concat())
    }

    fn moving_gif() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = GifEncoder::new(&mut bytes);
        for shade in [0, 200] {
            let delay = Delay::from_numer_denom_ms(100, 1);
            encoder.encode_frame(Frame::from_parts(frame(shade), 0, 0, delay)).unwrap();
        }
        drop(encoder);
        bytes
    }

    #[test]
    fn what_moves_moves_only_if_it_may() {
        for source in [moving_gif(), moving_png(), moving_webp()] {
            let moving = draw(&source, &order(50, true)).unwrap().unwrap();
            let frames = GifDecoder::new(Cursor::new(&moving)).unwrap().into_frames();
            let frames = frames.collect_frames().unwrap();
            assert_eq!((frames.len(), frames[0].buffer().dimensions()), (2, (50, 50)));
            let shade = |frame: &Frame| frame.buffer().get_pixel(20, 20)[0];
            assert!(shade(&frames[0]) < 50 && shade(&frames[1]) > 150);
            for (side, expected) in [(50, 50), (300, 200)] {
                let still = draw(&source, &order(side, false)).unwrap().unwrap();
                assert_ne!(content_type(&still), "image/gif");
                assert_eq!(dimensions(&still), Some((expected, expected)));
            }
            assert_eq!(draw(&source, &order(300, true)).unwrap(), None, "it is small, and may move");
        }
        assert_eq!(draw(&png(0), &order(300, false)).unwrap(), None, "it is small, and does not move");
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let encoded = |format: ImageFormat| {
            let mut bytes = Cursor::new(Vec::new());
            let shade = |number: u32| u8::try_from(number % 251).unwrap();
            let shades = |x: u32, y: u32| image::Rgb([shade(x), shade(y), shade(x * y)]);
            let picture = image::RgbImage::from_fn(400, 400, shades);
            DynamicImage::ImageRgb8(picture).write_to(&mut bytes, format).unwrap();
            bytes.into_inner()
        };
        for format in [ImageFormat::Png, ImageFormat::Gif, ImageFormat::WebP, ImageFormat::Jpeg] {
            let whole = encoded(format);
            assert!(draw(&whole, &order(50, false)).unwrap().is_some());
            for kept in [4, 20, 40, whole.len() / 2] {
                for animated in [false, true] {
                    let drawn = draw(&whole[..kept], &order(50, animated));
                    // Of a JPEG the beginning can be shown.
                    let is_fine = format == ImageFormat::Jpeg && kept > 40;
                    let refused = matches!(drawn, Err(MediaError::NotDrawable(_)));
                    assert!(refused || is_fine, "{format:?} {kept} {drawn:?}");
                }
            }
        }
    }
}
