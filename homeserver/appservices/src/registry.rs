//! All registrations together.

use std::{collections::HashMap, sync::Arc};

use ruma::{RoomAliasId, UserId};

use crate::{AppServiceError, Registration};

/// Services of one server.
const MOST_SERVICES: usize = 1_000;

/// The application services of this server, none in conflict with another.
#[derive(Debug, Default)]
pub struct Registry {
    services: Vec<Arc<Registration>>,
    /// By the digests of their tokens, so that looking one up tells nothing of the others.
    by_token: HashMap<blake3::Hash, Arc<Registration>>,
}

impl Registry {
    /// Puts registrations together. Two that share an id, an `as_token` or a sender are refused.
    pub fn new(services: Vec<Registration>) -> Result<Self, AppServiceError> {
        let refuse = |message: String| Err(AppServiceError::Registration(message));
        if services.len() > MOST_SERVICES {
            return refuse(format!("a server has at most {MOST_SERVICES} application services"));
        }
        let mut registry = Self::default();
        for service in services {
            let service = Arc::new(service);
            for other in &registry.services {
                let Registration { id, sender, .. } = &**other;
                if *id == service.id {
                    return refuse(format!("two application services have the id {id}"));
                }
                if *sender == service.sender {
                    return refuse(format!("{id} and {} have the same sender_localpart", service.id));
                }
            }
            if let Some(other) = registry.by_token.insert(digest(&service.as_token), Arc::clone(&service)) {
                return refuse(format!("{} and {} have the same as_token", other.id, service.id));
            }
            registry.services.push(service);
        }
        Ok(registry)
    }

    /// All of them.
    pub fn services(&self) -> &[Arc<Registration>] {
        &self.services
    }

    /// The one with this token.
    pub fn by_token(&self, as_token: &str) -> Option<&Arc<Registration>> {
        self.by_token.get(&digest(as_token))
    }

    /// The one with this id.
    pub fn by_id(&self, id: &str) -> Option<&Arc<Registration>> {
        self.services.iter().find(|service| service.id == id)
    }

    /// Whether a user id belongs to a service alone, other than `asking`.
    pub fn is_reserved_user(&self, user_id: &UserId, asking: Option<&str>) -> bool {
        self.others(asking).any(|service| service.owns_user(user_id))
    }

    /// Whether an alias belongs to a service alone, other than `asking`.
    pub fn is_reserved_alias(&self, alias: &RoomAliasId, asking: Option<&str>) -> bool {
        self.others(asking).any(|service| service.owns_alias(alias))
    }

    fn others<'a>(&'a self, asking: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Registration>> {
        self.services.iter().filter(move |service| asking != Some(service.id.as_str()))
    }
}

fn digest(token: &str) -> blake3::Hash {
    blake3::hash(token.as_bytes())
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    fn service(id: &str, token: &str, sender: &str) -> Registration {
        let text =
            format!("{{id: {id}, url: null, as_token: {token}, hs_token: h, sender_localpart: {sender}}}");
        Registration::parse(&text, "test", server_name!("example.org")).unwrap()
    }

    #[test]
    fn conflicts_are_refused() {
        let with = |other| Registry::new(vec![service("a", "ta", "sa"), other]);
        assert!(with(service("b", "tb", "sb")).is_ok());
        let message = |other| with(other).unwrap_err().to_string();
        assert_eq!(message(service("a", "tb", "sb")), "two application services have the id a");
        assert_eq!(message(service("b", "ta", "sb")), "a and b have the same as_token");
        assert_eq!(message(service("b", "tb", "sa")), "a and b have the same sender_localpart");
    }
}
