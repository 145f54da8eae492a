package dev.pocketspec.decoding

/** The KV cache of one model: the tokens whose rows it holds, and its capacity in rows. */
interface Cache {
    val capacity: Int
    val length: Int

    /** The tokens whose rows are held, [length] of them; valid until the next change. */
    val tokens: Tokens

    /** Makes sure that [rows] more rows may be written; ContextFullException if they do not fit. */
    fun require(rows: Int)

    /**
     * Forgets all rows past [length], except the rows [kept], which are moved to the end of what remains.
     *
     * They are cache indices, increasing: holding 10 rows, `rollback(6, [6, 8])` leaves 8, and row 8 becomes row 7.
     */
    fun rollback(length: Int, kept: IntArray = NO_TOKENS)
}

/** The logits of the [rows] rows of one forward over [vocabSize] tokens; valid until the model's next forward. */
interface Logits {
    val rows: Int
    val vocabSize: Int

    /** Writes the logits of the first [count] tokens in row [row] to the beginning of [out]. */
    fun read(row: Int, out: FloatArray, count: Int = vocabSize)
}

/** A model, for drafters and the decoding loop. [maxRows] limits a forward, padding included. */
interface Model {
    val vocabSize: Int
    val maxRows: Int
    val takesTrees: Boolean
    val cache: Cache

    /** Rows that a forward of [rows] rows runs, padding included; the cache must have room for them. */
    fun padded(rows: Int): Int

    /**
     * Runs [tokens] after the cache and appends their rows to it; returns the logits from row [logitsFrom] on.
     *
     * `parents[i] < i` is the row that row i follows, -1 the cache itself; null: each row follows the one before.
     */
    fun forward(tokens: IntArray, parents: IntArray? = null, logitsFrom: Int = 0): Logits

    /** Appends the rows of any number of [tokens] to the cache, without logits. */
    fun prefill(tokens: IntArray)
}

/** How many of the [wanted] rows one forward can run now, padding included. */
fun Model.fittingRows(wanted: Int): Int {
    val room = minOf(maxRows, cache.capacity - cache.length)
    var rows = minOf(wanted, room)
    while (rows > 0 && padded(rows) > room) rows--
    return rows
}

/** No tokens, or no rows. */
val NO_TOKENS = IntArray(0)
