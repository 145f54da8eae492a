package dev.pocketspec.models

import dev.pocketspec.decoding.Cache
import dev.pocketspec.decoding.ContextFullException
import dev.pocketspec.decoding.Tokens
import java.nio.ByteBuffer

/**
 * The KV cache of one model: rows at fixed addresses, and a length that changes.
 *
 * Rows past the length are forgotten without being touched, so rollback costs nothing; only a tree needs copies, of the
 * rows of the accepted path. [capacity] may be less than the [reserved] rows of the block, which decide where rows lie.
 */
class KvCache(block: ArenaBlock, private val signature: Signature, private val reserved: Int) : Cache {
    /** Keys and values of every layer, each `[1, kv_heads, reserved, row]`, in the graph's order. */
    val arrays: List<ByteBuffer> = signature.kvInputs.indices.map { block.view("kv", it) }

    override var capacity = reserved
        private set
    override var length = 0
        private set
    private val held = IntArray(reserved)
    private val sources = arrays.map { it.duplicate() }

    override val tokens: Tokens get() = Tokens(held, 0, length)

    override fun require(rows: Int) {
        if (length + rows <= capacity) return
        throw ContextFullException(
            "$rows more rows do not fit a cache of $capacity that holds $length: shorten the text, or choose a longer context.",
        )
    }

    /** Changes the capacity, within the reserved rows; what is held must fit. */
    fun limit(rows: Int) {
        require(rows in length..reserved) { "$rows rows, $length held, $reserved reserved" }
        capacity = rows
    }

    /** Adds the rows of the first [count] of [tokens] from [start] on, which a forward has just written. */
    fun append(tokens: IntArray, start: Int, count: Int) {
        System.arraycopy(tokens, start, held, length, count)
        length += count
    }

    override fun rollback(length: Int, kept: IntArray) {
        check(length in 0..this.length) { "$length of ${this.length} rows" }
        check(kept.isEmpty() || kept[0] >= length && kept.last() < this.length) { "rows ${kept.joinToString()} of ${this.length}" }
        var place = 0
        while (place < kept.size) {
            var count = 1
            while (place + count < kept.size && kept[place + count] == kept[place] + count) count++
            if (kept[place] != length + place) move(kept[place], length + place, count)
            place += count
        }
        this.length = length + kept.size
    }

    /** Copies what [other] holds, whose rows lie elsewhere, and takes over its length. */
    fun copyFrom(other: KvCache) {
        val rowBytes = signature.kvRowBytes
        arrays.forEachIndexed { index, array ->
            val source = other.arrays[index].duplicate()
            for (head in 0 until signature.kvHeads) {
                copy(source, head * other.reserved * rowBytes, array, head * reserved * rowBytes, other.length * rowBytes)
            }
        }
        System.arraycopy(other.held, 0, held, 0, other.length)
        length = other.length
    }

    private fun move(from: Int, to: Int, count: Int) {
        val rowBytes = signature.kvRowBytes
        for (index in arrays.indices) {
            for (head in 0 until signature.kvHeads) {
                val base = head * reserved
                copy(sources[index], (base + from) * rowBytes, arrays[index], (base + to) * rowBytes, count * rowBytes)
            }
        }
        System.arraycopy(held, from, held, to, count)
    }

    private fun copy(source: ByteBuffer, from: Int, target: ByteBuffer, to: Int, bytes: Int) {
        source.limit(from + bytes)
        source.position(from)
        target.limit(to + bytes)
        target.position(to)
        target.put(source)
        source.clear()
        target.clear()
    }
}
