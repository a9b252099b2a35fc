use std::{net::SocketAddr, sync::Arc};

use axum::extract::{ConnectInfo, Request};
use ipnet::IpNet;

use crate::address::{ClientAddress, client_address};

/// The proxies that a listener believes when they name the client: a request extension.
#[derive(Clone, Debug)]
pub(crate) struct TrustedProxies(Arc<[IpNet]>);

impl From<Vec<IpNet>> for TrustedProxies {
    fn from(ranges: Vec<IpNet>) -> Self {
        Self(ranges.into())
    }
}

/// Notes where a request comes from.
pub(super) fn note(request: &mut Request) {
    if let Some(&ConnectInfo(peer)) = request.extensions().get::<ConnectInfo<SocketAddr>>() {
        let trusted = request.extensions().get::<TrustedProxies>().map_or(&[][..], |proxies| &proxies.0);
        let address = client_address(peer, request.headers(), trusted);
        request.extensions_mut().insert(ClientAddress(address));
    }
}
