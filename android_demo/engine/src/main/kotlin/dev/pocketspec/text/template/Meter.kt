package dev.pocketspec.text.template

/**
 * Counts the work of one rendering against its limits, which are those of `runtime/text/template_meter.py`.
 *
 * Templates are programs of strangers: two nested loops run for hours, and a text that is doubled thirty times takes a
 * gigabyte. [size] is the number of characters that the template is given.
 */
internal class Meter(size: Int) {
    private val most = OPERATIONS + OPERATIONS_PER_CHARACTER * size
    private var left = most
    private var depth = 0

    /** The longest text or list that may be made. */
    val mostText: Long = TEXT + TEXT_PER_CHARACTER * size

    /** Counts [operations]. */
    fun charge(operations: Long = 1) {
        left -= operations
        if (left < 0) throw LimitException("it takes more than $most operations")
    }

    /** Counts a text or list of [length] that is about to be made. */
    fun text(length: Long) {
        if (length > mostText) throw LimitException("it makes a text or list of $length, allowed are $mostText")
        charge(length / CHARACTERS)
    }

    /** Counts a text, and returns it. */
    fun made(text: String): String = text.also { text(it.length.toLong()) }

    /** Runs [act] one call deeper: macros may call themselves. */
    inline fun <T> deeper(act: () -> T): T {
        enter()
        try {
            return act()
        } finally {
            leave()
        }
    }

    fun enter() {
        if (++depth > MOST_DEPTH) throw LimitException("its calls or values are nested more than $MOST_DEPTH deep")
    }

    fun leave() {
        depth--
    }

    private companion object {
        const val OPERATIONS = 1_000_000L
        const val OPERATIONS_PER_CHARACTER = 20L
        const val TEXT = 1_000_000L
        const val TEXT_PER_CHARACTER = 8L
        const val CHARACTERS = 16L
        const val MOST_DEPTH = 100
    }
}
