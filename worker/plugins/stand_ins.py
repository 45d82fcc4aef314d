"""What runs in the place of plugins that cannot: the request is refused, and never let through unseen."""

from typing import TYPE_CHECKING

from worker.plugins.answer import Answer
from worker.plugins.base import NoConfig, Plugin

if TYPE_CHECKING:
    from worker.exchange import Exchange

# Plugins of APISIX that keep somebody out and are not here (plugins.md section 2).
FAIL_CLOSED = frozenset(
    (
        *("openid-connect", "saml-auth", "cas-auth", "authz-casbin", "authz-casdoor", "authz-keycloak", "opa"),
        *("wolf-rbac", "ldap-auth", "ldap-auth-advanced", "jwe-decrypt", "dingtalk-auth", "feishu-auth"),
        *("key-auth", "basic-auth", "jwt-auth", "hmac-auth", "multi-auth", "forward-auth", "acl"),
        *("consumer-restriction", "ip-restriction", "ua-restriction", "referer-restriction", "uri-blocker", "csrf"),
        *("chaitin-waf", "oas-validator", "request-validation"),
    )
)


class FailClosed(Plugin[NoConfig]):
    """In the place of a plugin that keeps somebody out and cannot run: nobody gets through."""

    priority = 1_000_000

    def __init__(self, name: str) -> None:
        self._missing = name

    def rewrite(self, exchange: "Exchange") -> Answer:
        """Refuse."""
        return Answer(503)

    def access(self, exchange: "Exchange") -> Answer:
        """Refuse, too: a consumer's plugin in the place of one that has run already has no ``rewrite`` any more."""
        return Answer(503)


class Missing(Plugin[NoConfig]):
    """In the place of a record that is named and does not exist (data-model.md section 14)."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def rewrite(self, exchange: "Exchange") -> Answer:
        """Refuse."""
        return Answer(503)
