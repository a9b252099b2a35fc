//! What the operator sees when the server is ready.

use std::net::SocketAddr;

use entente_config::Config;

use crate::output;

/// Says where the server is, and on first start how the first administrator signs in.
pub(crate) fn greet(config: &Config, addresses: &[SocketAddr], first_token: Option<&str>) {
    let listens = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let base_url = config.public_base_url();
    let address = base_url.as_str().trim_end_matches('/');
    let mut text = format!(
        "\nEntente is running as {} on {listens}.\n\nIn Element, choose \"Edit\" next to the homeserver and enter:  {address}\n",
        config.server_name
    );
    if let Some(token) = first_token {
        text.push_str("\nNobody has an account yet. The first administrator registers in Element with this token, once:  ");
        text.push_str(token);
        text.push('\n');
    }
    text.push_str("\nCtrl-C stops it.");
    output::say(&text);
}
