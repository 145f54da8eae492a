"""Published heads that are no models: what counts them in a configuration.

Medusa (arXiv 2401.10774) and Hydra (arXiv 2402.05109) publish heads alone: a ``config.json`` that names the model they
were trained on and counts them. They are drafters of that model (``export.heads.stack_formats``), and nothing else.
"""

from __future__ import annotations

from pathlib import Path

from export.manifest import PocketspecError
from export.sources.vocabulary import read_json
from export.untrusted import shown

COUNTS = {"medusa_num_heads": "Medusa", "hydra_num_heads": "Hydra"}


class HeadFormatError(PocketspecError, ValueError):
    """A checkpoint of heads where a model is wanted."""


def refuse_heads(folder: Path) -> None:
    """HeadFormatError if the checkpoint in ``folder`` has Medusa or Hydra heads."""
    config = read_json(folder / "config.json")
    for key, kind in COUNTS.items():
        if key in config:
            base = shown(config.get("base_model_name_or_path", "another model"))
            raise HeadFormatError(
                f"{folder} has {shown(config[key])} {kind} heads for {base} and is no model: give it as --drafter of a"
                f" --target with that model (a whole model without its heads: delete {key} from its config.json)"
            )
