package dev.pocketspec.text

import dev.pocketspec.bundle.PocketspecException

/** A tokenizer file that cannot be read, or has parts that this app does not know, or a text that it cannot encode. */
class TokenizerException(message: String) : PocketspecException(message)
