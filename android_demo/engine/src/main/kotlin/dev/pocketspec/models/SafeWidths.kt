package dev.pocketspec.models

import dev.pocketspec.json.Json

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

    /** As JSON, which [parse] reads. */
    fun toJson(): String = Json.write(mapOf("widths" to widths.map { it.toLong() }, "exact" to exact, "tree" to tree))

    companion object {
        private const val NO_WIDTH = 1 shl 30

        /** What [toJson] wrote for a model of [maxRows] rows; JsonException if it is something else. */
        fun parse(text: String, maxRows: Int): SafeWidths {
            val data = Json.parseObject(text)
            val widths = data.ints("widths", 1..maxRows)
            if (widths.isEmpty() || (1 until widths.size).any { widths[it] <= widths[it - 1] }) data.fail("widths", "increasing")
            return SafeWidths(widths, data.boolean("exact"), data.boolean("tree"))
        }

        /** All widths up to [maxRows], untested: for drafters, whose last bits do not matter. */
        fun any(maxRows: Int): SafeWidths = SafeWidths(IntArray(maxRows) { it + 1 }, exact = false, tree = false)
    }
}
