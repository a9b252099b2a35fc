//! Files: sent in the clear or encrypted as the room is, and fetched again.

use std::io::{Cursor, Read as _};

use axum::body::Bytes;
use matrix_sdk::ruma::{
    OwnedEventId, OwnedMxcUri, UInt,
    events::room::{
        EncryptedFile, MediaSource,
        message::{
            AudioMessageEventContent, FileMessageEventContent, ImageMessageEventContent, MessageType,
            RoomMessageEventContent, VideoMessageEventContent,
        },
    },
};
use matrix_sdk_crypto::{AttachmentDecryptor, AttachmentEncryptor};
use serde_json::json;

use crate::{Bridge, Error, InRoom, localpart::truncate};

/// The longest name of a file, in bytes.
const MOST_NAME_BYTES: usize = 255;

/// A file to send.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Its name, which is also what is shown where the file is not; cut at 255 bytes.
    pub name: String,
    /// Its MIME type. It decides whether it is shown as an image, a video, a sound, or a file.
    pub content_type: String,
    /// What is in it.
    pub bytes: Bytes,
}

impl InRoom {
    /// Uploads a file and sends it, both encrypted if the room is.
    pub async fn send_file(&self, attachment: Attachment) -> Result<OwnedEventId, Error> {
        self.ensure_joined().await?;
        let bridge = self.user().bridge();
        let is_encrypted = bridge.rooms().audience(bridge, self.user().id(), self.id()).await?.is_some();
        let size = attachment.bytes.len();
        let source = if is_encrypted {
            self.upload_encrypted(attachment.bytes).await?
        } else {
            MediaSource::Plain(self.user().upload(&attachment.content_type, attachment.bytes).await?)
        };
        let mut name = attachment.name;
        truncate(&mut name, MOST_NAME_BYTES);
        self.send(RoomMessageEventContent::new(message(name, &attachment.content_type, size, source)?)).await
    }

    async fn upload_encrypted(&self, bytes: Bytes) -> Result<MediaSource, Error> {
        let (ciphertext, info) = in_background(move || {
            let mut reader = Cursor::new(bytes);
            let mut encryptor = AttachmentEncryptor::new(&mut reader);
            let mut ciphertext = Vec::new();
            encryptor.read_to_end(&mut ciphertext).map_err(Error::encryption)?;
            Ok((ciphertext, encryptor.finish()))
        })
        .await?;
        let url = self.user().upload("application/octet-stream", ciphertext).await?;
        let file = EncryptedFile::new(url, info.encryption_info, info.hashes);
        Ok(MediaSource::Encrypted(Box::new(file)))
    }
}

impl Bridge {
    /// Fetches a file of at most `most_bytes`, and decrypts it if it is encrypted. What is decrypted is what the sender's client encrypted:
    /// a homeserver that changes it is found out.
    pub async fn download(&self, source: &MediaSource, most_bytes: usize) -> Result<Bytes, Error> {
        match source {
            MediaSource::Plain(uri) => self.fetch(uri, most_bytes).await,
            MediaSource::Encrypted(file) => {
                let file = file.as_ref().clone();
                let ciphertext = self.fetch(&file.url, most_bytes).await?;
                in_background(move || {
                    let mut reader = Cursor::new(ciphertext);
                    let mut plaintext = Vec::new();
                    let mut decryptor =
                        AttachmentDecryptor::new(&mut reader, file.into()).map_err(Error::encryption)?;
                    decryptor.read_to_end(&mut plaintext).map_err(Error::encryption)?;
                    Ok(plaintext.into())
                })
                .await
            }
        }
    }

    async fn fetch(&self, uri: &OwnedMxcUri, most_bytes: usize) -> Result<Bytes, Error> {
        let (server_name, media_id) = uri.parts().map_err(|error| Error::Request(error.to_string()))?;
        let path = ["v1", "media", "download", server_name.as_str(), media_id];
        let bot = self.bot();
        self.homeserver().bytes(bot.identity(), &path, most_bytes).await
    }
}

/// Does what takes the processor's time where nobody waits for it.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(Error::encryption)?
}

/// The message that shows a file. Going through JSON sets the information's fields that every kind has in common.
fn message(name: String, content_type: &str, size: usize, source: MediaSource) -> Result<MessageType, Error> {
    let info = json!({ "mimetype": content_type, "size": UInt::try_from(size).unwrap_or(UInt::MAX) });
    let bad = |error: serde_json::Error| Error::Request(error.to_string());
    let kind = content_type.split('/').next().unwrap_or_default();
    Ok(match kind {
        "image" => {
            let mut content = ImageMessageEventContent::new(name, source);
            content.info = serde_json::from_value(info).map_err(bad)?;
            MessageType::Image(content)
        }
        "video" => {
            let mut content = VideoMessageEventContent::new(name, source);
            content.info = serde_json::from_value(info).map_err(bad)?;
            MessageType::Video(content)
        }
        "audio" => {
            let mut content = AudioMessageEventContent::new(name, source);
            content.info = serde_json::from_value(info).map_err(bad)?;
            MessageType::Audio(content)
        }
        _ => {
            let mut content = FileMessageEventContent::new(name, source);
            content.info = serde_json::from_value(info).map_err(bad)?;
            MessageType::File(content)
        }
    })
}
