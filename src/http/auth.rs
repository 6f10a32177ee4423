//! Access control. If `http.token` is set, the page and the metrics need the token. If not, the metrics are open, and
//! the page opens only under a name of this machine.

use axum::http::header::{AUTHORIZATION, COOKIE, HOST, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

const COOKIE_NAME: &str = "streamgauge";

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AccessDenied {
    /// It has no token, or a wrong token.
    NoToken,
    /// Its `Host` header does not name this machine: a page of another site may have sent it.
    ForeignHost,
}

/// Checks requests against the token, if one is set.
#[derive(Debug, Clone)]
pub(super) struct Guard(Option<Token>);

#[derive(Debug, Clone)]
struct Token {
    token: String,
    /// A hash of the token, because a token may contain characters that a cookie may not.
    cookie: String,
}

impl Guard {
    pub(super) fn new(token: Option<String>) -> Self {
        Self(token.map(|token| {
            let hash = Sha256::digest(format!("streamgauge cookie|{token}"));
            let cookie = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            Token { token, cookie }
        }))
    }

    /// Whether a program may read the metrics: it must send the bearer token, if a token is set.
    pub(super) fn admits_program(&self, headers: &HeaderMap) -> bool {
        self.0.as_ref().is_none_or(|token| token.is_borne_by(headers))
    }

    /// Checks a request for the page or its data. If a token is set, the request must carry it, as a bearer token or
    /// as the cookie. If none is set, the `Host` header must name this machine. This stops DNS rebinding: another
    /// site cannot read the data under its own name.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), AccessDenied> {
        let Some(token) = &self.0 else {
            return if is_local(headers.get(HOST)) { Ok(()) } else { Err(AccessDenied::ForeignHost) };
        };
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut cookies = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|cookie| cookie.split_once('='));
        let has_cookie =
            cookies.any(|(name, value)| name.trim() == COOKIE_NAME && is_same(value.trim(), &token.cookie));
        if has_cookie || token.is_borne_by(headers) { Ok(()) } else { Err(AccessDenied::NoToken) }
    }

    /// Returns the cookie if the sent token is right.
    pub(super) fn cookie_for(&self, sent: &str) -> Option<String> {
        let token = self.0.as_ref().filter(|token| is_same(sent, &token.token))?;
        Some(format!("{COOKIE_NAME}={}; HttpOnly; SameSite=Strict; Path=/; Max-Age=2592000", token.cookie))
    }
}

impl Token {
    fn is_borne_by(&self, headers: &HeaderMap) -> bool {
        let sent = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        sent.and_then(|value| value.strip_prefix("Bearer ")).is_some_and(|sent| is_same(sent, &self.token))
    }
}

/// Returns the response to a request without the token.
pub(super) fn unauthorized() -> Response {
    let challenge = [(WWW_AUTHENTICATE, "Bearer")];
    (StatusCode::UNAUTHORIZED, challenge, "send http.token as a bearer token\n").into_response()
}

/// Compares all bytes, even after a difference, so that the time does not reveal the token.
fn is_same(sent: &str, expected: &str) -> bool {
    let differences = sent.bytes().zip(expected.bytes()).fold(0, |sum, (left, right)| sum | (left ^ right));
    sent.len() == expected.len() && differences == 0
}

/// Whether a host, with or without its port, is this machine. A client that sends no host is not a browser, and
/// passes.
fn is_local(host: Option<&HeaderValue>) -> bool {
    let Some(host) = host else { return true };
    let host = host.to_str().unwrap_or_default();
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: axum::http::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn without_a_token_this_machine_alone_may_look() {
        let guard = Guard::new(None);
        for host in ["localhost", "LOCALHOST:7422", "127.0.0.1:7422", "127.8.8.8", "[::1]:7422", "[::1]"] {
            assert_eq!(guard.check(&headers(HOST, host)), Ok(()), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "[::2]:1", ""] {
            assert_eq!(guard.check(&headers(HOST, host)), Err(AccessDenied::ForeignHost), "{host}");
        }
        assert_eq!(guard.check(&HeaderMap::new()), Ok(()));
        assert!(guard.admits_program(&headers(HOST, "prometheus.example")));
    }

    #[test]
    fn a_token_is_a_bearers_or_a_cookie() {
        let guard = Guard::new(Some("s;e=c ret".into()));
        let cookie = guard.cookie_for("s;e=c ret").unwrap();
        let pair = cookie.split(';').next().unwrap();
        for (name, value, expected) in [
            (COOKIE, pair.to_owned(), Ok(())),
            (COOKIE, format!("a=b; {pair} ; c=d"), Ok(())),
            (COOKIE, "streamgauge=s;e=c ret".to_owned(), Err(AccessDenied::NoToken)),
            (COOKIE, format!("x{pair}"), Err(AccessDenied::NoToken)),
            (AUTHORIZATION, "Bearer s;e=c ret".to_owned(), Ok(())),
            (AUTHORIZATION, "Bearer s;e=c re".to_owned(), Err(AccessDenied::NoToken)),
            (AUTHORIZATION, "s;e=c ret".to_owned(), Err(AccessDenied::NoToken)),
            (HOST, "localhost".to_owned(), Err(AccessDenied::NoToken)),
        ] {
            assert_eq!(guard.check(&headers(name, &value)), expected, "{value}");
        }
        assert_eq!(guard.cookie_for("other"), None);
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"));
    }
}
