//! What a core can do at all: packets of the same size are encrypted and sent, and nothing else is done.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use quinn_udp::{Transmit, UdpSocketState};

use crate::{Failure, media::MAXIMUM_PAYLOAD};

/// Sockets to which packets go in turns.
const RECEIVERS: usize = 50;
/// Packets to one receiver that go out together: a picture of a usual camera.
const TOGETHER: usize = 7;
/// Packets that are sent for one figure.
const PACKETS: usize = 400_000;
/// The header of RTP with the extensions that the bridge sends, in bytes. It is authenticated.
const HEADER: usize = 24;
/// Behind the payload, in bytes.
const TAG: usize = 16;

/// Packets per second of processor time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    /// Only encrypted.
    pub(crate) encrypted: f64,
    /// Each sent by a system call of its own.
    pub(crate) one_by_one: f64,
    /// Several to one receiver sent by one system call.
    pub(crate) together: f64,
}

/// Measures it, which takes a few seconds.
pub(crate) fn measure() -> Result<Limit, Failure> {
    let receivers: Vec<UdpSocket> =
        (0..RECEIVERS).map(|_| UdpSocket::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let addresses: Vec<SocketAddr> = receivers.iter().map(UdpSocket::local_addr).collect::<Result<_, _>>()?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| drain(&receivers, &over));
        let limit = send(&addresses);
        over.store(true, Ordering::Relaxed);
        limit
    })
}

/// Takes what comes, as the clients do, on another thread, whose time does not count.
fn drain(receivers: &[UdpSocket], over: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1_024];
    for receiver in receivers {
        // A socket that blocks is given up below.
        let _ = receiver.set_nonblocking(true);
    }
    while !over.load(Ordering::Relaxed) {
        for receiver in receivers {
            while receiver.recv(&mut buffer).is_ok() {}
        }
        thread::sleep(Duration::from_micros(200));
    }
}

fn send(addresses: &[SocketAddr]) -> Result<Limit, Failure> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let state = UdpSocketState::new((&socket).into())?;
    let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).map_err(|_| "no key")?;
    let key = LessSafeKey::new(key);
    let plain = vec![1; HEADER + MAXIMUM_PAYLOAD];
    let mut number: u64 = 0;
    let mut rates = [0.0; 3];
    for (rate, batch) in rates.iter_mut().zip([0, 1, TOGETHER]) {
        let mut buffer = Vec::with_capacity((plain.len() + TAG) * TOGETHER);
        let begun = processor_time()?;
        let rounds = PACKETS / batch.max(1);
        for address in addresses.iter().cycle().take(rounds) {
            buffer.clear();
            for _ in 0..batch.max(1) {
                number += 1;
                seal(&key, number, &plain, &mut buffer)?;
            }
            if batch > 0 {
                let segment_size = (batch > 1).then_some(plain.len() + TAG);
                let transmit = Transmit {
                    destination: *address,
                    ecn: None,
                    contents: &buffer,
                    segment_size,
                    src_ip: None,
                };
                // What does not fit is lost, as when the bridge sends it.
                let _ = state.try_send((&socket).into(), &transmit);
            }
        }
        let took = processor_time()?.saturating_sub(begun);
        *rate = crate::per_second(u64::try_from(rounds * batch.max(1))?, took);
    }
    let [encrypted, one_by_one, together] = rates;
    Ok(Limit { encrypted, one_by_one, together })
}

fn seal(key: &LessSafeKey, number: u64, plain: &[u8], into: &mut Vec<u8>) -> Result<(), Failure> {
    let begin = into.len();
    into.extend_from_slice(plain);
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    let (header, payload) = into.get_mut(begin..).unwrap_or_default().split_at_mut(HEADER);
    let tag = key
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&*header), payload)
        .map_err(|_| "a packet cannot be encrypted")?;
    into.extend_from_slice(tag.as_ref());
    Ok(())
}

/// Processor time of this thread (`proc(5)`).
fn processor_time() -> Result<Duration, Failure> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split_whitespace().next().ok_or("no processor time")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}
