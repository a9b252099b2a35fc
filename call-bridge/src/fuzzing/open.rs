//! Cryptography that hides nothing: a fuzzer does not find ciphertexts that are right, but what is behind them is read from strangers too.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use str0m::crypto::{
    AeadAes128GcmCipher, CryptoError, CryptoProvider, SrtpProvider, SupportedAeadAes128Gcm,
    SupportedAeadAes256Gcm, SupportedAes128CmSha1_80,
    dtls::{
        DtlsCert, DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, DtlsVersion, KeyingMaterial,
        ProtocolVersion, SrtpProfile,
    },
    from_feature_flags,
};

/// The certificate of every client.
pub(super) const CERTIFICATE: &[u8] = b"certificate";
/// What stands behind a packet for its proof.
pub(super) const TAG: [u8; 16] = [0; 16];
/// A time that does not come.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// The usual provider, but whoever says anything in DTLS is connected at once, and packets of media are not encrypted.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider { srtp_provider: &Open, dtls_provider: &Open, ..from_feature_flags() }
}

#[derive(Debug)]
struct Open;

impl DtlsProvider for Open {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        from_feature_flags().dtls_provider.generate_certificate()
    }

    fn new_dtls(
        &self,
        _: &DtlsCert,
        now: Instant,
        _: DtlsVersion,
        _: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        Ok(Box::new(Handshake { now, active: false, begun: false, steps: VecDeque::new() }))
    }
}

#[derive(Debug)]
enum Step {
    Certificate,
    Keys,
    Connected,
}

#[derive(Debug)]
struct Handshake {
    now: Instant,
    active: bool,
    begun: bool,
    steps: VecDeque<Step>,
}

impl DtlsInstance for Handshake {
    fn set_active(&mut self, active: bool) {
        self.active = active;
    }

    fn handle_packet(&mut self, _: &[u8]) -> Result<(), DtlsImplError> {
        if !std::mem::replace(&mut self.begun, true) {
            self.steps.extend([Step::Certificate, Step::Keys, Step::Connected]);
        }
        Ok(())
    }

    fn poll_output<'a>(&mut self, _: &'a mut [u8]) -> DtlsOutput<'a> {
        match self.steps.pop_front() {
            Some(Step::Certificate) => DtlsOutput::PeerCert(CERTIFICATE),
            // Two keys and two salts.
            Some(Step::Keys) => {
                DtlsOutput::KeyingMaterial(KeyingMaterial::new(&[7; 56]), SrtpProfile::AEAD_AES_128_GCM)
            }
            Some(Step::Connected) => DtlsOutput::Connected,
            None => DtlsOutput::Timeout(self.now + NEVER),
        }
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.now = now;
        Ok(())
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        Ok(data.len())
    }

    fn is_active(&self) -> bool {
        self.active
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        None
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        Ok(())
    }
}

impl SrtpProvider for Open {
    fn aes_128_cm_sha1_80(&self) -> &'static dyn SupportedAes128CmSha1_80 {
        from_feature_flags().srtp_provider.aes_128_cm_sha1_80()
    }

    fn aead_aes_128_gcm(&self) -> &'static dyn SupportedAeadAes128Gcm {
        &Open
    }

    fn aead_aes_256_gcm(&self) -> &'static dyn SupportedAeadAes256Gcm {
        from_feature_flags().srtp_provider.aead_aes_256_gcm()
    }

    fn srtp_aes_128_ecb_round(&self, key: &[u8], input: &[u8], output: &mut [u8]) {
        from_feature_flags().srtp_provider.srtp_aes_128_ecb_round(key, input, output);
    }

    fn srtp_aes_256_ecb_round(&self, key: &[u8], input: &[u8], output: &mut [u8]) {
        from_feature_flags().srtp_provider.srtp_aes_256_ecb_round(key, input, output);
    }
}

impl SupportedAeadAes128Gcm for Open {
    fn create_cipher(&self, _: [u8; 16], _: bool) -> Box<dyn AeadAes128GcmCipher> {
        Box::new(Open)
    }
}

impl AeadAes128GcmCipher for Open {
    fn encrypt(
        &mut self,
        _: &[u8; 12],
        _: &[u8],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), CryptoError> {
        copy(&[input, &TAG].concat(), output);
        Ok(())
    }

    fn decrypt(
        &mut self,
        _: &[u8; 12],
        _: &[&[u8]],
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, CryptoError> {
        let length = input.len().saturating_sub(TAG.len());
        Ok(copy(input.get(..length).unwrap_or_default(), output))
    }
}

fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let length = from.len().min(to.len());
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    length
}
