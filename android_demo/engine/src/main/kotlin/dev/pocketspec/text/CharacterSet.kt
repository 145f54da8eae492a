package dev.pocketspec.text

/** A set of characters in a pattern: categories as bits, white space or its opposite, and ranges; perhaps negated. */
internal class CharacterSet(
    private val categories: Int,
    private val hasSpace: Boolean,
    private val hasOthersThanSpace: Boolean,
    private val ranges: IntArray,
    private val isNegated: Boolean,
) {
    private val ascii = BooleanArray(128) { decide(it) }

    operator fun contains(code: Int): Boolean = if (code < 128) ascii[code] else decide(code)

    private fun decide(code: Int): Boolean = isMember(code) != isNegated

    private fun isMember(code: Int): Boolean {
        for (place in ranges.indices step 2) if (code >= ranges[place] && code <= ranges[place + 1]) return true
        if (hasSpace || hasOthersThanSpace) {
            if (if (Unicode.isSpace(code)) hasSpace else hasOthersThanSpace) return true
        }
        return categories != 0 && categories shr Unicode.category(code) and 1 == 1
    }

    /** Collects what a set consists of. */
    class Builder {
        private var categories = 0
        private var hasSpace = false
        private var hasOthersThanSpace = false
        private val ranges = IntList(4)

        fun categories(bits: Int) = apply { categories = categories or bits }

        fun space(isOpposite: Boolean) = apply { if (isOpposite) hasOthersThanSpace = true else hasSpace = true }

        fun range(first: Int, last: Int) = apply {
            ranges.add(first)
            ranges.add(last)
        }

        fun build(isNegated: Boolean = false) =
            CharacterSet(categories, hasSpace, hasOthersThanSpace, ranges.toArray(), isNegated)
    }
}
