//! Paths and queries of which what is wrong is told as Matrix tells it.

use axum::extract::{FromRequestParts, Path, Query};
use http::request::Parts;
use serde::de::DeserializeOwned;

use crate::{ApiState, MatrixError};

/// The parameters of the path.
pub(super) struct InPath<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<ApiState> for InPath<T> {
    type Rejection = MatrixError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, MatrixError> {
        let found = Path::from_request_parts(parts, state).await;
        let Path(found) = found.map_err(|error| MatrixError::invalid_param(&error.body_text()))?;
        Ok(Self(found))
    }
}

/// The parameters of the query.
pub(super) struct InQuery<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<ApiState> for InQuery<T> {
    type Rejection = MatrixError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, MatrixError> {
        let found = Query::from_request_parts(parts, state).await;
        let Query(found) = found.map_err(|error| MatrixError::invalid_param(&error.body_text()))?;
        Ok(Self(found))
    }
}
