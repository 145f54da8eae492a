"""The engine: what users open. All other rooms meet here.

``engine`` is the public face, ``answering`` decodes one answer after another with the open models. Import ``Engine``,
``TextChunk`` and ``TokenLogprob`` from here, anything else from the room that it is of.
"""

from runtime.decoding.logprobs import TokenLogprob
from runtime.decoding.text_chunks import TextChunk
from runtime.engine.engine import Engine

__all__ = ["Engine", "TextChunk", "TokenLogprob"]
