//! From the settings to what each crate calls its own.

use std::{collections::HashMap, sync::Arc};

use entente_accounts::Argon2Parameters;
use entente_api::{
    Acme, ConnectionSettings, HttpSettings, Identity, LimitKind, Limits, Listener, RateLimit, Resource,
    Support, SupportContact, Tls,
};
use entente_config::{Config, Rate, TimeSpan};
use entente_environment::Clock;
use entente_outbound::{ProxyProtocol, ProxySettings, Route};
use ruma::{OwnedServerName, RoomVersionId, ServerName};

pub(crate) fn server_name(config: &Config) -> Result<OwnedServerName, String> {
    ServerName::parse(config.server_name.as_str()).map_err(|error| format!("server_name: {error}"))
}

pub(crate) fn accounts(config: &Config) -> entente_accounts::Settings {
    let Config { registration, login, accounts, presence, .. } = config;
    entente_accounts::Settings {
        open_registration: registration.open,
        registration_tokens: registration.tokens,
        guests: registration.guests,
        reserved_names: registration.reserved_localparts.iter().map(ToString::to_string).collect(),
        password_login: login.password,
        minimum_password_length: as_usize(accounts.minimum_password_length),
        maximum_password_bytes: as_usize(accounts.maximum_password_bytes),
        refreshable_access_token_lifetime: login.refreshable_access_token_lifetime.duration(),
        access_token_lifetime: login.access_token_lifetime.map(TimeSpan::duration),
        refresh_token_lifetime: login.refresh_token_lifetime.map(TimeSpan::duration),
        login_token_lifetime: login.login_token_lifetime.duration(),
        openid_token_lifetime: login.openid_token_lifetime.duration(),
        change_password: accounts.allow_password_changes,
        deactivation: accounts.allow_deactivation,
        change_display_name: accounts.allow_displayname_changes,
        change_avatar: accounts.allow_avatar_changes,
        presence: presence.enabled,
        validity: accounts.validity_period.map(TimeSpan::duration),
        argon2: Argon2Parameters {
            memory_kib: accounts.argon2.memory_kib.get(),
            iterations: accounts.argon2.iterations.get(),
            parallelism: accounts.argon2.parallelism.get(),
        },
        ..entente_accounts::Settings::default()
    }
}

/// The way that requests to other servers take.
pub(crate) fn route(config: &Config) -> Route {
    let settings = &config.outbound;
    let (Some(proxy), Some(authority)) = (&settings.proxy, settings.proxy_address()) else {
        return Route::direct();
    };
    let protocol = if proxy.scheme() == "socks5" { ProxyProtocol::Socks5 } else { ProxyProtocol::Http };
    let user = settings.proxy_username.clone();
    let password = settings.proxy_password.as_ref().map(|password| password.reveal().to_owned());
    Route::through(ProxySettings {
        protocol,
        authority,
        credentials: user.zip(password),
        direct: settings.direct_address_ranges.clone(),
        resolves_names: settings.proxy_resolves_names,
    })
}

pub(crate) fn rooms(config: &Config) -> Result<entente_rooms::Settings, String> {
    let mut settings = entente_rooms::Settings::default();
    let version = RoomVersionId::try_from(config.rooms.default_room_version.to_string())
        .ok()
        .filter(|version| entente_rooms::ROOM_VERSIONS.contains(version));
    settings.default_room_version =
        version.ok_or("rooms.default_room_version: this server has no rooms of that version")?;
    Ok(settings)
}

pub(crate) fn limits(config: &Config, clock: Arc<dyn Clock>) -> Limits {
    let settings = &config.rate_limits;
    let limit = |rate: Rate| RateLimit { per_second: rate.per_second.as_f64(), burst: rate.burst.get() };
    let limits = if settings.enabled {
        HashMap::from([
            (LimitKind::LoginByAddress, limit(settings.login_by_address)),
            (LimitKind::LoginByAccount, limit(settings.login_by_account)),
            (LimitKind::FailedLoginByAccount, limit(settings.failed_login_by_account)),
            (LimitKind::RegistrationByAddress, limit(settings.registration_by_address)),
            (LimitKind::RequestsByAddress, limit(settings.requests_by_address)),
            (LimitKind::RequestsByUser, limit(settings.requests_by_user)),
            (LimitKind::MediaByUser, limit(settings.media_by_user)),
            (LimitKind::PreviewsByUser, limit(settings.previews_by_user)),
            (LimitKind::RequestsByServer, limit(settings.requests_by_server)),
        ])
    } else {
        HashMap::new()
    };
    Limits::new(clock, limits)
}

pub(crate) fn identity(config: &Config) -> Result<Identity, String> {
    let contact = |contact: &entente_config::SupportContact| {
        let matrix_id = contact.matrix_id.as_ref().map(|id| id.to_string().try_into());
        Ok::<_, String>(SupportContact {
            role: contact.role.to_string(),
            email_address: contact.email_address.as_ref().map(ToString::to_string),
            matrix_id: matrix_id.transpose().map_err(|error| format!("support.contacts: {error}"))?,
        })
    };
    let contacts = config.support.contacts.iter().map(contact).collect::<Result<_, _>>()?;
    Ok(Identity {
        public_base_url: config.public_base_url(),
        federation_address: config.federation_address().as_str().to_owned(),
        support: Support { contacts, page: config.support.page.as_ref().map(ToString::to_string) },
    })
}

pub(crate) fn http(config: &Config) -> HttpSettings {
    HttpSettings {
        max_request_body: config.limits.max_client_body.as_usize(),
        request_timeout: config.limits.request_timeout.duration(),
    }
}

pub(crate) fn connections(config: &Config) -> ConnectionSettings {
    ConnectionSettings {
        max_connections: as_usize(config.limits.max_connections.get()),
        header_timeout: config.limits.header_timeout.duration(),
        max_header_size: config.limits.max_header_size.as_usize(),
    }
}

pub(crate) fn listeners(config: &Config) -> Vec<Listener> {
    let resource = |resource: &entente_config::Resource| match resource {
        entente_config::Resource::Client => Resource::Client,
        entente_config::Resource::Federation => Resource::Federation,
    };
    let tls = |tls: &entente_config::Tls| match tls {
        entente_config::Tls::Files { certificate_file, private_key_file } => {
            Tls::Files { certificate: certificate_file.clone(), private_key: private_key_file.clone() }
        }
        entente_config::Tls::Acme => Tls::Acme(acme(config)),
    };
    let listener = |listener: &entente_config::Listener| Listener {
        address: listener.address,
        serves: listener.serves.iter().map(resource).collect(),
        trusted_proxies: listener.trusted_proxies.clone(),
        turn: config.turn.on_tls_listeners && listener.tls.is_some(),
        tls: listener.tls.as_ref().map(tls),
    };
    config.listeners.iter().map(listener).collect()
}

fn acme(config: &Config) -> Acme {
    Acme {
        directory_url: config.acme.directory_url.to_string(),
        domains: config.acme_domains().iter().map(ToString::to_string).collect(),
        contacts: config.acme.contact_emails.iter().map(|address| format!("mailto:{address}")).collect(),
        cache_dir: config.acme_cache_dir(),
        ca_file: config.acme.ca_file.clone(),
    }
}

pub(crate) fn as_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
