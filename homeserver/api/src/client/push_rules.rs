use axum::extract::State;
use entente_accounts::{PushRuleChange, Session};
use ruma::{
    api::client::push::{
        delete_pushrule, get_pushrule, get_pushrule_actions, get_pushrule_enabled, get_pushrules_all,
        get_pushrules_global_scope, set_pushrule, set_pushrule_actions, set_pushrule_enabled,
    },
    push::{AnyPushRule, AnyPushRuleRef, RuleKind},
};

use super::membership::active;
use crate::{ApiState, MatrixError};

/// `GET /pushrules/`.
pub(super) async fn all(
    State(state): State<ApiState>,
    session: Session,
    _: get_pushrules_all::v3::Request,
) -> Result<get_pushrules_all::v3::Response, MatrixError> {
    let rules = state.accounts.present_push_rules(&session.user_id).await?;
    Ok(get_pushrules_all::v3::Response::new((*rules).clone()))
}

/// `GET /pushrules/global/`.
pub(super) async fn global(
    State(state): State<ApiState>,
    session: Session,
    _: get_pushrules_global_scope::v3::Request,
) -> Result<get_pushrules_global_scope::v3::Response, MatrixError> {
    let rules = state.accounts.present_push_rules(&session.user_id).await?;
    Ok(get_pushrules_global_scope::v3::Response::new((*rules).clone()))
}

/// `GET /pushrules/global/{kind}/{ruleId}`.
pub(super) async fn get(
    State(state): State<ApiState>,
    session: Session,
    request: get_pushrule::v3::Request,
) -> Result<get_pushrule::v3::Response, MatrixError> {
    let rule = find(&state, &session, request.kind, &request.rule_id).await?;
    Ok(get_pushrule::v3::Response::new(rule.into()))
}

/// `GET /pushrules/global/{kind}/{ruleId}/enabled`.
pub(super) async fn is_enabled(
    State(state): State<ApiState>,
    session: Session,
    request: get_pushrule_enabled::v3::Request,
) -> Result<get_pushrule_enabled::v3::Response, MatrixError> {
    let rule = find(&state, &session, request.kind, &request.rule_id).await?;
    Ok(get_pushrule_enabled::v3::Response::new(rule.as_ref().enabled()))
}

/// `GET /pushrules/global/{kind}/{ruleId}/actions`.
pub(super) async fn actions(
    State(state): State<ApiState>,
    session: Session,
    request: get_pushrule_actions::v3::Request,
) -> Result<get_pushrule_actions::v3::Response, MatrixError> {
    let rule = find(&state, &session, request.kind, &request.rule_id).await?;
    Ok(get_pushrule_actions::v3::Response::new(rule.as_ref().actions().to_vec()))
}

async fn find(
    state: &ApiState,
    session: &Session,
    kind: RuleKind,
    rule_id: &str,
) -> Result<AnyPushRule, MatrixError> {
    let rules = state.accounts.present_push_rules(&session.user_id).await?;
    let rule = rules.get(kind, rule_id).map(AnyPushRuleRef::to_owned);
    rule.ok_or_else(|| MatrixError::not_found("there is no such push rule"))
}

/// `PUT /pushrules/global/{kind}/{ruleId}`.
pub(super) async fn set(
    State(state): State<ApiState>,
    session: Session,
    request: set_pushrule::v3::Request,
) -> Result<set_pushrule::v3::Response, MatrixError> {
    let rule = Box::new(request.rule);
    let change = PushRuleChange::Set { rule, after: request.after, before: request.before };
    change_rules(&state, &session, &change).await?;
    Ok(set_pushrule::v3::Response::new())
}

/// `DELETE /pushrules/global/{kind}/{ruleId}`.
pub(super) async fn delete(
    State(state): State<ApiState>,
    session: Session,
    request: delete_pushrule::v3::Request,
) -> Result<delete_pushrule::v3::Response, MatrixError> {
    let change = PushRuleChange::Delete(request.kind, request.rule_id);
    change_rules(&state, &session, &change).await?;
    Ok(delete_pushrule::v3::Response::new())
}

/// `PUT /pushrules/global/{kind}/{ruleId}/enabled`.
pub(super) async fn enable(
    State(state): State<ApiState>,
    session: Session,
    request: set_pushrule_enabled::v3::Request,
) -> Result<set_pushrule_enabled::v3::Response, MatrixError> {
    let change = PushRuleChange::Enable(request.kind, request.rule_id, request.enabled);
    change_rules(&state, &session, &change).await?;
    Ok(set_pushrule_enabled::v3::Response::new())
}

/// `PUT /pushrules/global/{kind}/{ruleId}/actions`.
pub(super) async fn set_actions(
    State(state): State<ApiState>,
    session: Session,
    request: set_pushrule_actions::v3::Request,
) -> Result<set_pushrule_actions::v3::Response, MatrixError> {
    let change = PushRuleChange::Actions(request.kind, request.rule_id, request.actions);
    change_rules(&state, &session, &change).await?;
    Ok(set_pushrule_actions::v3::Response::new())
}

async fn change_rules(
    state: &ApiState,
    session: &Session,
    change: &PushRuleChange,
) -> Result<(), MatrixError> {
    active(session)?;
    Ok(state.accounts.change_push_rules(&session.user_id, change).await?)
}
