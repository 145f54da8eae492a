package dev.pocketspec.drafters

import dev.pocketspec.decoding.Tokens

/** The lengths of context that are indexed. The short one finds every match. */
internal const val SHORT = 2

// Finds long matches that are not among the latest short ones.
private const val LONG = 6

// The number of occurrences that are read for each length: the latest ones.
private const val MAX_OCCURRENCES = 24

// Longer matches count as this many tokens.
private const val MAX_MATCH = 16

// 0x9E3779B97F4A7C15 as a signed number.
private const val BASE = -0x61c8864680b583ebL

/** An earlier place that equals the end of the context in [match] tokens, and the tokens after it. */
internal class Occurrence(val match: Int, val continuation: Tokens)

/**
 * The positions after every sequence of 2 and of 6 tokens, for at most [capacity] tokens: hash chains as in LZ77.
 *
 * Tokens are removed in reverse order, which undoes their additions.
 */
internal class SuffixIndex(val capacity: Int) {
    private val tokens = IntArray(capacity)
    private var length = 0

    // Those of the first i tokens.
    private val hashes = LongArray(capacity + 1)
    private val bits = maxOf(1, 32 - Integer.numberOfLeadingZeros(capacity - 1))
    private val tables = arrayOf(Chains(LONG), Chains(SHORT))

    /** [heads] maps the hash of n tokens to the latest position after them, [links] a position to the one before it. */
    private inner class Chains(val n: Int) {
        val heads = IntArray(1 shl bits)
        val links = IntArray(capacity)
        private val power = (1..n).fold(1L) { product, _ -> product * BASE }

        /** The table entry for the n tokens before [position]: the top bits of their hash. */
        fun slot(position: Int): Int {
            val hashed = hashes[position] - hashes[position - n] * power
            return ((hashed * BASE) ushr (64 - bits)).toInt()
        }
    }

    /** Indexes [wanted] in place of the earlier tokens; keeps the common prefix. */
    fun update(wanted: Tokens) {
        val shared = Tokens(tokens, 0, length).sharedPrefix(wanted)
        for (position in length - 1 downTo shared) remove(position)
        for (position in shared until wanted.size) {
            tokens[position] = wanted[position]
            hashes[position + 1] = hashes[position] * BASE + wanted[position] + 1
            add(position)
        }
        length = wanted.size
    }

    /**
     * Earlier places that match at least the last two tokens, each with up to [depth] tokens after it.
     *
     * The longest match comes first, among equal lengths the latest.
     */
    fun occurrences(depth: Int): List<Occurrence> =
        positions().map { Pair(matchLength(it), it) }.filter { it.first >= SHORT }
            .sortedWith(compareByDescending<Pair<Int, Int>> { it.first }.thenByDescending { it.second })
            .map { (match, place) -> Occurrence(match, Tokens(tokens, place, minOf(depth, length - place))) }

    /** The latest positions for both lengths; some may be hash collisions. */
    private fun positions(): Set<Int> {
        val found = LinkedHashSet<Int>()
        for (table in tables) {
            if (length < table.n) continue
            var position = table.heads[table.slot(length)]
            for (count in 0 until MAX_OCCURRENCES) {
                if (position == 0) break
                found.add(position)
                position = table.links[position]
            }
        }
        return found
    }

    /** The number of tokens before [position] that equal the context's last ones, at most 16. */
    private fun matchLength(position: Int): Int {
        val most = minOf(position, MAX_MATCH)
        var match = 0
        while (match < most && tokens[position - 1 - match] == tokens[length - 1 - match]) match++
        return match
    }

    private fun add(position: Int) {
        for (table in tables) {
            if (position < table.n) continue
            val slot = table.slot(position)
            table.links[position] = table.heads[slot]
            table.heads[slot] = position
        }
    }

    private fun remove(position: Int) {
        for (table in tables) {
            if (position >= table.n) table.heads[table.slot(position)] = table.links[position]
        }
    }
}
