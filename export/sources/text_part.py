"""The text part of models that also see or hear: its configuration, and the names of its tensors.

Such a checkpoint wraps a decoder of text: its configuration lies in ``text_config``, its tensors under a prefix. Given
text alone the wrapper computes what that decoder does. The other parts (vision, audio, projectors) are left out.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from export.manifest import PocketspecError

# What wrappers put before the names of the text model's tensors, and before those of its head.
_WRAPPED = re.compile(r"^(?:model\.(?:language_model|text_model)|language_model\.model)\.")
_WRAPPED_HEAD = re.compile(r"^language_model\.(?=lm_head\.)")
# Drafters for one model: transformers has their text part, but none of its layers has a KV cache.
_ASSISTANTS = ("gemma4_assistant", "gemma4_unified_assistant")
# What wrappers say of all their parts.
_COMMON = ("tie_word_embeddings", "quantization_config")


class NoTextError(PocketspecError, ValueError):
    """A model without a decoder of text that could be exported."""


def text_config(config: Any) -> Any:
    """The configuration of the decoder of text within ``config``: a copy, or ``config`` itself if it is one.

    NoTextError if transformers has no such decoder. Encoders with a decoder are returned as they are.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    text = config.get_text_config()
    if config.model_type in _ASSISTANTS:
        raise NoTextError(
            f"{config.model_type}: all its layers read the KV cache of the model that it drafts for, which is not"
            " supported; name another drafter"
        )
    if getattr(config, "is_encoder_decoder", False):
        return config
    if MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(text.model_type) is None:
        raise NoTextError(
            f"{config.model_type}: transformers has no decoder of text for it; models that only see or hear are not"
            " exported, nor those whose text part is no model of its own"
        )
    if text is config:
        return config
    text = copy.deepcopy(text)
    for attribute in _COMMON:
        if (value := getattr(config, attribute, None)) is not None:
            setattr(text, attribute, value)
    return text


def own_name(tensor: str) -> str:
    """The name that the text model by itself has for a tensor of a wrapper; others keep theirs."""
    return _WRAPPED_HEAD.sub("", _WRAPPED.sub("model.", tensor))
