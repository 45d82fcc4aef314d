"""Does with a request what the first rule says that applies to it.

``rules`` is an array of {case, actions}: ``case`` an expression (without one the rule always applies), ``actions`` an
array of [name, configuration], of which the first is carried out:

    return       {code}: answers with this status and "rejected by workflow"
    limit-count  as the plugin does, with its metadata and a counter of its own; that plugin then does not run besides
    limit-conn   likewise
"""

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from config_sync.errors import InvalidResource
from worker.plugins.answer import Answer, error_message
from worker.plugins.base import Plugin, Scope
from worker.plugins.limit_conn import LimitConn
from worker.plugins.limit_count import LimitCount
from worker.plugins.making import fingerprint
from worker.plugins.registry import Registered
from worker.routing.expressions import Condition, compile_expression

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.plugins.response_head import ResponseHead


class ReturnConfig(msgspec.Struct):
    """What is answered."""

    code: Annotated[int, msgspec.Meta(ge=200, le=599)]


def _return() -> type[Plugin[ReturnConfig]]:
    """Make the plugin of that action, which is none to be configured by itself."""

    class Return(Plugin[ReturnConfig]):
        """Answers."""

        name = "return"
        Config = ReturnConfig

        def access(self, exchange: "Exchange") -> Answer:
            return error_message(self.config.code, "rejected by workflow")

    return Return


ACTIONS = {plugin.name: Registered(plugin, "workflow") for plugin in (_return(), LimitCount, LimitConn)}


class Rule(msgspec.Struct):
    """What is done, and when."""

    actions: Annotated[list[Annotated[list[Any], msgspec.Meta(min_length=1, max_length=2)]], msgspec.Meta(min_length=1)]
    case: list[Any] | None = None


class WorkflowConfig(msgspec.Struct):
    """The rules."""

    rules: Annotated[list[Rule], msgspec.Meta(min_length=1)]


class Workflow(Plugin[WorkflowConfig]):
    """Finds the rule, and lets another plugin do what it says."""

    name = "workflow"
    priority = 1006
    Config = WorkflowConfig
    reads_metadata_of = (LimitCount.name, LimitConn.name)

    def __init__(self, config: WorkflowConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._rules = [
            (_condition(rule, f"$.rules[{number}]"), self._action(rule, number))
            for number, rule in enumerate(config.rules)
        ]

    @classmethod
    def check(cls, config: Any) -> None:
        """Check expressions and actions."""
        for number, rule in enumerate(config.rules):
            _condition(rule, f"$.rules[{number}]")
            for at, action in enumerate(rule.actions):
                _configured(action, f"$.rules[{number}].actions[{at}]")

    def _action(self, rule: Rule, number: int) -> Plugin[Any]:
        registered, config = _configured(rule.actions[0], f"$.rules[{number}].actions[0]")
        key = f"{self.scope.key}#{self.name}[{number}]"
        checksum = fingerprint(rule.actions[0][1])
        name, written = registered.name, self.scope.of_others
        metadata = registered.metadata(written.get(name, {}), "$", [])
        return registered.plugin(config, Scope(name, key, checksum, metadata, self.scope.services, name in written))

    def access(self, exchange: "Exchange") -> Answer | Awaitable[Answer | None] | None:
        """Do what is to be done."""
        run = exchange.run
        assert run is not None  # noqa: S101 - hooks run in one
        for applies, action in self._rules:
            if applies is None or applies(exchange):
                run.keep(type(action), False)  # what another workflow has counted is no reason not to
                answer = action.access(exchange)
                run.keep(self, action)
                run.keep(type(action), True)  # so that the plugin itself stands back
                return answer
        return None

    def header_filter(self, exchange: "Exchange", head: "ResponseHead") -> None:
        """Let the action see the head."""
        assert exchange.run is not None  # noqa: S101 - hooks run in one
        action = exchange.run.kept(self)
        if action is not None:
            action.header_filter(exchange, head)

    def log(self, exchange: "Exchange") -> None:
        """Let the action see the end."""
        assert exchange.run is not None  # noqa: S101 - hooks run in one
        action = exchange.run.kept(self)
        if action is not None:
            action.log(exchange)

    def close(self) -> None:
        """Close what the actions stand for."""
        for _, action in self._rules:
            action.close()


def _condition(rule: Rule, path: str) -> Condition | None:
    return compile_expression(rule.case, f"{path}.case") if rule.case else None


def _configured(action: list[Any], path: str) -> tuple[Registered, msgspec.Struct]:
    """Return what an action stands for, and its configuration.

    Raises:
        InvalidResource: there is no such action, or it is not configured as it should be.
    """
    registered = ACTIONS.get(action[0]) if isinstance(action[0], str) else None
    if registered is None:
        raise InvalidResource(f"{path}[0]", f"must be one of {', '.join(ACTIONS)}")
    config = action[1] if len(action) > 1 else {}
    if not isinstance(config, dict):
        raise InvalidResource(f"{path}[1]", "must be an object")
    return registered, registered.config(config, f"{path}[1]", [])
