//! Keys and values as they are stored.
#![no_main]

use std::fmt::Debug;

use entente_storage::{
    Bytes, LogPosition, Position, WriterId,
    codec::{Key, KeyWriter},
    value::{Stamped, Value},
};
use libfuzzer_sys::fuzz_target;

fn encoded<K: Key>(key: &K) -> Vec<u8> {
    let mut writer = KeyWriter::new();
    key.encode(&mut writer);
    writer.finish().0
}

fn key<K: Key + Ord + Debug>(left: &[u8], right: &[u8]) {
    let Ok(key) = K::decode_all(left) else { return };
    assert_eq!(encoded(&key), left);
    if let Ok(other) = K::decode_all(right) {
        assert_eq!(key.cmp(&other), left.cmp(right), "the order of keys is that of their bytes");
    }
}

fn value<V: Value + PartialEq + Debug>(bytes: &Bytes) {
    if let Ok(value) = V::decode(bytes) {
        assert_eq!(V::decode(&value.encode()), Ok(value));
    }
}

fuzz_target!(|data: &[u8]| {
    let (left, right) = data.split_at(data.len() / 2);
    key::<(String, u64)>(left, right);
    key::<(u64, i64)>(left, right);
    key::<(Vec<u8>, bool, u16)>(left, right);
    key::<(String, String, String)>(left, right);
    key::<([u8; 4], u32, Vec<u8>, u8)>(left, right);
    key::<(WriterId, LogPosition, String)>(left, right);
    let bytes = Bytes::copy_from_slice(data);
    value::<u64>(&bytes);
    value::<()>(&bytes);
    value::<String>(&bytes);
    value::<Position>(&bytes);
    value::<Stamped<Position>>(&bytes);
    value::<Stamped<Bytes>>(&bytes);
});
