package dev.pocketspec.decoding

/**
 * The committed tokens of a conversation, at most [capacity], and the current [sampling] settings.
 *
 * Drafters and verifiers read it; only the decoding loop and the engine write it. If it holds only the end of a
 * conversation, [first] tokens come before.
 */
class Context(val capacity: Int, var sampling: SamplingParams, var first: Int = 0) {
    private val buffer = IntArray(capacity)

    /** How many tokens are committed. */
    var size = 0
        private set

    /** The position of the next token in the conversation, which determines its random numbers. */
    val position: Int get() = first + size

    /** A view of the committed tokens, [size] of them, valid until the next change. */
    val tokens: Tokens get() = Tokens(buffer, 0, size)

    /** The last committed token. */
    val last: Int get() = buffer[size - 1]

    /** Holds [tokens] in place of what it held: a prompt, or what is kept of it and its answer. */
    fun hold(tokens: IntArray) {
        size = 0
        append(tokens)
    }

    /** Commits [tokens] of the answer. */
    fun append(tokens: IntArray) {
        System.arraycopy(tokens, 0, buffer, size, tokens.size)
        size += tokens.size
    }

    /** Forgets every token past [length]. */
    fun truncate(length: Int) {
        size = minOf(size, length)
    }
}

/** ContextFullException unless a prompt of [numTokens] leaves room for an answer in a context of [capacity]. */
fun requireRoom(numTokens: Int, capacity: Int) {
    if (numTokens in 1 until capacity) return
    throw ContextFullException(
        "a prompt of $numTokens tokens; allowed are 1 to ${capacity - 1} in a context of $capacity:" +
            " shorten the text or plan a larger context",
    )
}
