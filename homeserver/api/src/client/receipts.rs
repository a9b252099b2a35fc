use axum::extract::State;
use entente_accounts::Session;
use entente_rooms::{NewReceipt, ReceiptType};
use ruma::{
    api::client::receipt::create_receipt::{self, v3::ReceiptType as RequestedType},
    events::receipt::ReceiptThread,
};

use super::read_markers::FullyRead;
use crate::{ApiState, MatrixError};

/// `POST /rooms/{roomId}/receipt/{receiptType}/{eventId}`.
pub(super) async fn create(
    State(state): State<ApiState>,
    session: Session,
    request: create_receipt::v3::Request,
) -> Result<create_receipt::v3::Response, MatrixError> {
    let thread = thread_id(&request.thread)?;
    let receipt_type = match request.receipt_type {
        RequestedType::Read => ReceiptType::Read,
        RequestedType::ReadPrivate => ReceiptType::ReadPrivate,
        RequestedType::FullyRead if thread.is_some() => {
            return Err(MatrixError::invalid_param(
                "the fully-read marker is one of the room, not of a thread",
            ));
        }
        RequestedType::FullyRead => {
            FullyRead::find(&state, &session, &request.room_id, &request.event_id).await?.set().await?;
            return Ok(create_receipt::v3::Response::new());
        }
        _ => return Err(MatrixError::invalid_param("a receipt is m.read, m.read.private or m.fully_read")),
    };
    let receipt = NewReceipt { receipt_type, thread, event_id: request.event_id };
    state.rooms.acknowledge(&request.room_id, &session.user_id, &[receipt]).await?;
    Ok(create_receipt::v3::Response::new())
}

fn thread_id(thread: &ReceiptThread) -> Result<Option<String>, MatrixError> {
    match thread {
        ReceiptThread::Unthreaded => Ok(None),
        ReceiptThread::Main | ReceiptThread::Thread(_) => Ok(thread.as_str().map(str::to_owned)),
        _ => Err(MatrixError::invalid_param("thread_id is \"main\" or the id of a thread's root")),
    }
}
