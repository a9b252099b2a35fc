use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use rcgen::{KeyPair, PKCS_ED25519, SigningKey as _};
use serde_json::{Value, json};

use crate::User;

/// An Ed25519 key as clients have them.
pub struct Key(KeyPair);

impl Key {
    /// A key that nobody else has.
    pub fn generate() -> Self {
        Self(KeyPair::generate_for(&PKCS_ED25519).unwrap())
    }

    /// Its public half in unpadded base64. Curve25519 keys look the same.
    pub fn public(&self) -> String {
        STANDARD_NO_PAD.encode(self.0.public_key_raw())
    }

    /// Its signature of a JSON object. Objects of `serde_json` are in canonical order.
    pub fn signature(&self, object: &Value) -> String {
        let mut signed = object.clone();
        for unsigned in ["signatures", "unsigned"] {
            signed.as_object_mut().unwrap().remove(unsigned);
        }
        STANDARD_NO_PAD.encode(self.0.sign(signed.to_string().as_bytes()).unwrap())
    }

    /// Signs a JSON object as a user does with this key under a name, beside what signed it before.
    pub fn sign(&self, object: &mut Value, user: &User, key_id: &str) {
        let signature = self.signature(object);
        if !object["signatures"].is_object() {
            object["signatures"] = json!({});
        }
        object["signatures"][&user.id][key_id] = json!(signature);
    }
}
