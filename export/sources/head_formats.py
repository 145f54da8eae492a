"""Published heads that are no models and that no runtime here can run yet: they are refused by what they are.

Medusa (arXiv 2401.10774) and Hydra (arXiv 2402.05109) publish heads alone: a ``config.json`` that names the model they
were trained on and counts them, beside weights that are usually pickled. Both read the target's last hidden row.
"""

from __future__ import annotations

from pathlib import Path

from export.manifest import PocketspecError
from export.sources.vocabulary import read_json
from export.untrusted import shown

_COUNTS = {"medusa_num_heads": "Medusa", "hydra_num_heads": "Hydra"}


class HeadFormatError(PocketspecError, ValueError):
    """A checkpoint of heads that cannot be run."""


def refuse_heads(folder: Path) -> None:
    """HeadFormatError if the checkpoint in ``folder`` has Medusa or Hydra heads."""
    config = read_json(folder / "config.json")
    for key, kind in _COUNTS.items():
        if key in config:
            base = shown(config.get("base_model_name_or_path", "another model"))
            raise HeadFormatError(
                f"{folder} has {shown(config[key])} {kind} heads for {base}, which cannot be run yet: give a small"
                f" model of the target's family or a PARD checkpoint as --drafter (a whole model without its heads:"
                f" delete {key} from its config.json)"
            )
