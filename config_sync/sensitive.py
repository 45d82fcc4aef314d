"""Which fields hold secrets, and how to reach them (data-model.md section 13).

A path is made of member names. Arrays on the way are walked element by element; a path that ends at an array or an
object means every text in it.
"""

from collections.abc import Callable, Mapping
from typing import Any

Path = tuple[str, ...]
Paths = Mapping[str, tuple[Path, ...]]


def _table(text: str) -> dict[str, tuple[Path, ...]]:
    """Read lines of a plugin's name and its paths."""
    return {
        name: tuple(tuple(path.split(".")) for path in paths)
        for name, *paths in (line.split() for line in text.strip().splitlines())
    }


_AI_AUTH = ["header", "query", "gcp.service_account_json", "aws.secret_access_key", "aws.session_token"]

PLUGIN: Paths = {
    **_table(
        """
        csrf key
        limit-count redis_password sentinel_password
        limit-req redis_password
        limit-conn redis_password
        graphql-limit-count redis_password sentinel_password introspection_headers
        http-logger auth_header
        kafka-logger brokers.sasl_config.password
        kafka-proxy sasl.password
        elasticsearch-logger auth.password headers
        loki-logger headers
        loggly customer_token
        splunk-hec-logging endpoint.token
        sls-logger access_key_secret
        tencent-cloud-cls secret_key
        rocketmq-logger secret_key
        clickhouse-logger password
        google-cloud-logging auth_config.private_key
        lago token
        openid-connect client_secret client_rsa_private_key dpop.private_key session.secret session.redis.password
        authz-keycloak client_secret
        authz-casdoor client_secret
        cas-auth cookie.secret
        saml-auth sp_private_key secret secret_fallbacks
        ldap-auth-advanced ldap_password
        dingtalk-auth app_secret secret secret_fallbacks
        feishu-auth app_secret secret secret_fallbacks
        aws-lambda authorization.apikey authorization.iam.accesskey authorization.iam.secretkey
        azure-functions authorization.apikey
        openwhisk service_token
        openfunction authorization.service_token
        ai-rate-limiting redis_password sentinel_password
        ai-cache redis_password semantic.embedding.api_key
        ai-rag embeddings_provider.azure_openai.api_key vector_search_provider.azure_ai_search.api_key
        ai-aws-content-moderation comprehend.secret_access_key comprehend.session_token
        ai-aliyun-content-moderation access_key_secret
        ai-lakera-guard api_key endpoint.api_key
        """
    ),
    **{
        name: tuple((*prefix, "auth", *path.split(".")) for path in _AI_AUTH)
        for name, prefix in (("ai-proxy", ()), ("ai-request-rewrite", ()), ("ai-proxy-multi", ("instances",)))
    },
}
"""By plugin, in what runs: routes, services, and so on."""

CREDENTIAL: Paths = _table(
    """
    key-auth key
    basic-auth password
    jwt-auth secret private_key
    hmac-auth secret_key
    jwe-decrypt key secret
    ldap-auth
    ldap-auth-advanced
    wolf-rbac
    """
)
"""By authentication plugin, in a consumer or a credential: what proves who the consumer is."""

CONSUMER: Paths = {**PLUGIN, **CREDENTIAL}
"""By plugin, in a consumer, whose other plugins run."""

METADATA: Paths = _table(
    """
    error-log-logger clickhouse.password kafka.brokers.sasl_config.password
    azure-functions master_apikey
    """
)
"""By plugin, in its metadata."""


def rewrite(value: Any, path: Path, change: Callable[[str], str]) -> Any:
    """Change the texts at a path, in place where there is a place; returns the value."""
    if isinstance(value, list):
        return [item if isinstance(item, list) else rewrite(item, path, change) for item in value]
    if isinstance(value, dict):
        if not path:
            return {name: change(item) if isinstance(item, str) else item for name, item in value.items()}
        if path[0] in value:
            value[path[0]] = rewrite(value[path[0]], path[1:], change)
        return value
    return change(value) if isinstance(value, str) and not path else value
