package dev.pocketspec.decoding

/**
 * A view of token ids: [size] of those in [array], from [start] on. It is valid until the owner of the array changes
 * them; nobody else writes to them.
 */
class Tokens(private val array: IntArray, private val start: Int, val size: Int) {
    constructor(tokens: IntArray) : this(tokens, 0, tokens.size)

    init {
        require(start >= 0 && size >= 0 && start + size <= array.size) { "$start + $size of ${array.size}" }
    }

    operator fun get(index: Int): Int = array[start + index]

    /** A view of those from index [from] up to, without, index [until]. */
    fun part(from: Int, until: Int = size): Tokens = Tokens(array, start + from, until - from)

    /** A copy of all of them. */
    fun toIntArray(): IntArray = array.copyOfRange(start, start + size)

    /** Copies all of them to [out], from index [at] on. */
    fun copyTo(out: IntArray, at: Int) {
        System.arraycopy(array, start, out, at, size)
    }

    /** The length of the common prefix with [other]. */
    fun sharedPrefix(other: Tokens): Int {
        val most = minOf(size, other.size)
        var length = 0
        while (length < most && this[length] == other[length]) length++
        return length
    }
}
