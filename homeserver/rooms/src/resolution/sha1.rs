/// The SHA-1 hash of `message` (RFC 3174), by which room version 1 puts events of the same depth in order. Good for nothing else.
pub(super) fn sha1(message: &[u8]) -> [u8; 20] {
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize((padded.len() + 8).next_multiple_of(64) - 8, 0);
    padded.extend_from_slice(&(message.len() as u64 * 8).to_be_bytes());

    let mut state = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    let (blocks, _) = padded.as_chunks::<64>();
    for block in blocks {
        add_block(&mut state, block);
    }
    let mut hash = [0; 20];
    for (bytes, word) in hash.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    hash
}

fn add_block(state: &mut [u32; 5], block: &[u8; 64]) {
    let mut words = [0; 80];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    for round in 16..80 {
        let mixed = words[round - 3] ^ words[round - 8] ^ words[round - 14] ^ words[round - 16];
        words[round] = u32::rotate_left(mixed, 1);
    }
    let mut mixed = *state;
    for (round, word) in words.into_iter().enumerate() {
        let [first, x, y, z, last] = mixed;
        let (chosen, constant) = match round {
            0..20 => ((x & y) | (!x & z), 0x5a82_7999),
            20..40 => (x ^ y ^ z, 0x6ed9_eba1),
            40..60 => ((x & y) | (x & z) | (y & z), 0x8f1b_bcdc),
            _ => (x ^ y ^ z, 0xca62_c1d6_u32),
        };
        let sum = first.rotate_left(5).wrapping_add(chosen).wrapping_add(last);
        mixed = [sum.wrapping_add(constant).wrapping_add(word), first, x.rotate_left(30), y, z];
    }
    for (sum, word) in state.iter_mut().zip(mixed) {
        *sum = sum.wrapping_add(word);
    }
}

#[cfg(test)]
mod tests {
    use super::sha1;

    fn words(message: &[u8]) -> Vec<u32> {
        let hash = sha1(message);
        hash.as_chunks::<4>().0.iter().map(|bytes| u32::from_be_bytes(*bytes)).collect()
    }

    #[test]
    fn hashes_as_published() {
        assert_eq!(words(b""), [0xda39_a3ee, 0x5e6b_4b0d, 0x3255_bfef, 0x9560_1890, 0xafd8_0709]);
        assert_eq!(words(b"abc"), [0xa999_3e36, 0x4706_816a, 0xba3e_2571, 0x7850_c26c, 0x9cd0_d89d]);
        let two_blocks = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        assert_eq!(words(two_blocks), [0x8498_3e44, 0x1c3b_d26e, 0xbaae_4aa1, 0xf951_29e5, 0xe546_70f1]);
        let long = vec![b'a'; 1_000_000];
        assert_eq!(words(&long), [0x34aa_973c, 0xd4c4_daa4, 0xf61e_eb2b, 0xdbad_2731, 0x6534_016f]);
    }
}
