package dev.pocketspec.decoding

/**
 * A drafter's guess: a tree of tokens. `tokens[i]` is node i, `parents[i] < i` its parent, -1 the anchor, which is the
 * last committed token. In the target's forward the anchor is row 0 and node i is row i + 1; only this file knows that.
 *
 * [expected] is the drafter's estimate of how many tokens will be accepted, if it makes one, and [chances] its
 * estimates for every node, given that all nodes above are accepted. [source] names the drafter. [below] are the steps
 * of a hierarchy's intermediate. [rowsRead] counts rows of the drafter's model that only caught up with the text,
 * without the row of the last token.
 */
class Draft(
    val tokens: IntArray = NO_TOKENS,
    val parents: IntArray = NO_TOKENS,
    val expected: Double? = null,
    val source: String = "",
    val chances: DoubleArray = NO_CHANCES,
    val below: List<Step> = emptyList(),
    val rowsRead: Int = 0,
) {
    val size: Int get() = tokens.size

    /** Whether every node is the only child of the node before it. */
    val isChain: Boolean get() = parents.indices.all { parents[it] == it - 1 }

    /** The most tokens along one path. */
    val depth: Int
        get() {
            val depths = IntArray(size)
            for (node in parents.indices) depths[node] = 1 + if (parents[node] >= 0) depths[parents[node]] else 0
            return depths.maxOrNull() ?: 0
        }

    /** The first child of [node] (-1: the anchor) for which [wanted] holds, or null. */
    fun child(node: Int, wanted: (Int) -> Boolean = { true }): Int? =
        parents.indices.firstOrNull { parents[it] == node && wanted(it) }

    /** The drafted tokens down to [node]; none for the anchor. */
    fun path(node: Int): IntArray {
        var depth = 0
        var above = node
        while (above >= 0) {
            depth++
            above = parents[above]
        }
        val path = IntArray(depth)
        above = node
        while (above >= 0) {
            path[--depth] = tokens[above]
            above = parents[above]
        }
        return path
    }

    /**
     * The parent row of each row of the target's forward, in which [before] rows precede the anchor's; null for a
     * chain.
     *
     * Nodes A, B, C with parents -1, -1, 0 become rows anchor, A, B, C with parent rows -1, 0, 0, 1.
     */
    fun parentRows(before: Int): IntArray? {
        if (isChain) return null
        return IntArray(before + 1 + size) { row ->
            if (row <= before) row - 1 else before + rowOf(parents[row - before - 1])
        }
    }
}

/** The target's row of [node], whose logits follow it (-1: the anchor's row, 0). */
fun rowOf(node: Int): Int = node + 1

/** A draft without branches. */
fun makeChain(
    tokens: IntArray,
    source: String = "",
    chances: DoubleArray = NO_CHANCES,
    below: List<Step> = emptyList(),
    rowsRead: Int = 0,
): Draft = Draft(tokens, IntArray(tokens.size) { it - 1 }, null, source, chances, below, rowsRead)

/** No estimates. */
val NO_CHANCES = DoubleArray(0)
