package dev.pocketspec.decoding

import dev.pocketspec.bundle.PocketspecException

/**
 * Passes text on up to the first stop string; [found] is the string.
 *
 * If several occur, the one that ends first counts, and of those the one that begins first. Text that could still
 * become a stop string is held back until it cannot.
 */
class StopText(private val strings: List<String> = emptyList()) {
    private var held = ""

    var found: String? = null
        private set

    init {
        if (strings.any { it.isEmpty() }) throw PocketspecException("a stop string must not be empty")
    }

    /** Adds text; returns what may be shown now and has not been shown before. */
    fun feed(added: String): String {
        if (found != null) return ""
        val text = held + added
        val first = strings.filter { it in text }.minWithOrNull(
            compareBy<String> { text.indexOf(it) + it.length }.thenBy { text.indexOf(it) },
        )
        if (first != null) {
            found = first
            held = ""
            return text.substring(0, text.indexOf(first))
        }
        val shown = text.length - numHeld(text)
        held = text.substring(shown)
        return text.substring(0, shown)
    }

    /** The text that is still held back, when no more follows. */
    fun flush(): String = held.also { held = "" }

    /** The length of the longest end of [text] that begins a stop string. */
    private fun numHeld(text: String): Int {
        val longest = (strings.map { it.length }.maxOrNull() ?: 1) - 1
        for (length in minOf(longest, text.length) downTo 1) {
            val end = text.substring(text.length - length)
            if (strings.any { it.startsWith(end) }) return length
        }
        return 0
    }
}
