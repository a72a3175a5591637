//! Answers of our own: they say so, and why.

use crate::body::ResponseBody;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, SERVER};
use http::{Response, StatusCode};
use mesh_model::Reason;

/// Carries the reason code of an answer that no application gave.
pub(crate) const X_STRATA_REASON: HeaderName = HeaderName::from_static("x-strata-reason");
/// `Server` of our own answers.
const SERVER_NAME: HeaderValue = HeaderValue::from_static("strata");
/// Body of a denial, as Istio's: tests and people look for it.
const DENIED: &str = "RBAC: access denied";

/// Our own answer for a failure.
pub(crate) fn failure(status: StatusCode, reason: Reason) -> Response<ResponseBody> {
    let text = match status {
        StatusCode::FORBIDDEN => DENIED.to_owned(),
        _ => format!("{}\n", reason.code()),
    };
    let mut response = ours(status, text);
    response
        .headers_mut()
        .insert(X_STRATA_REASON, HeaderValue::from_static(reason.code()));
    response
}

/// Our own answer that sends the client elsewhere.
pub(crate) fn redirect(status: StatusCode, location: HeaderValue) -> Response<ResponseBody> {
    let mut response = ours(status, String::new());
    response.headers_mut().insert(LOCATION, location);
    response
}

fn ours(status: StatusCode, text: String) -> Response<ResponseBody> {
    let plain = (!text.is_empty()).then_some(HeaderValue::from_static("text/plain"));
    let mut response = Response::new(ResponseBody::text(text));
    *response.status_mut() = status;
    response.headers_mut().insert(SERVER, SERVER_NAME);
    if let Some(plain) = plain {
        response.headers_mut().insert(CONTENT_TYPE, plain);
    }
    response
}

/// The status of a failure.
pub(crate) fn status_of(reason: Reason) -> StatusCode {
    StatusCode::from_u16(reason.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
