use std::{collections::HashMap, sync::Arc};

use entente_storage::{Bytes, LogPosition, Snapshot, Transaction, value::Stamped};
use parking_lot::Mutex;
use ruma::{
    UserId,
    push::{Action, InsertPushRuleError, NewPushRule, RemovePushRuleError, RuleKind, Ruleset},
};
use serde::{Deserialize, Serialize};

use crate::{AccountError, Accounts, Change, default_rules::default_rules, rows};

/// The type of account data in which a user's rules are kept.
pub(crate) const EVENT_TYPE: &str = "m.push_rules";
/// All rules of a user have at most this many bytes.
pub(crate) const MOST_BYTES: usize = 1024 * 1024;
/// A user has at most this many rules.
pub(crate) const MOST_RULES: usize = 1_000;
/// The id of a rule has at most this many bytes.
const MOST_ID_BYTES: usize = 255;
/// Rulesets that are remembered; beyond it all are forgotten.
const MOST_REMEMBERED: usize = 5_000;

/// Rulesets as they were parsed last, with the bytes that they were parsed from.
#[derive(Debug, Default)]
pub(crate) struct ParsedRules(Mutex<HashMap<String, Parsed>>);

/// The stored bytes, and what they say.
type Parsed = (Option<Bytes>, Arc<Ruleset>);

#[derive(Serialize, Deserialize)]
struct Content<R> {
    global: R,
}

/// A change of a user's push rules (C-S API, "Push Rules: API").
#[derive(Clone, Debug)]
pub enum PushRuleChange {
    /// Adds or replaces a rule of the user's own, behind or before another.
    Set {
        /// The rule.
        rule: Box<NewPushRule>,
        /// Behind which.
        after: Option<String>,
        /// Before which.
        before: Option<String>,
    },
    /// Deletes a rule of the user's own.
    Delete(RuleKind, String),
    /// Turns a rule on or off.
    Enable(RuleKind, String, bool),
    /// Says what a rule does.
    Actions(RuleKind, String, Vec<Action>),
}

impl Accounts {
    /// The push rules of a local user, with the rules that everybody has.
    pub async fn push_rules(
        &self,
        snapshot: &Snapshot,
        localpart: &str,
    ) -> Result<Arc<Ruleset>, AccountError> {
        let row = snapshot.get(&rows::ACCOUNT_DATA, (localpart, "", EVENT_TYPE)).await?;
        let stored = row.map(|row| row.value).filter(|content| !content.is_empty());
        if let Some((bytes, rules)) = self.inner.push_rules.0.lock().get(localpart)
            && *bytes == stored
        {
            return Ok(Arc::clone(rules));
        }
        let rules = Arc::new(self.parse_rules(localpart, stored.as_ref())?);
        let mut remembered = self.inner.push_rules.0.lock();
        if remembered.len() >= MOST_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(localpart.to_owned(), (stored, Arc::clone(&rules)));
        Ok(rules)
    }

    /// The same at present.
    pub async fn present_push_rules(&self, user_id: &UserId) -> Result<Arc<Ruleset>, AccountError> {
        let localpart = self.local(user_id)?;
        self.push_rules(&self.snapshot().await?, localpart).await
    }

    /// The same as the content of account data.
    pub async fn push_rules_content(
        &self,
        snapshot: &Snapshot,
        localpart: &str,
    ) -> Result<Bytes, AccountError> {
        encode(&*self.push_rules(snapshot, localpart).await?)
    }

    /// Rules that were stored before new defaults came get those too.
    pub(crate) fn parse_rules(
        &self,
        localpart: &str,
        stored: Option<&Bytes>,
    ) -> Result<Ruleset, AccountError> {
        let defaults = default_rules(&self.user_id(localpart)?);
        let Some(stored) = stored else { return Ok(defaults) };
        let content: Content<Ruleset> = serde_json::from_slice(stored)
            .map_err(|error| AccountError::Internal(format!("stored push rules: {error}")))?;
        let mut rules = content.global;
        rules.update_with_server_default(defaults);
        Ok(rules)
    }

    /// Changes a user's push rules.
    pub async fn change_push_rules(
        &self,
        user_id: &UserId,
        change: &PushRuleChange,
    ) -> Result<(), AccountError> {
        let localpart = self.local(user_id)?;
        let key = (localpart, "", EVENT_TYPE);
        self.store()
            .run(async |snapshot| {
                let row = snapshot.get(&rows::ACCOUNT_DATA, key).await?;
                let stored = row.as_ref().map(|row| &row.value).filter(|content| !content.is_empty());
                let mut rules = self.parse_rules(localpart, stored)?;
                change.apply(&mut rules)?;
                let content = encode(&rules)?;
                let mut transaction = Transaction::new();
                if stored == Some(&content) {
                    return Ok((transaction, ()));
                }
                if content.len() > MOST_BYTES || rules.iter().count() > MOST_RULES {
                    return Err(AccountError::TooLarge(
                        "a user has at most 1000 push rules, and 1 MiB of them",
                    ));
                }
                transaction.check_unchanged(&rows::ACCOUNT_DATA, key, row.as_ref());
                let row = Stamped { position: LogPosition::AT_COMMIT, value: content };
                transaction.put(&rows::ACCOUNT_DATA, key, &row);
                let change = Change::AccountData {
                    localpart: localpart.to_owned(),
                    room_id: String::new(),
                    event_type: EVENT_TYPE.to_owned(),
                };
                change.log_in(&mut transaction);
                Ok((transaction, ()))
            })
            .await?;
        Ok(())
    }
}

impl PushRuleChange {
    fn apply(&self, rules: &mut Ruleset) -> Result<(), AccountError> {
        let not_found = |_| AccountError::NotFound("there is no such push rule");
        match self.clone() {
            Self::Set { rule, after, before } => {
                if rule.rule_id().len() > MOST_ID_BYTES {
                    return Err(AccountError::InvalidParameter(
                        "the id of a push rule has at most 255 bytes",
                    ));
                }
                rules.insert(*rule, after.as_deref(), before.as_deref()).map_err(not_inserted)
            }
            Self::Delete(kind, rule_id) => rules.remove(kind, rule_id).map_err(|error| match error {
                RemovePushRuleError::ServerDefault => {
                    AccountError::InvalidParameter("the rules that everybody has cannot be deleted")
                }
                _ => AccountError::NotFound("there is no such push rule"),
            }),
            Self::Enable(kind, rule_id, enabled) => {
                rules.set_enabled(kind, rule_id, enabled).map_err(not_found)
            }
            Self::Actions(kind, rule_id, actions) => {
                rules.set_actions(kind, rule_id, actions).map_err(not_found)
            }
        }
    }
}

fn not_inserted(error: InsertPushRuleError) -> AccountError {
    match error {
        InsertPushRuleError::ServerDefaultRuleId => {
            AccountError::InvalidParameter("ids that begin with a dot are for the rules that everybody has")
        }
        InsertPushRuleError::RelativeToServerDefaultRule => {
            AccountError::InvalidParameter("a rule cannot be placed by one that everybody has")
        }
        InsertPushRuleError::UnknownRuleId => {
            AccountError::NotFound("the rule by which to place this one does not exist")
        }
        InsertPushRuleError::BeforeHigherThanAfter => {
            AccountError::InvalidParameter("the rule named by before stands above that named by after")
        }
        _ => AccountError::InvalidParameter("that cannot be the id of a push rule"),
    }
}

/// The content of the account data in which rules are kept.
pub(crate) fn encode(rules: &Ruleset) -> Result<Bytes, AccountError> {
    let content = serde_json::to_vec(&Content { global: rules });
    content.map(Bytes::from).map_err(|error| AccountError::Internal(format!("push rules: {error}")))
}
