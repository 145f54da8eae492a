"""``python -m runtime serve``: an OpenAI-compatible server."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from export.manifest import PocketspecError
from memory.choices import wanted_context
from memory.device import read_device
from memory.meter import Memory, read_memory
from memory.options import add_constrained, add_limits, make_request
from memory.size import MemoryShare, parse_size
from runtime.commands import options as shared

if TYPE_CHECKING:
    from runtime.engine import Engine
    from runtime.server.request_memory import RequestMemory
    from runtime.server.served import ServedModel, ServedModels
    from runtime.server.service import Settings
    from runtime.speculation.request import Speculation

_KEY_VARIABLE = "POCKETSPEC_API_KEY"
_KEPT_CONVERSATIONS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "bundles",
        nargs="+",
        metavar="BUNDLE",
        help="a folder written by python -m export; NAME=BUNDLE gives the model another name than the bundle's",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8080, metavar="N", help="0: a free one (default: 8080)")
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        help=f"ask for this key; a file or the variable {_KEY_VARIABLE} keeps it out of the list of processes",
    )
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="ask for the key in the first line of FILE")
    parser.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let web pages of ORIGIN use the server, as in https://example.org; can be repeated",
    )
    parser.add_argument("--max-body", default="1MB", metavar="SIZE", help="of a request (default: 1MB)")
    parser.add_argument(
        "--max-queue", type=int, default=64, metavar="N", help="requests that may wait for a model (default: 64)"
    )
    add_limits(parser)
    add_constrained(parser)
    parser.set_defaults(kept_conversations=_KEPT_CONVERSATIONS)
    shared.add_opening(parser)
    shared.add_speculation(parser)
    shared.add_suffix_store(parser)
    shared.add_sampling_law(parser)


def run(options: argparse.Namespace) -> int:
    """Serves until it is interrupted."""
    import runtime.engine  # noqa: F401  (what engines need is planned by itself)

    before = read_memory()
    _require_packages()
    from runtime.server.app import make_app
    from runtime.server.listening import is_loopback, listen, url_of
    from runtime.server.listening import run as serve
    from runtime.server.service import Service

    settings, speculation = _settings(options), shared.make_speculation(options)
    own_bytes = _anonymous(read_memory()) - _anonymous(before) + settings.memory.nbytes
    if not is_loopback(options.host) and settings.api_key is None:
        shared.say(f"{options.host} can be reached from other machines, and no key is asked for; pass --api-key-file")
    with (
        listen(options.host, options.port) as listener,
        _models(options, speculation, own_bytes, settings.memory.longest_text) as models,
    ):
        print(f"serving {', '.join(models.by_name)} at {url_of(listener)}/v1", flush=True)
        print(f"a page to talk with the models is at {url_of(listener)}", flush=True)
        serve(make_app(Service(models, settings)), listener, lambda: _stop(models))
    return 0


def _require_packages() -> None:
    """PocketspecError unless the extra is installed."""
    try:
        import prometheus_client  # noqa: F401
        import pydantic  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise PocketspecError(f"{error.name} is not installed; pip install 'pocketspec[server]'") from None


def _anonymous(memory: Memory | None) -> int:
    return 0 if memory is None else memory.anonymous_bytes


def _settings(options: argparse.Namespace) -> Settings:
    from runtime.server.listening import is_loopback
    from runtime.server.service import LOOPBACK_NAMES, Settings

    size = parse_size(options.max_body)
    if isinstance(size, MemoryShare):
        raise PocketspecError(f"--max-body {options.max_body} is no number of bytes; write 1MB")
    if options.max_queue < 1:
        raise PocketspecError(f"--max-queue {options.max_queue}: it must be at least 1")
    hosts = (*LOOPBACK_NAMES, options.host) if is_loopback(options.host) else None
    return Settings(_request_memory(options, size), api_key=_api_key(options), origins=tuple(options.cors), hosts=hosts)


def _request_memory(options: argparse.Namespace, max_body_bytes: int) -> RequestMemory:
    """For prompts of the longest context that a model may get."""
    from runtime.bundle.foreign import read_bundle
    from runtime.server.request_memory import RequestMemory

    request = make_request(options, read_device())
    manifests = map(read_bundle, name_bundles(options.bundles).values())
    return RequestMemory(max_body_bytes, max(wanted_context(manifest, request) for manifest in manifests))


def _api_key(options: argparse.Namespace) -> str | None:
    if options.api_key is not None and options.api_key_file is not None:
        raise PocketspecError("--api-key and --api-key-file contradict each other; drop one")
    key = options.api_key if options.api_key is not None else os.environ.get(_KEY_VARIABLE)
    if options.api_key_file is not None:
        try:
            key = options.api_key_file.read_text(encoding="utf-8").partition("\n")[0].strip()
        except (OSError, UnicodeError) as error:
            raise PocketspecError(f"cannot read a key from {options.api_key_file}: {error}") from None
    if key is not None and not key:
        raise PocketspecError("the API key is empty; give it at least one character, or leave it out")
    return key


@contextmanager
def _models(
    options: argparse.Namespace, speculation: Speculation, own_bytes: int, longest_text: int
) -> Iterator[ServedModels]:
    """The open models with their workers, planned beside ``own_bytes`` of the server; at the end all are closed."""
    from runtime.server.served import ServedModels

    bundles = name_bundles(options.bundles)
    if options.suffix_store is not None and len(bundles) > 1:
        raise PocketspecError("--suffix-store is of one model, and several are served; serve one, or drop it")
    with ExitStack() as stack:
        models: dict[str, ServedModel] = {}
        for name, bundle in bundles.items():
            own = argparse.Namespace(**{**vars(options), "bundle": bundle})
            engine = stack.enter_context(
                shared.open_for(own, speculation, application_bytes=own_bytes, constrained=options.constrained)
            )
            models[name] = _serve(name, engine, own, speculation, longest_text)
            stack.callback(models[name].worker.join)
            stack.callback(models[name].worker.stop)
        yield ServedModels(models)


def name_bundles(words: list[str]) -> dict[str, Path]:
    """Bundles by name, from ``BUNDLE`` or ``NAME=BUNDLE`` each; PocketspecError for two of one name."""
    from runtime.bundle.foreign import read_bundle

    found: dict[str, Path] = {}
    for word in words:
        name, mark, place = word.partition("=")
        bundle = Path(word) if not mark or Path(word).exists() else Path(place)
        name = read_bundle(bundle).name if bundle == Path(word) else name
        if not name or name in found:
            raise PocketspecError(f"{word}: there is a model {name!r} already; write NAME={bundle} for another name")
        found[name] = bundle
    return found


def _serve(
    name: str, engine: Engine, options: argparse.Namespace, speculation: Speculation, longest_text: int
) -> ServedModel:
    from runtime.server.served import ServedModel
    from runtime.server.worker import Worker

    for _ in engine.generate([0], max_new_tokens=1, speculation=speculation):
        pass  # costs are measured now, and not while the first request waits
    worker = Worker(engine, options.max_queue, name)
    worker.start()
    shared.show_suggestion(options)
    return ServedModel(name, engine, worker, longest_text, shared.make_sampling(options, seed=0), speculation)


def _stop(models: ServedModels) -> None:
    for model in models.by_name.values():
        model.worker.stop()
