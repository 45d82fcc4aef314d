"""Requests that must never reach an upstream: broken ones, and ones that two servers could read differently."""

_HEAD = b"GET /mal HTTP/1.1\r\nHost: a\r\n"
_POST = b"POST /mal HTTP/1.1\r\nHost: a\r\n"
_CHUNKED = _POST + b"Transfer-Encoding: chunked\r\n\r\n"


def _request_lines() -> list[bytes]:
    lines = [
        b"GET /mal",
        b"GET  /mal HTTP/1.1",
        b"GET /mal  HTTP/1.1",
        b"GET /mal HTTP/1.1 ",
        b" GET /mal HTTP/1.1",
        b"GET\t/mal HTTP/1.1",
        b"GET /mal\tHTTP/1.1",
        b"GET /m al HTTP/1.1",
        b"GET /mal HTTP/1.1 x",
        b"GET /mal http/1.1",
        b"GET /mal HTTP/1",
        b"GET /mal HTTP/11",
        b"GET /mal HTTP/1.2",
        b"GET /mal HTTP/0.9",
        b"GET /mal HTTP/1.1\x00",
        b"GET /mal XTTP/1.1",
        b"GET mal HTTP/1.1",
        b"GET ../mal HTTP/1.1",
        b"GET http:// HTTP/1.1",
        b"GET ftp://a/mal HTTP/1.1",
        b"GET http://u:p@a/mal HTTP/1.1",
        b"GET * HTTP/1.1",
        b"CONNECT /mal HTTP/1.1",
        b"CONNECT mal:80 HTTP/1.1",
        b"CONNECT http://mal/ HTTP/1.1",
        b"GET /mal\x00 HTTP/1.1",
        b"GET /mal\x01 HTTP/1.1",
        b"GET /mal\x7f HTTP/1.1",
        b"GET /mal\xff HTTP/1.1",
        b"GET /mal%00 HTTP/1.1",
        b"GET /mal%zz HTTP/1.1",
        b"GET /mal% HTTP/1.1",
        b"GET /../mal HTTP/1.1",
        b"GET /mal/../../x HTTP/1.1",
        b"GET /%2e%2e/mal HTTP/1.1",
        b"get /mal HTTP/1.1",
        b"G@T /mal HTTP/1.1",
        b"GE\x00T /mal HTTP/1.1",
        b"/mal GET HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ]
    return [line + b"\r\nHost: a\r\n\r\n" for line in lines]


def _hosts() -> list[bytes]:
    blocks = [
        b"",
        b"Host: a\r\nHost: a\r\n",
        b"Host: a\r\nHost: b\r\n",
        b"Host: a\r\nhost: b\r\n",
        b"Host: a b\r\n",
        b"Host: a/b\r\n",
        b"Host: a?b\r\n",
        b"Host: a#b\r\n",
        b"Host: u@a\r\n",
        b"Host: a\\b\r\n",
        b"Host: a:b\r\n",
        b"Host: a:80:80\r\n",
        b"Host: a:999999\r\n",
        b"Host: [::1\r\n",
        b"Host: a<b>\r\n",
        b'Host: "a"\r\n',
        b"Host: a, b\r\nHost: c\r\n",
        b"Host: http://a/\r\n",
        b"Host: a\xff\r\n",
    ]
    return [b"GET /mal HTTP/1.1\r\n" + block + b"\r\n" for block in blocks]


def _fields() -> list[bytes]:
    lines = [
        b"X : 1",
        b"X\t: 1",
        b" X: 1",
        b"\tX: 1",
        b"X",
        b": 1",
        b"X Y: 1",
        b"X(: 1",
        b"X\x00: 1",
        b"X\xe9: 1",
        b"X: a\x00b",
        b"X: a\x01b",
        b"X: a\x7fb",
        b"X: a\r\n folded",
        b"X: a\r\n\tfolded",
        b"X: a\nY: b",
        b"X: a\rY: b",
        b"X: a\r\r\nY: b",
        b"X: a\n\r\nY: b",
        b"Content-Length: 0\r\n\tx: y",
        b'"X": 1',
        b"X;: 1",
        b"{X}: 1",
    ]
    return [_HEAD + line + b"\r\n\r\n" for line in lines]


def _lengths() -> list[bytes]:
    blocks = [
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5\r\nContent-Length: 5",
        b"Content-Length: 5\r\ncontent-length: 0",
        b"Content-Length: 5, 5",
        b"Content-Length: 5 5",
        b"Content-Length: +5",
        b"Content-Length: -5",
        b"Content-Length: 0x5",
        b"Content-Length: 5.0",
        b"Content-Length: 5e0",
        b"Content-Length: five",
        b"Content-Length:",
        b"Content-Length: 5;",
        b"Content-Length: 99999999999999999999999",
        b"Content-Length : 5",
        b"Content-Length\t: 5",
        b"Content-Length: \x0b5",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        b"Transfer-Encoding: chunked\r\nContent-Length: 0",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunkedx",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        b'Transfer-Encoding: "chunked"',
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding: \x0bchunked",
        b"Transfer-Encoding:\r\n chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: gzip",
        b"Transfer-Encoding: ,chunked\x00",
    ]
    return [_POST + block + b"\r\n\r\nhello" for block in blocks]


def _chunks() -> list[bytes]:
    bodies = [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhelloo\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5_0\r\nhello\r\n0\r\n\r\n",
        b"five\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"5;\x00\r\nhello\r\n0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"5" + b";a=b" * 200 + b"\r\nhello\r\n0\r\n\r\n",
        b"0\r\nX : 1\r\n\r\n",
        b"0\r\n folded\r\n\r\n",
        b"0\r\nX: 1\n\r\n",
        b"0\n\n",
    ]
    return [_CHUNKED + body for body in bodies]


def _versions() -> list[bytes]:
    return [
        b"POST /mal HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /mal HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET /mal HTTP/1.1\nHost: a\n\n",
        b"GET /mal HTTP/1.1\r\nHost: a\n\r\n",
        b"GET /mal HTTP/1.1\rHost: a\r\r\n\r\n",
    ]


HEADS = [*_request_lines(), *_hosts(), *_fields(), *_lengths(), *_versions()]
"""Refused at the head."""

CHUNKED_BODIES = _chunks()
"""Refused within the body; the head is sound, so it may have gone upstream, but never as a complete request."""
