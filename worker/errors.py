"""The errors an exchange can end with.

- ProxyError
    - DownstreamError: the client's doing
        - BadRequest 400, RequestTimeout 408, BodyTooLarge 413, TargetTooLong 414, ExpectationFailed 417,
          HeadersTooLarge 431, MethodNotAllowed 405, NotImplementedCoding 501, VersionNotSupported 505
        - ClientClosed 499 (log only)
    - RoutingError: what is configured does not lead anywhere
        - RouteNotFound 404, ServiceMissing 404, UpstreamMissing 502, NoUpstream 503, NoPeers 503,
          UnknownBalancer 500, QueueFull 503, QueueTimeout 503, CertificateMissing 502, CertificateInvalid 503
    - UpstreamError: the peer's doing
        - PeerUnresolved 503, ConnectFailed 502, ConnectTimeout 504, PeerClosed 502, SendTimeout 504, ReadTimeout 504,
          InvalidResponse 502, RetryTimeout 502
    - PluginFailed 500: a plugin's doing
    - ProxyError itself: 500
- BodyNeeded is none of them: it asks ``serve`` for the request's body

Each class states the ``status`` the client sees, the ``source`` at fault, and ``retry``: whether another try
may be made (the words are Pingora's).
"""

from enum import Enum


class Source(Enum):
    """Who caused an error."""

    DOWNSTREAM = "downstream"
    UPSTREAM = "upstream"
    INTERNAL = "internal"


class Retry(Enum):
    """When a request may be tried again after an error."""

    NEVER = "never"
    IF_UNSENT = "if unsent"  # the request never left, so any method may be repeated
    IF_IDEMPOTENT = "if idempotent"  # the peer may have acted on it


class BodyNeeded(Exception):
    """A step that cannot wait needs the request's body; it is repeated when the body has been read.

    ``limit`` is the size in bytes up to which it wants to see one; a larger body is shown to it as empty.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(f"the request's body is needed, up to {limit} bytes")
        self.limit = limit


class ProxyError(Exception):
    """An exchange cannot go on; the message is for the error log, never for the client."""

    status = 500
    source = Source.INTERNAL
    retry = Retry.NEVER


class PluginFailed(ProxyError):
    """A plugin has raised an exception."""


class DownstreamError(ProxyError):
    """The client sent something we refuse."""

    status = 400
    source = Source.DOWNSTREAM


class BadRequest(DownstreamError):
    """The request breaks RFC 9112, or could be read two ways."""


class MethodNotAllowed(DownstreamError):
    """A method the gateway cannot carry (CONNECT)."""

    status = 405


class RequestTimeout(DownstreamError):
    """The client was too slow with its head or body."""

    status = 408


class BodyTooLarge(DownstreamError):
    """The body exceeds ``client_max_body_size``."""

    status = 413


class TargetTooLong(DownstreamError):
    """The request line alone exceeds ``large_client_header_buffers``."""

    status = 414


class ExpectationFailed(DownstreamError):
    """An Expect other than 100-continue (RFC 9110 section 10.1.1)."""

    status = 417


class HeadersTooLarge(DownstreamError):
    """The head exceeds ``large_client_header_buffers``."""

    status = 431


class NotImplementedCoding(DownstreamError):
    """A transfer coding other than chunked (RFC 9112 section 6.1)."""

    status = 501


class VersionNotSupported(DownstreamError):
    """Neither HTTP/1.0 nor HTTP/1.1."""

    status = 505


class ClientClosed(DownstreamError):
    """The client went away; nothing can be answered."""

    status = 499


class RoutingError(ProxyError):
    """The configuration does not lead this request to a peer."""


class RouteNotFound(RoutingError):
    """No route matches."""

    status = 404
    source = Source.DOWNSTREAM


class ServiceMissing(RoutingError):
    """The route names a service that does not exist."""

    status = 404


class UpstreamMissing(RoutingError):
    """The route or service names an upstream that does not exist."""

    status = 502


class NoUpstream(RoutingError):
    """Neither route nor service has an upstream."""

    status = 503


class NoPeers(RoutingError):
    """The upstream has no node that can be used."""

    status = 503


class UnknownBalancer(RoutingError):
    """The upstream's ``type`` is none we know."""

    status = 500


class QueueFull(RoutingError):
    """Every node is at ``max_conns``, and as many requests wait as may."""

    status = 503


class QueueTimeout(RoutingError):
    """No node had room within ``queue.timeout``."""

    status = 503


class CertificateMissing(RoutingError):
    """``tls.client_cert_id`` names no certificate for clients."""

    status = 502


class CertificateInvalid(RoutingError):
    """The client certificate of the upstream, or what its peers are to be verified by, cannot be used."""

    status = 503


class UpstreamError(ProxyError):
    """A peer did not answer as it should."""

    status = 502
    source = Source.UPSTREAM


class PeerUnresolved(UpstreamError):
    """The peer's name has no address, so it was not tried."""

    status = 503
    retry = Retry.IF_UNSENT


class ConnectFailed(UpstreamError):
    """Refused, unreachable, or TLS failed."""

    retry = Retry.IF_UNSENT


class ConnectTimeout(UpstreamError):
    """No connection within ``timeout.connect``."""

    status = 504
    retry = Retry.IF_UNSENT


class PeerClosed(UpstreamError):
    """The peer closed before its answer was complete."""

    retry = Retry.IF_IDEMPOTENT


class SendTimeout(UpstreamError):
    """The peer took no bytes for ``timeout.send``."""

    status = 504
    retry = Retry.IF_IDEMPOTENT


class ReadTimeout(UpstreamError):
    """The peer sent no bytes for ``timeout.read``."""

    status = 504
    retry = Retry.IF_IDEMPOTENT


class InvalidResponse(UpstreamError):
    """The peer's answer breaks RFC 9112, or its head is too large."""

    retry = Retry.IF_IDEMPOTENT


class RetryTimeout(UpstreamError):
    """A further try would start later than ``retry_timeout`` after the first."""
