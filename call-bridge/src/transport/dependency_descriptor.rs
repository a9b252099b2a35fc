use std::sync::Arc;

use str0m::rtp::{Extension, ExtensionSerializer, ExtensionValues};

/// See <https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension>.
const URI: &str = "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";
/// What the one-byte form of header extensions can carry (RFC 8285, section 4.2).
const ONE_BYTE_FORM: usize = 16;

/// The dependency descriptor as it came: streams are forwarded whole, so it stays true.
#[derive(Debug)]
struct DependencyDescriptor(Box<[u8]>);

#[derive(Debug)]
struct Serializer;

/// The header extension that tells of a stream's layers, passed on from publisher to subscribers.
pub(super) fn extension() -> Extension {
    Extension::with_serializer(URI, Serializer)
}

impl ExtensionSerializer for Serializer {
    fn write_to(&self, buffer: &mut [u8], values: &ExtensionValues) -> usize {
        let Some(DependencyDescriptor(bytes)) = values.user_values.get() else { return 0 };
        let Some(target) = buffer.get_mut(..bytes.len()) else { return 0 };
        target.copy_from_slice(bytes);
        bytes.len()
    }

    fn parse_value(&self, buffer: &[u8], values: &mut ExtensionValues) -> bool {
        values.user_values.set_arc(Arc::new(DependencyDescriptor(buffer.into())));
        true
    }

    fn is_video(&self) -> bool {
        true
    }

    fn is_audio(&self) -> bool {
        false
    }

    fn requires_two_byte_form(&self, values: &ExtensionValues) -> bool {
        let bytes = values.user_values.get().map(|DependencyDescriptor(bytes)| bytes.len());
        bytes.is_some_and(|bytes| bytes > ONE_BYTE_FORM)
    }
}

/// A descriptor as it leaves if there is so much room for it.
#[cfg(feature = "fuzzing")]
pub(crate) fn passed_on(descriptor: &[u8], room: usize) -> Vec<u8> {
    let mut values = ExtensionValues::default();
    Serializer.parse_value(descriptor, &mut values);
    let mut buffer = vec![0; room];
    let length = Serializer.write_to(&mut buffer, &values);
    buffer.truncate(length);
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_passed_on_as_it_came() {
        let mut values = ExtensionValues::default();
        let mut buffer = [0; 8];
        assert_eq!(Serializer.write_to(&mut buffer, &values), 0, "nothing came");
        assert!(Serializer.parse_value(&[1, 2, 3], &mut values));
        assert_eq!(Serializer.write_to(&mut buffer, &values), 3);
        assert_eq!(buffer, [1, 2, 3, 0, 0, 0, 0, 0]);
        assert_eq!(Serializer.write_to(&mut buffer[..2], &values), 0, "no room");
        assert!(!Serializer.requires_two_byte_form(&values));
        assert!(Serializer.parse_value(&[0; 17], &mut values));
        assert!(Serializer.requires_two_byte_form(&values));
    }
}
