//! The page at `/`: three embedded files, nothing from elsewhere.
use axum::{
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};

/// Only this master's own script, style and answers; nothing inline, no frames around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn html() -> Response {
    file("text/html; charset=utf-8", include_str!("../../page/page.html"))
}

pub(super) fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("../../page/page.css"))
}

pub(super) fn script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("../../page/page.js"))
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    let fixed = |name: HeaderName, value| (name, HeaderValue::from_static(value));
    let headers = [
        fixed(header::CONTENT_TYPE, content_type),
        fixed(header::CONTENT_SECURITY_POLICY, POLICY),
        fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        fixed(header::REFERRER_POLICY, "no-referrer"),
        // The next version's page must not run the last one's script.
        fixed(header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}
