//! Makes Rust types of the messages in `proto/livekit.proto`, without a `protoc` program.

#![expect(clippy::disallowed_methods, reason = "a build script is told where to write by its environment")]

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/livekit.proto");
    let descriptors = protox::compile(["livekit.proto"], ["proto"])?;
    let directory = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    // The JSON form of RoomService's messages is made from their description at run time.
    fs::write(directory.join("livekit.bin"), prost::Message::encode_to_vec(&descriptors))?;
    prost_build::Config::new().btree_map(["."]).compile_fds(descriptors)?;
    Ok(())
}
