package dev.pocketspec.models

/**
 * [widths], increasing: the numbers of rows that may be run. [exact]: whether they agree bit for bit. [tree]: whether a
 * path inside a tree also agrees with the same path run as a chain.
 */
class SafeWidths(val widths: IntArray, val exact: Boolean, val tree: Boolean) {
    /** The smallest width of at least [rows]; if there is none, more than any model has. */
    fun pad(rows: Int): Int {
        for (width in widths) if (width >= rows) return width
        return NO_WIDTH
    }

    companion object {
        private const val NO_WIDTH = 1 shl 30

        /** All widths up to [maxRows], untested: for drafters, whose last bits do not matter. */
        fun any(maxRows: Int): SafeWidths = SafeWidths(IntArray(maxRows) { it + 1 }, exact = false, tree = false)
    }
}
