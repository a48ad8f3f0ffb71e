//! The dead letters of the admin API.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde_json::Value;

use super::queues::{BODY_BYTES_MAX, outcome, parse, problem, read};
use super::{Answer, Refusal};
use crate::control::{Address, Control, ControlError};
use crate::record::Sequence;

/// What is asked for.
enum Action {
    List { after: Sequence, limit: Option<usize> },
    Show(Sequence),
    Edit(Sequence, Vec<u8>),
    PurgeOne(Sequence),
    Redrive(Value),
    Cancel,
    Purge(Value),
}

/// The methods of a path below a queue's dead letters; `None` if there is no such path.
pub(super) fn allowed(rest: &[&str]) -> Option<&'static str> {
    match rest {
        [] => Some("GET"),
        ["redrive"] => Some("POST, DELETE"),
        ["purge"] => Some("POST"),
        [sequence] if sequence.parse::<Sequence>().is_ok() => Some("GET, PUT, DELETE"),
        _ => None,
    }
}

/// Answers a request that [`allowed`] lets through.
pub(super) async fn answer(
    control: &Arc<Control>,
    address: Address,
    rest: &[&str],
    by: String,
    request: Request<Incoming>,
) -> Answer {
    let action = match action(control, rest, request).await {
        Ok(action) => action,
        Err(refusal) => return *refusal,
    };
    let control = Arc::clone(control);
    // It waits for the disk, and there is one thread for all of the admin address.
    let done = tokio::task::spawn_blocking(move || act(&control, &address, action, &by)).await;
    match done {
        Ok(done) => outcome(done),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", &error.to_string()),
    }
}

async fn action(control: &Control, rest: &[&str], request: Request<Incoming>) -> Result<Action, Refusal> {
    let method = request.method().clone();
    Ok(match rest {
        [] => page(request.uri().query().unwrap_or_default())?,
        ["purge"] => Action::Purge(parse(&read(request, BODY_BYTES_MAX).await?, r#"{"all": true}"#)?),
        ["redrive"] if method == Method::DELETE => Action::Cancel,
        ["redrive"] => Action::Redrive(parse(&read(request, BODY_BYTES_MAX).await?, r#"{"all": true}"#)?),
        [sequence, ..] => {
            // `allowed` has read it.
            let sequence = sequence.parse().unwrap_or_default();
            match method {
                Method::PUT => Action::Edit(sequence, read(request, control.letter_bytes_max()).await?.to_vec()),
                Method::DELETE => Action::PurgeOne(sequence),
                _ => Action::Show(sequence),
            }
        }
    })
}

fn act(control: &Control, address: &Address, action: Action, by: &str) -> Result<Value, ControlError> {
    match action {
        Action::List { after, limit } => control.list_letters(address, after, limit),
        Action::Show(sequence) => control.show_letter(address, sequence),
        Action::Edit(sequence, body) => control.edit_letter(address, sequence, &body, by),
        Action::PurgeOne(sequence) => control.purge_letter(address, sequence, by),
        Action::Redrive(body) => control.redrive_letters(address, &body, by),
        Action::Cancel => control.cancel_redrive(address, by),
        Action::Purge(body) => control.purge_letters(address, &body, by),
    }
}

/// Reads `after=…&limit=…`.
fn page(query: &str) -> Result<Action, Refusal> {
    let (mut after, mut limit) = (0, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let number = value.parse::<u64>();
        match (key, number) {
            ("after", Ok(number)) => after = number,
            ("limit", Ok(number)) => limit = Some(usize::try_from(number).unwrap_or(usize::MAX)),
            _ => {
                let detail = "a list takes `after` (a sequence) and `limit`, both whole numbers: ?after=41&limit=100";
                return Err(Box::new(problem(StatusCode::BAD_REQUEST, "bad-request", detail)));
            }
        }
    }
    Ok(Action::List { after, limit })
}
