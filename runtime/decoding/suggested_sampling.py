"""The sampling settings that a checkpoint's makers suggest, read from ``generation_config.json`` as transformers does.

Answers are greedy unless other settings are asked for, so a suggestion is shown, and used on request. Some checkpoints
(such as Qwen3) repeat themselves without end when their reasoning is decoded greedily.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.manifest import PocketspecError
from export.untrusted import MOST_TEXT, UntrustedError, parse_json, read_text_within
from runtime.bundle.foreign import GENAI_FILE_NAME
from runtime.decoding.sampling import SamplingError, SamplingParams

FILE_NAME = "generation_config.json"
# transformers' defaults for a checkpoint that samples and does not give them (5.24, GenerationConfig).
_SAMPLED = {"temperature": 1.0, "top_k": 50}
_WHOLE = ("top_k",)
_NAMES = ("temperature", "top_k", "top_p", "min_p")
# Other settings that change tokens in transformers and are not supported here, each with its values that change
# nothing.
_LEFT_OUT: dict[str, tuple[Any, ...]] = {
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "bad_words_ids": ([],),
}


@dataclass(frozen=True)
class Suggestion:
    """``sampling`` as suggested, with seed 0; ``left_out`` names suggested settings that are not supported here."""

    sampling: SamplingParams
    left_out: tuple[str, ...] = ()

    def describe(self) -> str:
        """The difference from greedy decoding, as in ``temperature 0.6, top_k 20, top_p 0.95``."""
        shown = {name: getattr(self.sampling, name) for name in (*_NAMES, "repetition_penalty")}
        return ", ".join(f"{name} {value:g}" for name, value in shown.items() if value != getattr(_GREEDY, name))


_GREEDY = SamplingParams()


def read_suggestion(bundle: Path) -> Suggestion | None:
    """The suggestion of the files in ``bundle``; None if it is greedy decoding. SamplingError for impossible values."""
    config, where = _read_config(bundle)
    values = {"repetition_penalty": config.get("repetition_penalty")}
    if config.get("do_sample") is True:
        values |= {name: config[name] if config.get(name) is not None else _SAMPLED.get(name) for name in _NAMES}
    given = {name: value for name, value in values.items() if value is not None}
    try:
        sampling = SamplingParams(**{name: _number(name, value) for name, value in given.items()})
    except (SamplingError, TypeError) as error:
        raise SamplingError(f"{where}: {error}") from None
    left_out = [name for name, neutral in _LEFT_OUT.items() if config.get(name) not in (None, *neutral)]
    return None if sampling == _GREEDY and not left_out else Suggestion(sampling, tuple(left_out))


def _number(name: str, value: Any) -> Any:
    """A number from JSON, which may write 20 as 20.0, and 1.0 as 1."""
    if name in _WHOLE and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _read_config(bundle: Path) -> tuple[dict[str, Any], Path]:
    """The checkpoint's settings, or those that another builder made of them."""
    for name in (FILE_NAME, GENAI_FILE_NAME):
        path = bundle / name
        if not path.is_file():
            continue
        try:
            config = parse_json(read_text_within(bundle, name, MOST_TEXT))
        except UntrustedError as error:
            raise PocketspecError(f"{path} {error}; make the bundle again") from None
        config = config.get("search") if name == GENAI_FILE_NAME and isinstance(config, dict) else config
        return config if isinstance(config, dict) else {}, path
    return {}, bundle
