package dev.pocketspec.decoding

import dev.pocketspec.bundle.PocketspecException

/** More tokens than the cache has rows, or than the context allows. */
class ContextFullException(message: String) : PocketspecException(message)

/** Logits from which no distribution can be made: not a number, or infinite. */
class LogitsException(message: String) : PocketspecException(message)

/** A drafter whose model returned invalid logits; [drafter] is its name. Decoding continues without it. */
class DraftException(val drafter: String, reason: LogitsException) :
    PocketspecException("drafter $drafter: ${reason.message}")

/** A sampling setting outside its range. */
class SamplingException(message: String) : PocketspecException(message)
