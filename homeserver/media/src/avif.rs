//! Pictures in AVIF files (AV1 Image File Format): which box says what, and from AV1 to pixels.
//!
//! The decoder (`re_rav1d`) tells on standard error what it cannot decode; it has no other place for it.

mod colour;
mod container;

use std::sync::atomic::Ordering;

use image::{
    DynamicImage, GrayImage, ImageBuffer, Pixel, RgbImage, RgbaImage, imageops, metadata::Orientation,
};
use re_rav1d::{Decoder, Picture, Settings};

use self::container::{Brand, Colour, Container};
use crate::{MediaError, drawing::Order};

/// Frames in one picture: AV1 has at most so many layers, which is what there can be several for.
const MOST_FRAMES: usize = 4;
/// How often the decoder is asked for a picture of which it has all bytes.
const MOST_ASKED: usize = 2 * MOST_FRAMES;
/// Pictures that others are put together from may stick out; with what sticks out they are not more than so many times as large.
const MOST_OUTSIDE: u64 = 2;

/// From what was decoded to pixels.
type Convert<'a, P> = &'a dyn Fn(&Picture, Option<Colour>) -> Result<ImageBuffer<P, Vec<u8>>, MediaError>;

/// A picture that was read, and is not decoded.
#[derive(Debug)]
pub(crate) struct Avif<'a> {
    brand: Brand,
    container: Container<'a>,
}

/// Whether these are a picture's bytes, as far as their beginning tells.
pub(crate) fn is_avif(source: &[u8]) -> bool {
    container::brand(source).is_some()
}

impl<'a> Avif<'a> {
    pub(crate) fn read(source: &'a [u8]) -> Result<Self, MediaError> {
        let brand = container::brand(source).ok_or_else(|| broken("it has no brand"))?;
        Ok(Self { brand, container: Container::read(source)? })
    }

    /// Pixels across and down, before it is turned.
    pub(crate) fn dimensions(&self) -> Result<(u32, u32), MediaError> {
        self.container.size(self.container.primary)
    }

    /// Whether there are more pictures than the one that is shown first.
    pub(crate) fn moves(&self) -> bool {
        self.brand.is_sequence
    }

    /// How it is turned when it is shown.
    pub(crate) fn orientation(&self) -> Result<Orientation, MediaError> {
        let (quarters, mirror) = self.container.turns(self.container.primary)?;
        Ok(orientation(quarters, mirror))
    }

    /// Decodes it; it is not turned yet. Whoever asks has looked at its size.
    pub(crate) fn decode(&self, order: &Order) -> Result<DynamicImage, MediaError> {
        let item = self.container.primary;
        let colours: RgbImage = self.picture(item, order, &colour::rgb)?;
        let Some(alpha_item) = self.container.alpha(item)? else {
            return Ok(DynamicImage::ImageRgb8(colours));
        };
        if self.container.size(alpha_item)? != colours.dimensions() {
            return Err(broken("its transparency is of another size"));
        }
        let alpha: GrayImage = self.picture(alpha_item, order, &|picture, _| colour::grey(picture))?;
        let is_premultiplied = self.container.is_premultiplied(item);
        Ok(DynamicImage::ImageRgba8(with_alpha(&colours, &alpha, is_premultiplied)))
    }

    /// A picture, or what it is put together from.
    fn picture<P>(
        &self,
        item: u32,
        order: &Order,
        convert: Convert<'_, P>,
    ) -> Result<ImageBuffer<P, Vec<u8>>, MediaError>
    where
        P: Pixel<Subpixel = u8> + 'static,
    {
        if !self.container.is_grid(item)? {
            return convert(&self.decoded(item, order)?, self.container.colour(item)?);
        }
        let grid = Grid::read(&self.container.data(item)?)?;
        let tiles = self.container.tiles(item);
        let first = *tiles.first().ok_or_else(|| broken("it is put together from nothing"))?;
        let (width, height) = self.container.size(first)?;
        grid.check((width, height), tiles.len(), order)?;
        if self.container.size(item)? != (grid.width, grid.height) {
            return Err(broken("it has two sizes"));
        }
        let mut whole = ImageBuffer::new(grid.width, grid.height);
        for (number, tile) in (0_u32..).zip(tiles) {
            if self.container.is_grid(tile)? || self.container.size(tile)? != (width, height) {
                return Err(broken("its parts differ"));
            }
            let colour = self.container.colour(tile)?.or(self.container.colour(item)?);
            let part = convert(&self.decoded(tile, order)?, colour)?;
            let (x, y) = (i64::from(number % grid.columns), i64::from(number / grid.columns));
            imageops::replace(&mut whole, &part, x * i64::from(width), y * i64::from(height));
        }
        Ok(whole)
    }

    fn decoded(&self, item: u32, order: &Order) -> Result<Picture, MediaError> {
        if order.stop.load(Ordering::Relaxed) {
            return Err(MediaError::TooMuchToDraw(String::from("it takes too long")));
        }
        let size = self.container.size(item)?;
        let data = self.container.data(item)?.into_owned();
        let frames = frames(&data).ok_or_else(|| broken("it is cut short"))?;
        if frames > MOST_FRAMES {
            return Err(MediaError::TooMuchToDraw(format!("one of its pictures is {frames}")));
        }
        let picture = decode(data, size)?;
        if (picture.width(), picture.height()) != size {
            return Err(broken("it has two sizes"));
        }
        Ok(picture)
    }
}

/// A picture of others, side by side (ISO/IEC 23008-12, 6.6.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grid {
    rows: u32,
    columns: u32,
    width: u32,
    height: u32,
}

impl Grid {
    fn read(data: &[u8]) -> Result<Self, MediaError> {
        let incomplete = || broken("it does not say how it is put together");
        let [0, flags, rows, columns, sizes @ ..] = data else { return Err(incomplete()) };
        let (width, height) = if flags & 1 == 0 {
            let [width, height] = sizes.as_chunks::<2>().0 else { return Err(incomplete()) };
            (u32::from(u16::from_be_bytes(*width)), u32::from(u16::from_be_bytes(*height)))
        } else {
            let [width, height] = sizes.as_chunks::<4>().0 else { return Err(incomplete()) };
            (u32::from_be_bytes(*width), u32::from_be_bytes(*height))
        };
        Ok(Self { rows: u32::from(*rows) + 1, columns: u32::from(*columns) + 1, width, height })
    }

    /// Whether pictures of a size fill it, and are not much more than it.
    fn check(self, (width, height): (u32, u32), tiles: usize, order: &Order) -> Result<(), MediaError> {
        let count = self.rows * self.columns;
        let (across, down) = (width.saturating_mul(self.columns), height.saturating_mul(self.rows));
        let is_filled = across >= self.width && down >= self.height && self.width > 0 && self.height > 0;
        if !is_filled || u32::try_from(tiles) != Ok(count) {
            return Err(broken("it is not filled by its parts"));
        }
        let pixels = u64::from(across) * u64::from(down);
        if pixels > order.max_pixels.saturating_mul(MOST_OUTSIDE) {
            return Err(MediaError::TooMuchToDraw(format!("its parts have {pixels} pixels")));
        }
        Ok(())
    }
}

/// One picture of AV1 with so many pixels.
fn decode(data: Vec<u8>, (width, height): (u32, u32)) -> Result<Picture, MediaError> {
    let undecodable = |error: re_rav1d::Error| broken(&error.to_string());
    let mut settings = Settings::new();
    // Else there would be threads that no place here is for.
    settings.set_n_threads(1);
    settings.set_max_frame_delay(1);
    settings.set_all_layers(false);
    settings.set_frame_size_limit(width.saturating_mul(height));
    let mut decoder = Decoder::with_settings(&settings).map_err(undecodable)?;
    let mut sent = decoder.send_data(data, None, None, None);
    for _ in 0..MOST_ASKED {
        match sent {
            Err(error) if !error.is_again() => return Err(undecodable(error)),
            _ => {}
        }
        match decoder.get_picture() {
            Ok(picture) => return Ok(picture),
            Err(error) if error.is_again() => sent = decoder.send_pending_data(),
            Err(error) => return Err(undecodable(error)),
        }
    }
    Err(broken("there is no picture in it"))
}

/// How many frames some AV1 has (AV1, sections 5.3 and 6.2.2); each may take as long as a picture. `None` if it is cut short.
fn frames(mut data: &[u8]) -> Option<usize> {
    const FRAME_HEADER: u8 = 3;
    const FRAME: u8 = 6;
    let mut frames = 0;
    while let Some((header, rest)) = data.split_first() {
        let kind = (header >> 3) & 0b1111;
        let (has_extension, has_size) = (header & 0b100 != 0, header & 0b10 != 0);
        let rest = rest.get(usize::from(has_extension)..)?;
        let (size, rest) = if has_size { little_endian_base_128(rest)? } else { (rest.len(), rest) };
        if kind == FRAME_HEADER || kind == FRAME {
            frames += 1;
        }
        data = rest.get(size..)?;
    }
    Some(frames)
}

/// A number of several bytes (AV1, section 4.10.5), and what is behind it.
fn little_endian_base_128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0_u64;
    for (place, byte) in bytes.iter().enumerate().take(8) {
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(number).ok()?, bytes.get(place + 1..)?));
        }
    }
    None
}

/// Quarters of a turn against the clock, and then a mirror along an axis.
fn orientation(quarters: u8, mirror: Option<u8>) -> Orientation {
    // Upside down is from side to side, turned by half.
    let (quarters, is_mirrored) = match mirror {
        None => (quarters, false),
        Some(0) => (quarters + 2, true),
        Some(_) => (quarters, true),
    };
    match (quarters % 4, is_mirrored) {
        (0, false) => Orientation::NoTransforms,
        (1, false) => Orientation::Rotate270,
        (2, false) => Orientation::Rotate180,
        (_, false) => Orientation::Rotate90,
        (0, true) => Orientation::FlipHorizontal,
        (1, true) => Orientation::Rotate270FlipH,
        (2, true) => Orientation::FlipVertical,
        (_, true) => Orientation::Rotate90FlipH,
    }
}

fn with_alpha(colours: &RgbImage, alpha: &GrayImage, is_premultiplied: bool) -> RgbaImage {
    let mut picture = RgbaImage::new(colours.width(), colours.height());
    for ((pixel, colour), alpha) in picture.pixels_mut().zip(colours.pixels()).zip(alpha.pixels()) {
        let [opacity] = alpha.0;
        let divided = |part: u8| {
            let whole = (u32::from(part) * 255 + u32::from(opacity) / 2).checked_div(u32::from(opacity));
            u8::try_from(whole.unwrap_or(0)).unwrap_or(u8::MAX)
        };
        let [red, green, blue] = if is_premultiplied { colour.0.map(divided) } else { colour.0 };
        pixel.0 = [red, green, blue, opacity];
    }
    picture
}

fn broken(why: &str) -> MediaError {
    MediaError::NotDrawable(format!("the picture is broken: {why}"))
}

fn unsupported(why: &str) -> MediaError {
    MediaError::NotDrawable(format!("the picture cannot be shown: {why}"))
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, sync::Arc};

    use entente_config::{ThumbnailMethod, ThumbnailSize};

    use super::*;

    fn order(max_pixels: u64) -> Order {
        let side = NonZeroU32::new(32).unwrap();
        let size = ThumbnailSize { width: side, height: side, method: ThumbnailMethod::Scale };
        Order { size, animated: false, max_pixels, stop: Arc::default() }
    }

    fn decoded(source: &[u8]) -> Result<DynamicImage, MediaError> {
        Avif::read(source)?.decode(&order(1_000_000))
    }

    /// The middles of the four quarters: upper left, upper right, lower left, lower right.
    fn quarters(picture: &DynamicImage) -> [[u8; 4]; 4] {
        let picture = picture.to_rgba8();
        let (width, height) = picture.dimensions();
        let at = |x: u32, y: u32| picture.get_pixel(width * x / 4, height * y / 4).0;
        [at(1, 1), at(3, 1), at(1, 3), at(3, 3)]
    }

    fn assert_close(picture: &DynamicImage, expected: [[u8; 4]; 4], what: &str) {
        let found = quarters(picture);
        let most = found.iter().flatten().zip(expected.iter().flatten()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(most.unwrap() <= 3, "{what}: {found:?}, and not {expected:?}");
    }

    fn replaced(source: &[u8], name: &[u8], offset: usize, with: &[u8]) -> Vec<u8> {
        let mut source = source.to_vec();
        let at = source.windows(name.len()).position(|window| window == name).unwrap() + name.len() + offset;
        source[at..at + with.len()].copy_from_slice(with);
        source
    }

    const RED: [u8; 4] = [200, 40, 40, 255];
    const GREEN: [u8; 4] = [40, 180, 60, 255];
    const BLUE: [u8; 4] = [40, 60, 200, 255];
    const WHITE: [u8; 4] = [230, 230, 200, 255];
    const PLAIN: &[u8] = include_bytes!("../fixtures/bt601-full-420-8.avif");
    const TURNED: &[u8] = include_bytes!("../fixtures/turned.avif");
    const GRID: &[u8] = include_bytes!("../fixtures/grid.avif");
    const MOVING: &[u8] = include_bytes!("../fixtures/moving.avif");

    // They were made by libavif from the four colours above.
    #[test]
    fn colours_are_what_they_were() {
        let plain = [RED, GREEN, BLUE, WHITE];
        let sources: [(&[u8], &str); 4] = [
            (PLAIN, "BT.601, full range, 4:2:0, 8 bits"),
            (
                include_bytes!("../fixtures/bt709-limited-422-12.avif"),
                "BT.709, limited range, 4:2:2, 12 bits",
            ),
            (
                include_bytes!("../fixtures/bt2020-limited-444-10.avif"),
                "BT.2020, limited range, 4:4:4, 10 bits",
            ),
            (include_bytes!("../fixtures/identity-444-8.avif"), "red, green and blue as they are"),
        ];
        for (source, what) in sources {
            assert_close(&decoded(source).unwrap(), plain, what);
        }
        let grey = [88, 124, 70, 227].map(|grey| [grey, grey, grey, 255]);
        assert_close(&decoded(include_bytes!("../fixtures/grey-8.avif")).unwrap(), grey, "grey");
    }

    #[test]
    fn what_is_transparent_stays_so() {
        let [_, _, blue, white] = [RED, GREEN, BLUE, WHITE].map(|[red, green, blue, _]| [red, green, blue]);
        let [blue_and, white_and] = [(blue, 128), (white, 0)].map(|([r, g, b], alpha)| [r, g, b, alpha]);
        let source = include_bytes!("../fixtures/alpha.avif");
        assert_close(&decoded(source).unwrap(), [RED, GREEN, blue_and, white_and], "transparent");
        let source = include_bytes!("../fixtures/alpha-premultiplied.avif");
        assert_close(&decoded(source).unwrap(), [RED, GREEN, blue_and, [0; 4]], "premultiplied");
        assert_close(&decoded(GRID).unwrap(), [RED, GREEN, blue_and, white_and], "of four pictures");
    }

    #[test]
    fn pictures_are_turned_as_they_say() {
        let [r, g, b, w] = [RED, GREEN, BLUE, WHITE];
        let expected = [
            (0, 0, [b, w, r, g]),
            (0, 1, [g, r, w, b]),
            (1, 0, [r, b, g, w]),
            (1, 1, [w, g, b, r]),
            (2, 0, [g, r, w, b]),
            (2, 1, [b, w, r, g]),
            (3, 0, [w, g, b, r]),
            (3, 1, [r, b, g, w]),
        ];
        for (angle, axis, expected) in expected {
            let source = replaced(&replaced(TURNED, b"irot", 0, &[angle]), b"imir", 0, &[axis]);
            let avif = Avif::read(&source).unwrap();
            let mut picture = avif.decode(&order(1_000_000)).unwrap();
            picture.apply_orientation(avif.orientation().unwrap());
            assert_close(&picture, expected, &format!("turned {angle}, mirrored {axis}"));
            assert_eq!(picture.width() == 48, angle % 2 == 1);
        }
        for (angle, expected) in [(0, [r, g, b, w]), (1, [g, w, r, b]), (2, [w, b, g, r]), (3, [b, r, w, g])]
        {
            let mut picture = decoded(PLAIN).unwrap();
            picture.apply_orientation(orientation(angle, None));
            assert_close(&picture, expected, &format!("turned {angle}"));
        }
    }

    #[test]
    fn what_moves_is_known_to() {
        assert!(Avif::read(MOVING).unwrap().moves());
        assert!(!Avif::read(PLAIN).unwrap().moves());
        assert_close(&decoded(MOVING).unwrap(), [RED; 4], "the first of them");
    }

    #[test]
    fn what_is_cut_off_or_not_understood_is_refused() {
        for source in [PLAIN, GRID, MOVING] {
            for kept in (0..source.len()).step_by(7) {
                let picture = Avif::read(&source[..kept]).and_then(|avif| avif.decode(&order(1_000_000)));
                // The frames of what moves come behind the one that is shown.
                if kept < source.len() / 2 {
                    assert!(matches!(picture, Err(MediaError::NotDrawable(_))), "{kept}: {picture:?}");
                }
            }
        }
        let cropped = include_bytes!("../fixtures/cropped.avif");
        let why = decoded(cropped).unwrap_err().to_string();
        assert!(why.contains("in a way that is not known"), "what was cut off is not shown: {why}");
        for byte in (0..PLAIN.len()).step_by(3) {
            let mut source = PLAIN.to_vec();
            source[byte] ^= 0xff;
            // Whatever comes of it, it comes to an end.
            let _ = decoded(&source);
        }
    }

    #[test]
    fn what_is_larger_than_it_says_is_refused() {
        let size = |width: u32, height: u32| {
            let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
            replaced(PLAIN, b"ispe", 4, &size)
        };
        for (width, height) in [(63, 48), (64, 47), (1, 1), (65, 48)] {
            let picture = decoded(&size(width, height));
            assert!(matches!(picture, Err(MediaError::NotDrawable(_))), "{width} by {height}: {picture:?}");
        }
        assert!(matches!(decoded(&size(0, 48)), Err(MediaError::NotDrawable(_))));
        assert_eq!(Avif::read(&size(10_000, 10_000)).unwrap().dimensions().unwrap(), (10_000, 10_000));
        let grid = Avif::read(GRID).unwrap();
        assert!(matches!(grid.decode(&order(128 * 128 / 2 - 1)), Err(MediaError::TooMuchToDraw(_))));
    }

    #[test]
    fn one_picture_is_not_thousands() {
        let avif = Avif::read(PLAIN).unwrap();
        let data = avif.container.data(avif.container.primary).unwrap();
        assert_eq!(frames(&data), Some(1));
        assert_eq!(frames(&data.repeat(1_000)), Some(1_000));
        assert_eq!(frames(&data[..data.len() - 1]), None);
        assert_eq!(frames(&[0b0011_0000, 1, 2, 3]), Some(1), "it ends where the data do");
        assert_eq!(frames(&[0b0011_0010, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]), None);
        assert_eq!(frames(&[]), Some(0));
    }

    #[test]
    fn a_description_takes_no_more_than_it_is_long() {
        // Neither offsets nor lengths have any bytes, so that parts have none either.
        let sizes = replaced(PLAIN, b"iloc", 4, &[0]);
        assert!(matches!(Avif::read(&sizes), Err(MediaError::NotDrawable(_))));
        let long = 2 * 1024 * 1024_u32;
        let mut source = PLAIN[..PLAIN.windows(4).position(|window| window == b"meta").unwrap() - 4].to_vec();
        source.extend(long.to_be_bytes());
        source.extend(b"meta");
        source.resize(source.len() + usize::try_from(long).unwrap(), 0);
        assert!(matches!(Avif::read(&source), Err(MediaError::TooMuchToDraw(_))));
    }
}
