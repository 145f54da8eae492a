package dev.pocketspec.decoding

/**
 * A model without weights, whose every answer hangs on the content of its cache, as `tests/runtime/table_model.py`.
 *
 * A row's logits come from a table, looked up with the last two tokens and a signature of the whole path, and all of
 * that is read from the cache row of its parent. A row that rollback forgot, moved wrongly or left stale gives other
 * logits.
 */
class TableModel(
    private val table: FloatArray,
    private val tableVocab: Int,
    override val vocabSize: Int = tableVocab,
    capacity: Int = 96,
    override val maxRows: Int = 12,
    private val paddingStep: Int = 1,
) : Model {
    override val takesTrees = true
    override val cache = TableCache(capacity)
    var broken = false
    var seed = 0L
        private set

    override fun padded(rows: Int): Int = (rows + paddingStep - 1) / paddingStep * paddingStep

    override fun prefill(tokens: IntArray) {
        cache.require(tokens.size)
        for (token in tokens) append(intArrayOf(token), intArrayOf(-1))
    }

    override fun forward(tokens: IntArray, parents: IntArray?, logitsFrom: Int): Logits {
        val width = padded(tokens.size)
        check(logitsFrom in 0 until tokens.size && width <= maxRows) { "$logitsFrom of ${tokens.size} rows" }
        cache.require(width)
        val starts = append(tokens, parents ?: IntArray(tokens.size) { it - 1 })
        cache.spoil(width - tokens.size)
        return TableLogits(starts.copyOfRange(logitsFrom, starts.size))
    }

    private fun append(tokens: IntArray, parents: IntArray): IntArray {
        val past = cache.length
        val starts = IntArray(tokens.size) { row ->
            check(parents[row] in -1 until row)
            val before = past + parents[row]
            val above = if (before < 0) 0 else cache.row(before, SIGNATURE)
            val signature = (above * 31 + tokens[row] * 7 + 1) % SIGNATURES
            val lastToken = if (before < 0) 0 else cache.row(before, 0)
            val position = if (before < 0) 0 else cache.row(before, 1) + 1
            cache.write(past + row, intArrayOf(tokens[row], position, signature, lastToken))
            ((signature % 3 * tableVocab + tokens[row]) * tableVocab + lastToken) * tableVocab
        }
        cache.append(tokens)
        return starts
    }

    private inner class TableLogits(private val starts: IntArray) : Logits {
        override val rows get() = starts.size
        override val vocabSize get() = this@TableModel.vocabSize

        override fun read(row: Int, out: FloatArray, count: Int) {
            System.arraycopy(table, starts[row], out, 0, count)
            if (broken) out[0] = Float.NaN
        }
    }

    companion object {
        private const val SIGNATURE = 2
        private const val SIGNATURES = 1 shl 20
        const val LARGEST_VOCAB = 16

        /** A model that agrees with the others the more, the larger [share] is. */
        fun of(
            share: Int,
            seed: Long,
            vocabSize: Int = 11,
            capacity: Int = 96,
            maxRows: Int = 12,
            paddingStep: Int = 1,
        ): TableModel {
            val size = 3 * LARGEST_VOCAB * LARGEST_VOCAB * LARGEST_VOCAB
            val own = Numbers(seed).bell(size)
            val table = Numbers(1).bell(size)
            for (place in table.indices) table[place] = table[place] * share + own[place]
            return TableModel(table, LARGEST_VOCAB, vocabSize, capacity, maxRows, paddingStep).also { it.seed = seed }
        }
    }
}

/** A cache of four numbers a row: token, position, signature of the path, the token before. */
class TableCache(override val capacity: Int) : Cache {
    private val rows = Array(capacity) { IntArray(4) }
    private val held = IntArray(capacity)
    override var length = 0
        private set
    override val tokens get() = Tokens(held, 0, length)

    /** The rows that are held. */
    fun content(): List<List<Int>> = rows.take(length).map { it.toList() }

    fun row(index: Int, field: Int): Int = rows[index][field]

    fun write(index: Int, row: IntArray) {
        rows[index] = row
    }

    fun append(tokens: IntArray) {
        System.arraycopy(tokens, 0, held, length, tokens.size)
        length += tokens.size
    }

    /** What dummy rows leave behind. */
    fun spoil(count: Int) {
        for (row in length until length + count) rows[row] = intArrayOf(-1, -1, -1, -1)
    }

    override fun require(rows: Int) {
        if (length + rows > capacity) throw ContextFullException("$rows more rows do not fit, of $capacity")
    }

    override fun rollback(length: Int, kept: IntArray) {
        check(length in 0..this.length)
        kept.forEachIndexed { place, row ->
            check(row in length until this.length && (place == 0 || row > kept[place - 1]))
            rows[length + place] = rows[row]
            held[length + place] = held[row]
        }
        for (row in length + kept.size until this.length) rows[row] = intArrayOf(-2, -2, -2, -2)
        this.length = length + kept.size
    }
}
