//! TURN: from the settings to what relays, and to what clients are told.

use std::net::IpAddr;

use entente_config::{Config, Resource};
use entente_environment::Environment;
use entente_outbound::is_private_address;
use entente_turn::{PeerPolicy, RelayAddress, TurnServer, TurnService, TurnSettings};

use crate::{calls, secrets, settings::as_usize};

/// What clients are told, and the server among it that is here.
pub(crate) async fn open(
    config: &Config,
    environment: &Environment,
) -> Result<(Option<TurnService>, Option<TurnServer>), String> {
    let settings = &config.turn;
    if !settings.enabled && settings.uris.is_empty() {
        return Ok((None, None));
    }
    let secret = if let Some(secret) = &settings.secret {
        secret.reveal().to_owned()
    } else {
        let path = config.turn_secret_path();
        secrets::kept(&path, environment.randomness())
            .map_err(|error| format!("the secret of TURN, {}: {error}", path.display()))?
    };
    let uris = if settings.uris.is_empty() { uris(config) } else { settings.uris.clone() };
    let service = TurnService::new(uris, &secret, settings.lifetime.duration());
    if !settings.enabled {
        return Ok((Some(service), None));
    }
    let advertised = |local: &IpAddr| calls::media_address(*local, config.calls.external_ip).advertised;
    let relay_address = |local: &IpAddr| RelayAddress { local: *local, advertised: advertised(local) };
    let server = TurnSettings {
        addresses: config.calls.addresses.iter().map(relay_address).collect(),
        port: settings.port.get(),
        relay_ports: settings.first_relay_port.get()..=settings.last_relay_port.get(),
        realm: config.server_name.to_string(),
        secret,
        max_clients: as_usize(settings.max_clients.get()),
        max_allocations_per_user: as_usize(settings.max_allocations_per_user.get()),
        max_bytes_per_second: settings.max_bytes_per_second.as_u64(),
        peers: PeerPolicy {
            media_port: config.holds_calls().then_some(config.calls.udp_port.get()),
            allowed: settings.allowed_address_ranges.clone(),
            denied: settings.denied_address_ranges.clone(),
            is_private: is_private_address,
        },
    };
    let server = TurnServer::start(server, environment.clone()).await.map_err(|error| error.to_string())?;
    Ok((Some(service), Some(server)))
}

/// Where this server relays, the way that costs least first.
fn uris(config: &Config) -> Vec<String> {
    let url = config.public_base_url();
    let host = url.host_str().unwrap_or_default();
    let port = config.turn.port;
    let mut uris =
        vec![format!("turn:{host}:{port}?transport=udp"), format!("turn:{host}:{port}?transport=tcp")];
    if config.turn.on_tls_listeners {
        let serves = |listener: &&entente_config::Listener| {
            listener.tls.is_some() && listener.serves(Resource::Client)
        };
        let listeners = config.listeners.iter().filter(serves);
        uris.extend(
            listeners.map(|listener| format!("turns:{host}:{}?transport=tcp", listener.address.port())),
        );
        // The families share a port.
        uris.dedup();
    }
    uris
}
