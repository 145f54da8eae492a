package dev.pocketspec.text

/** Which pairs of tokens become one, and in which order: a hash table from pairs to ranks. */
internal class Merges(capacity: Int) {
    private val keys = LongArray(Integer.highestOneBit(maxOf(8, capacity * 2)) * 2) { EMPTY }
    private val ranks = IntArray(keys.size)
    private val made = IntList(capacity)

    /** Adds the next merge: [left] and [right] become [result]. A pair that comes twice has its last rank. */
    fun add(left: Int, right: Int, result: Int) {
        val slot = slot(key(left, right))
        keys[slot] = key(left, right)
        ranks[slot] = made.size
        made.add(result)
    }

    /** The rank of the merge of [left] and [right]; -1 if there is none. */
    fun rank(left: Int, right: Int): Int {
        val slot = slot(key(left, right))
        return if (keys[slot] == EMPTY) -1 else ranks[slot]
    }

    /** The token that the merge of [rank] makes. */
    fun result(rank: Int): Int = made[rank]

    private fun key(left: Int, right: Int): Long = left.toLong() shl 32 or right.toLong()

    private fun slot(key: Long): Int {
        var slot = ((key * MIX) ushr 40).toInt() and (keys.size - 1)
        while (keys[slot] != EMPTY && keys[slot] != key) slot = (slot + 1) and (keys.size - 1)
        return slot
    }

    private companion object {
        const val EMPTY = -1L
        const val MIX = -0x61c8864680b583ebL
    }
}
