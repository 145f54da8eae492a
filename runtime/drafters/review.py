"""What a draft model would have guessed of text that came without its help.

A drafter that was not in use reads that text before it drafts again. The logits of those rows say at each place whether
it would have drafted the token that stands there, so it shows what it is worth now without a step that tries it out.
Under sampling that takes a draw for every row, and is left out.
"""

from __future__ import annotations

from runtime.arrays import FloatArray, TokenArray
from runtime.decoding.context import Context
from runtime.drafters.vocabulary import SharedVocabulary

# After a whole draft that was accepted a drafter lacks the last token of it and the target's own, which says nothing
# new. So text of others begins with more rows than this.
OWN_ROWS = 2


def is_reviewable(context: Context) -> bool:
    """Whether a guess is greedy and depends on the text before it alone."""
    params = context.sampling
    return context.constraint is None and params.temperature == 0 and params.repetition_penalty == 1.0


def right_guesses(tokens: TokenArray, logits: FloatArray, vocabulary: SharedVocabulary) -> tuple[bool, ...]:
    """Whether each of ``tokens``, int32 ``[n]``, is the most probable by ``logits``, float32 ``[n, columns]``.

    These are the logits of ``vocabulary`` at the rows before the tokens.
    """
    return tuple((vocabulary.greedy_tokens(logits) == tokens).tolist())
