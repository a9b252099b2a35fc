//! `[media.previews]`: what pages say about themselves.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    validation::Contradictions,
    values::{ByteSize, TimeSpan},
};

/// Whether the server asks pages that users link to what they are, and what that may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Previews {
    /// Whether it does.
    pub enabled: bool,
    /// How much of a page is read, in bytes.
    pub max_page_size: ByteSize,
    /// The largest picture that is fetched for a preview, in bytes.
    pub max_image_size: ByteSize,
    /// How much of such pictures is kept at the most, in bytes. Beyond it previews come without.
    pub max_storage: ByteSize,
    /// How long a page, and then its picture, may take.
    pub timeout: TimeSpan,
    /// How long a preview is kept.
    pub cache_lifetime: TimeSpan,
    /// What the server calls itself when it asks.
    pub user_agent: String,
    /// Ports that are asked besides 80 and 443.
    pub further_ports: Vec<u16>,
    /// Addresses that are asked although they are not of the public internet.
    pub allowed_address_ranges: Vec<IpNet>,
    /// Addresses that are never asked.
    pub denied_address_ranges: Vec<IpNet>,
}

impl Default for Previews {
    fn default() -> Self {
        Self {
            enabled: false,
            max_page_size: ByteSize::mebibytes(1),
            max_image_size: ByteSize::mebibytes(8),
            max_storage: ByteSize::mebibytes(1_024),
            timeout: TimeSpan::seconds(10),
            cache_lifetime: TimeSpan::days(1),
            user_agent: "Mozilla/5.0 (compatible; Entente; link preview)".to_owned(),
            further_ports: Vec::new(),
            allowed_address_ranges: Vec::new(),
            denied_address_ranges: Vec::new(),
        }
    }
}

impl Previews {
    pub(crate) fn check(&self, found: &mut Contradictions) {
        if self.user_agent.is_empty() || !self.user_agent.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            found.add(&["media.previews.user_agent"], "expected printable ASCII characters");
        }
        found.refuse_zero_spans(&[
            ("media.previews.timeout", Some(self.timeout)),
            ("media.previews.cache_lifetime", Some(self.cache_lifetime)),
        ]);
    }
}
