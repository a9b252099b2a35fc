//! A small call, and whether everything in it is as it should be.

use std::time::Duration;

use entente_environment::Environment;

use crate::{
    Failure,
    bridge::Bridge,
    proto::VideoQuality,
    ratio,
    run::{Call, Size},
};

/// Small enough for the bridge's first estimate of a path, so that nothing waits for it to rise.
const SIZE: Size = Size { publishers: 2, subscribers: 3, bitrate: 600, feedback: true, flows_before: false };
/// How long media may take to flow, or layers to change, on a machine that has much else to do.
const SOON: Duration = Duration::from_secs(30);
/// How long it is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// The share of packets that may be lost on loopback, where only full buffers lose any.
const LOSS: f64 = 0.005;
/// Who asks for less than the others.
const MODEST: usize = 0;

/// Holds the call; answers what is wrong with it.
pub(crate) async fn check(bridge: &Bridge, environment: &Environment) -> Result<Vec<String>, Failure> {
    let mut wrong = Vec::new();
    let mut call = Call::begin(bridge, environment, SIZE).await?;
    if !call.settle(SOON).await? {
        wrong.push("not everybody gets the largest layer of every camera".to_owned());
    }
    let measured = call.measure(LOOK).await?;
    let packets = measured.received.packets;
    if ratio(measured.lost, packets + measured.lost) > LOSS {
        wrong.push(format!("{} of {packets} packets are lost", measured.lost));
    }
    for subscriber in 0..SIZE.subscribers {
        let received = call.received(subscriber);
        let (videos, sounds): (Vec<_>, Vec<_>) =
            received.streams.values().partition(|stream| stream.layer.is_some());
        // 600 kbit/s are three packets for each of 30 pictures a second; sound is 50.
        let enough = |count: u64, rate: u64| count >= rate * LOOK.as_secs() * 8 / 10;
        let flowing = videos.iter().filter(|stream| enough(stream.packets, 90)).count();
        let heard = sounds.iter().filter(|stream| enough(stream.packets, 50)).count();
        if (flowing, heard) != (SIZE.publishers, SIZE.publishers) {
            wrong.push(format!("subscriber {subscriber} gets {flowing} cameras and {heard} microphones"));
        }
    }
    layers_change(&mut call, &mut wrong).await?;
    for subscriber in 0..SIZE.subscribers {
        let received = call.received(subscriber);
        if received.torn > 0 {
            wrong.push(format!("subscriber {subscriber} got {} pictures that are not whole", received.torn));
        }
        if received.mistimed > 0 {
            wrong.push(format!("subscriber {subscriber} got {} packets of another time", received.mistimed));
        }
    }
    call.end().await?;
    println!("{packets} packets in {} s, {} lost", LOOK.as_secs(), measured.lost);
    Ok(wrong)
}

/// One asks for the smallest layer and then for the largest again; the others keep what they have.
async fn layers_change(call: &mut Call<'_>, wrong: &mut Vec<String>) -> Result<(), Failure> {
    for (quality, layer) in [(VideoQuality::Low, 0), (VideoQuality::High, 2)] {
        call.wish(MODEST, quality);
        if !call.wait(SOON, |call| call.layers(MODEST).iter().all(|of| *of == layer)).await? {
            wrong.push(format!("who asks for layer {layer} gets {:?}", call.layers(MODEST)));
        }
        call.sleep(Duration::from_secs(1)).await?;
        for other in (0..SIZE.subscribers).filter(|other| *other != MODEST) {
            if call.layers(other).iter().any(|of| *of != 2) {
                wrong.push(format!("who asks for nothing else gets {:?}", call.layers(other)));
            }
        }
    }
    Ok(())
}
