"""The command line of ``propylon ctl``.

Exit codes: 0 fine; 1 there are differences (diff), something is not valid (validate), or no upstream is reached
(explain); 2 it did not work; 130 interrupted.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from config_sync.ctl.explain import explain, question_of
from config_sync.ctl.plugins import plugins
from config_sync.ctl.processes import processes
from config_sync.ctl.skeleton import new_plugin
from config_sync.errors import ConfigError, SettingsError
from config_sync.settings import Settings
from config_sync.settings_file import load_settings

if TYPE_CHECKING:
    from config_sync.ctl.validation import Validator
    from config_sync.etcd.store import EtcdStore

FINE, FAILED, INTERRUPTED = 0, 2, 130
DEFAULT_CONF = "conf/config.yaml"
PASSWORD_VARIABLE = "PROPYLON_ETCD_PASSWORD"
_MISSING = "propylon ctl needs {name}, which comes with the extra: pip install 'propylon[tools]'"


def main(arguments: Sequence[str]) -> int:
    """Run a command; returns the exit code."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, TextIOWrapper):
            # Configuration is UTF-8 in every locale; bytes of keys that are no text are shown escaped.
            stream.reconfigure(encoding="utf-8", errors="strict" if stream is sys.stdin else "backslashreplace")
    try:
        return _run(options)
    except ConfigError as error:
        print(f"propylon ctl: {error}", file=sys.stderr)
        return FAILED
    except ModuleNotFoundError as error:
        print(_MISSING.format(name=error.name), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the result has gone; what is still buffered must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _run(options: argparse.Namespace) -> int:
    if options.command == "explain":
        return _explain(options)
    if options.command == "processes":
        return processes(_gateway(options), options.control, options.json)
    if options.command == "plugin":
        if options.action == "list":
            return plugins(_gateway(options), options.control, options.json)
        for file in new_plugin(options.name, Path()):
            print(file)
        return FINE
    settings = _settings(options)
    # Imported here: they need the extra, and the options have to be right first.
    from config_sync.ctl import past, transfer

    if options.command == "validate":
        return transfer.validate(options.file, _validator(settings))
    from config_sync.etcd.store import open_store

    def connect() -> "EtcdStore":
        return open_store(settings.etcd)

    if options.command == "watch":
        with contextlib.suppress(KeyboardInterrupt):  # there is no other end
            past.watch(connect, options.start, options.json, options.values)
        return FINE
    with connect() as store:
        if options.command == "export":
            return transfer.export(store, options.file)
        if options.command == "diff":
            return transfer.diff(store, options.file)
        if options.command == "history":
            return past.history(store, _key(options.key, store.prefix), options.values)
        validator = _validator(settings) if options.validate else None
        if options.command == "import":
            return transfer.import_file(store, options.file, validator, options.prune, options.dry_run)
        key, revision = _key_at_revision(options.key)
        return past.rollback(store, _key(key, store.prefix), revision, validator, options.dry_run)


def _explain(options: argparse.Namespace) -> int:
    question = question_of(
        options.target,
        options.method,
        options.host,
        options.header,
        options.remote_addr,
        options.limit,
        options.consumer,
    )
    return explain(_gateway(options), options.control, question, options.json)


def _gateway(options: argparse.Namespace) -> Settings:
    """Load the settings that tell where a running gateway is asked, unless the command line does."""
    return Settings() if options.control and not options.conf else load_settings(options.conf or DEFAULT_CONF)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-c", dest="conf", metavar="FILE", help=f"settings ({DEFAULT_CONF})")
    common.add_argument("--endpoint", metavar="URL", action="append", help="a member of etcd instead of the settings'")
    common.add_argument("--prefix", metavar="P", help="where the configuration is, instead of the settings' prefix")
    common.add_argument("--user", metavar="U", help=f"who logs in; the password is taken from {PASSWORD_VARIABLE}")
    parser = argparse.ArgumentParser("propylon ctl", description="What is in etcd, seen and changed from here.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, writes: bool = False) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, help=text, description=text, parents=[common])
        if writes:
            parser.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
            parser.add_argument("--no-validate", dest="validate", action="store_false", help="write whatever it is")
        return parser

    file = "in APISIX's standalone format, YAML or JSON; - for standard input"
    importer = command("import", "Write to etcd what differs from a file.", writes=True)
    importer.add_argument("file", metavar="FILE", help=file)
    importer.add_argument("--prune", action="store_true", help="delete what the file does not have")
    exporter = command("export", "Write what is in etcd to a file or to standard output.")
    exporter.add_argument("file", metavar="FILE", nargs="?", help="- or none for standard output")
    command("diff", "Say in what etcd differs from a file.").add_argument("file", metavar="FILE", help=file)
    command("validate", "Check a file, without etcd.").add_argument("file", metavar="FILE", help=file)
    watch = command("watch", "Print changes as they come, until interrupted.")
    watch.add_argument("--from", dest="start", metavar="REVISION", type=int, default=0, help="begin in the past")
    watch.add_argument("--json", action="store_true", help="one JSON object with the value per line")
    watch.add_argument("--values", action="store_true", help="print values, secrets with them")
    history = command("history", "Print every version of a key that etcd still has.")
    history.add_argument("key", metavar="KEY", help="below the prefix, as in routes/1")
    history.add_argument("--values", action="store_true", help="print values, secrets with them")
    rollback = command("rollback", "Write a key as it was.", writes=True)
    rollback.add_argument("key", metavar="KEY@REVISION", help="as in routes/1@1234")
    gateway = argparse.ArgumentParser(add_help=False)
    gateway.add_argument("-c", dest="conf", metavar="FILE", help=f"settings ({DEFAULT_CONF})")
    gateway.add_argument("--control", metavar="HOST:PORT", default="", help="instead of the settings' address")
    gateway.add_argument("--json", action="store_true", help="the answer as it is")
    text = "Ask a running gateway which route a request gets, and why."
    explanation = commands.add_parser("explain", help=text, parents=[gateway])
    explanation.add_argument("target", metavar="URI", help="a path, or a URL that brings the host, too")
    explanation.add_argument("--method", "-X", metavar="M", default="GET")
    explanation.add_argument("--host", metavar="H", default="", help="as a client sends it")
    explanation.add_argument("--header", "-H", metavar="NAME:VALUE", action="append", default=[])
    explanation.add_argument("--remote-addr", metavar="IP", default="", help="the client's address (127.0.0.1)")
    explanation.add_argument("--consumer", metavar="NAME", default="", help="with the plugins of this consumer")
    explanation.add_argument("--limit", metavar="N", type=int, default=100, help="how many candidates to list")
    text = "Show the master and the workers of a running gateway."
    commands.add_parser("processes", help=text, description=text, parents=[gateway])
    text = "List the plugins of a running gateway, or begin a new one."
    actions = commands.add_parser("plugin", help=text, description=text).add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    text = "List the plugins of a running gateway, and what became of their calls."
    actions.add_parser("list", help=text, description=text, parents=[gateway])
    text = "Write the beginning of a plugin and its test into the current directory."
    actions.add_parser("new", help=text, description=text).add_argument("name", metavar="NAME", help="as in my-plugin")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    """Load the settings, and put what the command line says over them.

    The file that nobody named may be missing when it is not needed.
    """
    is_needed = options.endpoint is None and options.command != "validate"
    if options.conf is None and not is_needed and not Path(DEFAULT_CONF).exists():
        settings = Settings()
    else:
        settings = load_settings(options.conf or DEFAULT_CONF)
    etcd = settings.etcd
    if options.endpoint:
        etcd = msgspec.structs.replace(etcd, host=tuple(options.endpoint))
    if options.prefix:
        etcd = msgspec.structs.replace(etcd, prefix=_checked_prefix(options.prefix))
    if options.user:
        etcd = msgspec.structs.replace(etcd, user=options.user)
    if PASSWORD_VARIABLE in os.environ:
        etcd = msgspec.structs.replace(etcd, password=os.environ[PASSWORD_VARIABLE])
    return msgspec.structs.replace(settings, etcd=etcd)


def _checked_prefix(prefix: str) -> str:
    prefix = prefix.rstrip("/")
    if not prefix.startswith("/"):
        raise SettingsError("--prefix: must begin with a slash, and have more than that")
    return prefix


def _validator(settings: Settings) -> "Validator":
    from config_sync.ctl.validation import Validator
    from config_sync.encryption import Keyring
    from config_sync.schema import decoders

    encryption = settings.data_encryption
    return Validator(decoders(Keyring(encryption.keyring, encryption.enable_encrypt_fields)))


def _key(text: str, prefix: str) -> str:
    """Take a key below the prefix or a whole one."""
    return text.removeprefix(prefix)


def _key_at_revision(text: str) -> tuple[str, int]:
    key, _, revision = text.rpartition("@")
    if not key or not revision.isdecimal() or not int(revision):
        raise ConfigError(f"{text}: must be KEY@REVISION, as in routes/1@1234")
    return key, int(revision)
