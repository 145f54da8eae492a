package dev.pocketspec.decoding

/**
 * Guesses what follows the committed tokens. It is not told which guesses were accepted.
 *
 * A drafter with a state compares it with the tokens of the context at every call and keeps the common prefix. So a
 * rejected draft, a new turn and another conversation are all the same to it.
 */
interface Drafter {
    val name: String

    /**
     * A draft of at most [limit] that follows the last committed token; it may be empty.
     *
     * DraftException if its model is broken.
     */
    fun propose(context: Context, limit: DraftLimit): Draft
}

/** Finds drafters by name. */
interface Drafters {
    operator fun get(name: String): Drafter
}
