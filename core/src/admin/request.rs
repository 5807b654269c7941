//! A request and a response of the admin endpoint, as bytes. Pure.
//!
//! Only what a GET without a body takes: the request line is read, headers are skipped over, every response ends its
//! connection. That keeps the whole of HTTP that can go wrong on one screen.

use serde_json::{Value, json};

/// Bytes of a request's head at most; a longer one is answered 431.
pub(super) const HEAD_BYTES_MAX: usize = 8 << 10;

/// Prometheus' text format, version 0.0.4: what every scraper reads.
pub(super) const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A GET request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Get {
    path: String,
    query: Vec<(String, String)>,
}

impl Get {
    /// The path, without the query.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// A parameter of the query, decoded.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Where the head of a request ends (behind the empty line), if all of it is there.
pub(super) fn head_end(bytes: &[u8]) -> Option<usize> {
    let crlf = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|place| place + 4);
    let bare = bytes.windows(2).position(|window| window == b"\n\n").map(|place| place + 2);
    [crlf, bare].into_iter().flatten().min()
}

/// Reads the head of a request.
///
/// # Errors
/// The response to anything that is not a GET of HTTP 1.
pub(super) fn parse(head: &[u8]) -> Result<Get, Response> {
    let bad = || Response::error(400, "this is not an HTTP request");
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| bad())?.trim_end_matches('\r');
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad());
    };
    let is_method = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase());
    if !is_method || !target.starts_with('/') || !version.starts_with("HTTP/") {
        return Err(bad());
    }
    if !matches!(version, "HTTP/1.0" | "HTTP/1.1") {
        return Err(Response::error(505, "only HTTP/1.0 and HTTP/1.1 are spoken here"));
    }
    if method != "GET" {
        return Err(Response::error(405, "only GET is allowed: nothing can be changed here"));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parameter = |item: &str| {
        let (key, value) = item.split_once('=').unwrap_or((item, ""));
        Some((decoded(key)?, decoded(value)?))
    };
    let items = query.split('&').filter(|item| !item.is_empty());
    let query = items.map(parameter).collect::<Option<Vec<_>>>().ok_or_else(bad)?;
    Ok(Get { path: decoded(path).ok_or_else(bad)?, query })
}

/// Undoes percent encoding; none when it is broken or no UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &rest[2..];
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    content_type: &'static str,
    pub(super) body: String,
}

impl Response {
    /// JSON.
    pub(super) fn json(status: u16, body: &Value) -> Self {
        Self { status, content_type: "application/json", body: format!("{body:#}\n") }
    }

    /// JSON that says why not.
    pub(super) fn error(status: u16, reason: &str) -> Self {
        Self::json(status, &json!({ "error": reason }))
    }

    /// Metrics.
    pub(super) fn prometheus(body: String) -> Self {
        Self { status: 200, content_type: PROMETHEUS_TEXT, body }
    }

    /// The whole response as it goes out.
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { status, content_type, body } = self;
        let phrase = phrase(*status);
        let allow = if *status == 405 { "Allow: GET\r\n" } else { "" };
        let length = body.len();
        format!(
            "HTTP/1.1 {status} {phrase}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{allow}\
             Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_get_is_read_with_its_parameters() {
        let get = parse(b"GET /v1/groups?after=a%20b+c&limit=7 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert_eq!(get.path(), "/v1/groups");
        assert_eq!(get.parameter("after"), Some("a b c"));
        assert_eq!(get.parameter("limit"), Some("7"));
        assert_eq!(get.parameter("none"), None);
        assert_eq!(parse(b"GET / HTTP/1.0\n\n").unwrap().path(), "/");
    }

    #[test]
    fn what_is_no_get_is_refused_by_its_own_status() {
        let status = |head: &[u8]| parse(head).unwrap_err().status;
        assert_eq!(status(b"POST / HTTP/1.1\r\n\r\n"), 405);
        assert_eq!(status(b"HEAD /metrics HTTP/1.1\r\n\r\n"), 405);
        assert_eq!(status(b"GET / HTTP/2.0\r\n\r\n"), 505);
        let garbage: [&[u8]; 8] = [
            b"",
            b"\x16\x03\x01\x02\x00",
            b"GET /\r\n\r\n",
            b"GET / HTTP/1.1 x\r\n\r\n",
            b"GET / COFFEE\r\n\r\n",
            b"GET http://x/ HTTP/1.1\r\n\r\n",
            b"GET /%zz HTTP/1.1\r\n\r\n",
            b"GET /?a=%ff HTTP/1.1\r\n\r\n",
        ];
        for head in garbage {
            assert_eq!(status(head), 400, "{head:?}");
        }
    }

    #[test]
    fn the_end_of_a_head_is_found_only_when_it_is_there() {
        assert_eq!(head_end(b"GET / HTTP/1.1\r\nA: b\r\n"), None);
        assert_eq!(head_end(b"GET / HTTP/1.1\r\n\r\nrest"), Some(18));
        assert_eq!(head_end(b"GET / HTTP/1.0\n\nrest"), Some(16));
    }

    #[test]
    fn a_response_says_its_length_and_closes() {
        let bytes = Response::error(405, "no").encode();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"));
        assert!(head.contains("\r\nAllow: GET\r\n") && head.contains("\r\nConnection: close"));
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())));
    }
}
