//! From the planes of a decoded picture to red, green and blue (ITU-T H.273, 8.3).

use image::{GrayImage, RgbImage};
use re_rav1d::{
    Picture, PixelLayout, PlanarImageComponent,
    pixel::{MatrixCoefficients, YUVRange},
};

use super::{broken, container::Colour, unsupported};
use crate::MediaError;

/// How much of the brightness red and blue are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Matrix {
    /// The planes are green, blue and red.
    Identity,
    Weights {
        red: f32,
        blue: f32,
    },
}

/// From the values of a plane to what they stand for: 0 to 1, or, of differences, -1/2 to 1/2.
#[derive(Clone, Copy, Debug)]
struct Range {
    offset: f32,
    scale: f32,
}

impl Range {
    fn apply(self, value: f32) -> f32 {
        (value - self.offset) * self.scale
    }
}

/// One plane of a picture.
struct Plane {
    bytes: re_rav1d::Plane,
    /// Bytes from a row to the next.
    stride: usize,
    is_wide: bool,
    /// Whether each value is for two pixels, across and down.
    is_halved: (bool, bool),
}

impl Plane {
    fn of(picture: &Picture, component: PlanarImageComponent) -> Result<Self, MediaError> {
        let is_halved = match (component, picture.pixel_layout()) {
            (PlanarImageComponent::Y, _) | (_, PixelLayout::I444 | PixelLayout::I400) => (false, false),
            (_, PixelLayout::I422) => (true, false),
            (_, PixelLayout::I420) => (true, true),
        };
        let stride = usize::try_from(picture.stride(component)).map_err(|_| broken("it is too wide"))?;
        let is_wide = picture.bit_depth() > 8;
        Ok(Self { bytes: picture.plane(component), stride, is_wide, is_halved })
    }

    /// The values of a row of pixels.
    fn row(&self, row: usize, values: &mut [f32]) -> Result<(), MediaError> {
        let row = if self.is_halved.1 { row / 2 } else { row };
        let start = row.saturating_mul(self.stride);
        let end = start.saturating_add(self.stride);
        let bytes = self.bytes.get(start..end).ok_or_else(|| broken("rows are missing"))?;
        let times = if self.is_halved.0 { 2 } else { 1 };
        if self.is_wide {
            for (pixels, pair) in values.chunks_mut(times).zip(bytes.as_chunks::<2>().0) {
                pixels.fill(f32::from(u16::from_ne_bytes(*pair)));
            }
        } else {
            for (pixels, byte) in values.chunks_mut(times).zip(bytes) {
                pixels.fill(f32::from(*byte));
            }
        }
        Ok(())
    }
}

/// A picture in colours; what the file says of them counts for more than what the picture says.
pub(super) fn rgb(picture: &Picture, said: Option<Colour>) -> Result<RgbImage, MediaError> {
    let (matrix, is_full_range) = match said {
        Some(colour) => (matrix_of(colour.matrix_coefficients)?, colour.is_full_range),
        None => (matrix_of(code(picture.matrix_coefficients()))?, picture.color_range() == YUVRange::Full),
    };
    let is_grey = picture.pixel_layout() == PixelLayout::I400;
    if matrix == Matrix::Identity && !is_grey && picture.pixel_layout() != PixelLayout::I444 {
        return Err(broken("it has fewer blue and red pixels than green ones"));
    }
    let (luma_range, chroma_range) = ranges(bits(picture)?, is_full_range);
    let luma = Plane::of(picture, PlanarImageComponent::Y)?;
    let chroma = if is_grey {
        None
    } else {
        Some((Plane::of(picture, PlanarImageComponent::U)?, Plane::of(picture, PlanarImageComponent::V)?))
    };
    let (width, height) = (picture.width(), picture.height());
    let mut drawn = RgbImage::new(width, height);
    let across = usize::try_from(width).map_err(|_| broken("it is too wide"))?;
    // Without colours both differences are none, and with them each is overwritten.
    let middle = chroma_range.offset;
    let (mut ys, mut us, mut vs) = (vec![0.0; across], vec![middle; across], vec![middle; across]);
    for (row, pixels) in drawn.rows_mut().enumerate() {
        luma.row(row, &mut ys)?;
        if let Some((u, v)) = &chroma {
            u.row(row, &mut us)?;
            v.row(row, &mut vs)?;
        }
        for (((pixel, y), u), v) in pixels.zip(&ys).zip(&us).zip(&vs) {
            let y = luma_range.apply(*y);
            pixel.0 = match matrix {
                Matrix::Identity if is_grey => [byte(y); 3],
                Matrix::Identity => [byte(luma_range.apply(*v)), byte(y), byte(luma_range.apply(*u))],
                Matrix::Weights { red, blue } => {
                    let (u, v) = (chroma_range.apply(*u), chroma_range.apply(*v));
                    colours(y, u, v, red, blue).map(byte)
                }
            };
        }
    }
    Ok(drawn)
}

/// The brightness of a picture alone: how opaque another is.
pub(super) fn grey(picture: &Picture) -> Result<GrayImage, MediaError> {
    let (range, _) = ranges(bits(picture)?, picture.color_range() == YUVRange::Full);
    let luma = Plane::of(picture, PlanarImageComponent::Y)?;
    let mut drawn = GrayImage::new(picture.width(), picture.height());
    let across = usize::try_from(picture.width()).map_err(|_| broken("it is too wide"))?;
    let mut values = vec![0.0; across];
    for (row, pixels) in drawn.rows_mut().enumerate() {
        luma.row(row, &mut values)?;
        for (pixel, value) in pixels.zip(&values) {
            pixel.0 = [byte(range.apply(*value))];
        }
    }
    Ok(drawn)
}

fn bits(picture: &Picture) -> Result<u16, MediaError> {
    let bits = picture.bits_per_component().and_then(|bits| u16::try_from(bits.0).ok());
    bits.filter(|bits| (8..=12).contains(bits)).ok_or_else(|| broken("its values have no width"))
}

/// Of brightness, and of differences of colour (ITU-T H.273, equations 20 to 22 and 26 to 28).
fn ranges(bits: u16, is_full: bool) -> (Range, Range) {
    let unit = f32::from(1_u16 << (bits - 8));
    if is_full {
        let most = f32::from((1_u16 << bits) - 1);
        let scale = 1.0 / most;
        return (Range { offset: 0.0, scale }, Range { offset: 128.0 * unit, scale });
    }
    let luma = Range { offset: 16.0 * unit, scale: 1.0 / (219.0 * unit) };
    (luma, Range { offset: 128.0 * unit, scale: 1.0 / (224.0 * unit) })
}

/// Red, green and blue (ITU-T H.273, equations 38 to 40, turned round).
fn colours(y: f32, u: f32, v: f32, of_red: f32, of_blue: f32) -> [f32; 3] {
    let red = y + 2.0 * (1.0 - of_red) * v;
    let blue = y + 2.0 * (1.0 - of_blue) * u;
    let green = (y - of_red * red - of_blue * blue) / (1.0 - of_red - of_blue);
    [red, green, blue]
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and 256")]
fn byte(part: f32) -> u8 {
    // The nearest; `round` would be a call for each.
    (part.clamp(0.0, 1.0) * 255.0 + 0.5) as u8
}

/// By its number in ITU-T H.273, table 4.
fn matrix_of(code: u16) -> Result<Matrix, MediaError> {
    let (red, blue) = match code {
        0 => return Ok(Matrix::Identity),
        1 => (0.2126, 0.0722),
        // 2: whoever says nothing means what most mean.
        2 | 5 | 6 => (0.299, 0.114),
        4 => (0.30, 0.11),
        7 => (0.212, 0.087),
        9 => (0.2627, 0.0593),
        _ => return Err(unsupported("its colours are of a kind that is not known")),
    };
    Ok(Matrix::Weights { red, blue })
}

fn code(matrix: MatrixCoefficients) -> u16 {
    match matrix {
        MatrixCoefficients::Identity => 0,
        MatrixCoefficients::BT709 => 1,
        MatrixCoefficients::Unspecified => 2,
        MatrixCoefficients::BT470M => 4,
        MatrixCoefficients::BT470BG => 5,
        MatrixCoefficients::ST170M => 6,
        MatrixCoefficients::ST240M => 7,
        MatrixCoefficients::BT2020NonConstantLuminance => 9,
        _ => u16::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_are_known_colours() {
        let bt709 = |bits: u16, y: u16, u: u16, v: u16| {
            let (luma, chroma) = ranges(bits, false);
            let [y, u, v] =
                [(luma, y), (chroma, u), (chroma, v)].map(|(range, value)| range.apply(f32::from(value)));
            colours(y, u, v, 0.2126, 0.0722).map(byte)
        };
        // ITU-R BT.709, the values of a colour bar.
        assert_eq!(bt709(8, 16, 128, 128), [0, 0, 0]);
        assert_eq!(bt709(8, 235, 128, 128), [255, 255, 255]);
        assert_eq!(bt709(10, 940, 512, 512), [255, 255, 255]);
        assert_eq!(bt709(8, 63, 102, 240), [255, 1, 0]);
        assert_eq!(bt709(8, 32, 240, 118), [1, 0, 255]);
        assert_eq!(bt709(8, 255, 128, 128), [255, 255, 255], "it is as bright as can be");
    }

    #[test]
    fn ranges_end_where_they_should() {
        for bits in [8, 10, 12] {
            let top = (1_u16 << bits) - 1;
            let (luma, chroma) = ranges(bits, true);
            assert_eq!((byte(luma.apply(0.0)), byte(luma.apply(f32::from(top)))), (0, 255));
            assert!(chroma.apply(f32::from(1_u16 << (bits - 1))).abs() < f32::EPSILON);
            let (luma, _) = ranges(bits, false);
            let unit = 1 << (bits - 8);
            assert_eq!(
                (byte(luma.apply(f32::from(16_u16 * unit))), byte(luma.apply(f32::from(235_u16 * unit)))),
                (0, 255)
            );
        }
    }
}
