//! The boxes of a file (ISO/IEC 14496-12, 8.11; ISO/IEC 23008-12, 6), as far as a still picture needs them.
//!
//! Each box is found here and read by its type: those that hold any other are never read as a whole, or they could be nested until
//! the stack is full.

use std::{borrow::Cow, collections::HashMap};

use mp4_atom::{
    Atom, Auxc, Colr, FourCC, Ftyp, Header, Iinf, Iloc, Imir, Ipma, Iref, Irot, Ispe, ItemLocation, Pitm,
    PropertyAssociation, Reference,
};

use super::{broken, unsupported};
use crate::MediaError;

/// What is read of what a file says about its pictures; reading it takes some times as much.
const MOST_META_BYTES: usize = 1024 * 1024;
/// What is looked at to find out whether a file is a picture of this kind.
const MOST_BRAND_BYTES: usize = 1024;
const AVIF: FourCC = FourCC::new(b"avif");
const AVIF_SEQUENCE: FourCC = FourCC::new(b"avis");
const ALPHA: [&str; 2] = ["urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", "urn:mpeg:hevc:2015:auxid:1"];

/// What kind of file it is, if it is a picture of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Brand {
    /// Whether there is more than the one picture.
    pub(super) is_sequence: bool,
}

/// A file that was read; its pictures are not decoded.
#[derive(Debug)]
pub(super) struct Container<'a> {
    source: &'a [u8],
    /// What is said of the pictures may have some of their bytes among it.
    inner_data: &'a [u8],
    /// The number of the picture that is shown.
    pub(super) primary: u32,
    kinds: HashMap<u32, FourCC>,
    locations: HashMap<u32, ItemLocation>,
    references: Vec<Reference>,
    properties: Vec<Property>,
    associations: HashMap<u32, Vec<PropertyAssociation>>,
}

/// What is said of a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Property {
    Size(u32, u32),
    /// Quarters of a turn, against the clock.
    Rotation(u8),
    /// 0: the upper and the lower half change places; 1: the left and the right one.
    Mirror(u8),
    Auxiliary(String),
    Colour(Colour),
    /// It says nothing that the picture itself does not.
    Known,
    Unknown,
}

/// How the values of a picture are colours (ITU-T H.273).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Colour {
    pub(super) matrix_coefficients: u16,
    pub(super) is_full_range: bool,
}

/// What brands a file begins with; `None` if it is no picture of this kind.
pub(super) fn brand(source: &[u8]) -> Option<Brand> {
    let beginning = source.get(..MOST_BRAND_BYTES).unwrap_or(source);
    let (kind, body) = Boxes(beginning).next()?.ok()?;
    if kind != Ftyp::KIND {
        return None;
    }
    let file = Ftyp::decode_body(&mut { body }).ok()?;
    let has = |brand: FourCC| file.major_brand == brand || file.compatible_brands.contains(&brand);
    let is_sequence = has(AVIF_SEQUENCE);
    (is_sequence || has(AVIF)).then_some(Brand { is_sequence })
}

impl<'a> Container<'a> {
    pub(super) fn read(source: &'a [u8]) -> Result<Self, MediaError> {
        let meta = find(source, FourCC::new(b"meta"))?.ok_or_else(|| broken("it describes no picture"))?;
        // A version and flags come before its boxes.
        let meta = meta.get(4..).ok_or_else(cut_short)?;
        if meta.len() > MOST_META_BYTES {
            return Err(MediaError::TooMuchToDraw(String::from("its description is too long")));
        }
        let required = |body: Option<&'a [u8]>| body.ok_or_else(|| broken("its description is not complete"));
        let primary = read::<Pitm>(required(find(meta, Pitm::KIND)?)?)?.item_id;
        let kinds = read::<Iinf>(required(find(meta, Iinf::KIND)?)?)?.item_infos;
        let kinds = kinds.into_iter().filter_map(|item| Some((item.item_id, item.item_type?))).collect();
        let locations = locations(required(find(meta, Iloc::KIND)?)?)?;
        let references = match find(meta, Iref::KIND)? {
            Some(references) => read::<Iref>(references)?.references,
            None => Vec::new(),
        };
        let all_properties = required(find(meta, FourCC::new(b"iprp"))?)?;
        let mut properties = Vec::new();
        for property in Boxes(required(find(all_properties, FourCC::new(b"ipco"))?)?) {
            let (kind, body) = property?;
            properties.push(Property::read(kind, body)?);
        }
        let mut associations: HashMap<u32, Vec<PropertyAssociation>> = HashMap::new();
        for found in Boxes(all_properties) {
            let (kind, body) = found?;
            if kind == Ipma::KIND {
                for of_item in read::<Ipma>(body)?.item_properties {
                    associations.entry(of_item.item_id).or_default().extend(of_item.associations);
                }
            }
        }
        let inner_data = find(meta, FourCC::new(b"idat"))?.unwrap_or_default();
        Ok(Self { source, inner_data, primary, kinds, locations, references, properties, associations })
    }

    /// Whether a picture is put together from others.
    pub(super) fn is_grid(&self, item: u32) -> Result<bool, MediaError> {
        match self.kinds.get(&item) {
            Some(kind) if *kind == FourCC::new(b"av01") => Ok(false),
            Some(kind) if *kind == FourCC::new(b"grid") => Ok(true),
            Some(_) => Err(unsupported("it is encoded in an unknown way")),
            None => Err(broken("a picture is missing in it")),
        }
    }

    /// How many pixels a picture has, across and down, before it is turned.
    pub(super) fn size(&self, item: u32) -> Result<(u32, u32), MediaError> {
        let size = self.properties_of(item)?.into_iter().find_map(|property| match property {
            Property::Size(width, height) => Some((*width, *height)),
            _ => None,
        });
        size.filter(|(width, height)| *width > 0 && *height > 0).ok_or_else(|| broken("it has no size"))
    }

    /// How often a picture is turned by a quarter, against the clock, and along which axis it is then mirrored.
    pub(super) fn turns(&self, item: u32) -> Result<(u8, Option<u8>), MediaError> {
        let (mut rotation, mut mirror) = (0, None);
        for property in self.properties_of(item)? {
            match property {
                Property::Rotation(quarters) => rotation = *quarters,
                Property::Mirror(axis) => mirror = Some(*axis),
                _ => {}
            }
        }
        Ok((rotation, mirror))
    }

    /// What is said of a picture's colours beside the picture itself.
    pub(super) fn colour(&self, item: u32) -> Result<Option<Colour>, MediaError> {
        Ok(self.properties_of(item)?.into_iter().find_map(|property| match property {
            Property::Colour(colour) => Some(*colour),
            _ => None,
        }))
    }

    /// The pictures that one is put together from, row by row.
    pub(super) fn tiles(&self, item: u32) -> Vec<u32> {
        let of_item = |reference: &&Reference| {
            reference.from_item_id == item && reference.reference_type == FourCC::new(b"dimg")
        };
        self.references.iter().find(of_item).map_or(Vec::new(), |found| found.to_item_ids.clone())
    }

    /// The picture that says how opaque another is.
    pub(super) fn alpha(&self, item: u32) -> Result<Option<u32>, MediaError> {
        for reference in &self.references {
            if reference.reference_type != FourCC::new(b"auxl") || !reference.to_item_ids.contains(&item) {
                continue;
            }
            let is_alpha = |property: &&Property| matches!(property, Property::Auxiliary(kind) if ALPHA.contains(&kind.as_str()));
            if self.properties_of(reference.from_item_id)?.iter().any(is_alpha) {
                return Ok(Some(reference.from_item_id));
            }
        }
        Ok(None)
    }

    /// Whether a picture's colours were multiplied by how opaque it is.
    pub(super) fn is_premultiplied(&self, item: u32) -> bool {
        self.references.iter().any(|reference| {
            reference.from_item_id == item && reference.reference_type == FourCC::new(b"prem")
        })
    }

    /// The bytes of a picture: no more than the file has.
    pub(super) fn data(&self, item: u32) -> Result<Cow<'a, [u8]>, MediaError> {
        let location = self.locations.get(&item).ok_or_else(|| broken("a picture is nowhere in it"))?;
        if location.data_reference_index != 0 {
            return Err(unsupported("it names other files"));
        }
        let source = match location.construction_method {
            0 => self.source,
            1 => self.inner_data,
            _ => return Err(unsupported("its pictures lie within others")),
        };
        let mut data = Cow::Borrowed(&[][..]);
        for extent in &location.extents {
            let start = location.base_offset.checked_add(extent.offset).ok_or_else(cut_short)?;
            let start = usize::try_from(start).map_err(|_| cut_short())?;
            let rest = source.get(start..).ok_or_else(cut_short)?;
            let part = match usize::try_from(extent.length).map_err(|_| cut_short())? {
                0 => rest,
                length => rest.get(..length).ok_or_else(cut_short)?,
            };
            if data.len().saturating_add(part.len()) > self.source.len() {
                return Err(broken("its parts are longer than it is"));
            }
            if data.is_empty() {
                data = Cow::Borrowed(part);
            } else {
                data.to_mut().extend_from_slice(part);
            }
        }
        Ok(data)
    }

    /// What is said of a picture. What must be understood and is not is an error.
    fn properties_of(&self, item: u32) -> Result<Vec<&Property>, MediaError> {
        let mut found = Vec::new();
        for association in self.associations.get(&item).map_or(&[][..], Vec::as_slice) {
            // They are counted from 1; 0 is none.
            let Some(index) = usize::from(association.property_index).checked_sub(1) else { continue };
            let property =
                self.properties.get(index).ok_or_else(|| broken("it says nothing of a picture"))?;
            if association.essential && *property == Property::Unknown {
                return Err(unsupported("it is to be shown in a way that is not known"));
            }
            found.push(property);
        }
        Ok(found)
    }
}

impl Property {
    fn read(kind: FourCC, body: &[u8]) -> Result<Self, MediaError> {
        if kind == Ispe::KIND {
            let size = read::<Ispe>(body)?;
            return Ok(Self::Size(size.width, size.height));
        }
        if kind == Irot::KIND {
            return Ok(Self::Rotation(read::<Irot>(body)?.angle));
        }
        if kind == Imir::KIND {
            return Ok(Self::Mirror(read::<Imir>(body)?.axis & 1));
        }
        if kind == Auxc::KIND {
            return Ok(Self::Auxiliary(read::<Auxc>(body)?.aux_type));
        }
        if kind == Colr::KIND {
            // A profile may be broken, or of a kind that is not known: it is not looked at.
            return Ok(match Colr::decode_body(&mut { body }) {
                Ok(Colr::Nclx { matrix_coefficients, full_range_flag, .. }) => {
                    Self::Colour(Colour { matrix_coefficients, is_full_range: full_range_flag })
                }
                _ => Self::Known,
            });
        }
        let is_known = [b"av1C", b"pixi", b"pasp"].into_iter().any(|known| kind == FourCC::new(known));
        Ok(if is_known { Self::Known } else { Self::Unknown })
    }
}

/// Where the pictures are.
fn locations(body: &[u8]) -> Result<HashMap<u32, ItemLocation>, MediaError> {
    // Behind the version and flags: how many bytes an offset and a length have. If neither has any, a few bytes are thousands of parts.
    if body.get(4).is_none_or(|sizes| *sizes == 0) {
        return Err(broken("it does not say where its pictures are"));
    }
    let locations = read::<Iloc>(body)?.item_locations;
    Ok(locations.into_iter().map(|location| (location.item_id, location)).collect())
}

fn read<T: Atom>(body: &[u8]) -> Result<T, MediaError> {
    T::decode_body(&mut { body }).map_err(|error| broken(&format!("{}: {error}", T::KIND)))
}

/// What is in the first box of a kind.
fn find(source: &[u8], kind: FourCC) -> Result<Option<&[u8]>, MediaError> {
    for found in Boxes(source) {
        let (found, body) = found?;
        if found == kind {
            return Ok(Some(body));
        }
    }
    Ok(None)
}

fn cut_short() -> MediaError {
    broken("it is cut short")
}

/// The boxes of a file, or of a box: of each its kind and what is in it.
struct Boxes<'a>(&'a [u8]);

impl<'a> Iterator for Boxes<'a> {
    type Item = Result<(FourCC, &'a [u8]), MediaError>;

    fn next(&mut self) -> Option<Self::Item> {
        use mp4_atom::DecodeMaybe as _;
        let mut rest = std::mem::take(&mut self.0);
        let header = match Header::decode_maybe(&mut rest) {
            Ok(Some(header)) => header,
            Ok(None) => return None,
            Err(error) => return Some(Err(broken(&error.to_string()))),
        };
        let Some((body, rest)) = rest.split_at_checked(header.size.unwrap_or(rest.len())) else {
            return Some(Err(cut_short()));
        };
        self.0 = rest;
        Some(Ok((header.kind, body)))
    }
}
