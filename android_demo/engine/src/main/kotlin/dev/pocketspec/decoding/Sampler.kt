package dev.pocketspec.decoding

// Every 37th logit is in the sample from which the cut of top_k is estimated; the cut itself is exact.
private const val STRIDE = 37

/**
 * From logits to a token: Hugging Face's settings in Hugging Face's order, as `runtime/decoding/sampling.py` has them,
 * bit for bit. It is for one thread at a time, and keeps arrays as large as the vocabulary.
 *
 * The order is repetition penalty, temperature, top_k, top_p, min_p. If tokens tie at the edge of top_p, all of them
 * stay, so the result does not depend on a sort.
 */
class Sampler {
    private val sums = ExactSums()
    private val nucleus = Nucleus(sums)
    private var logits = FloatArray(0)
    private var kept = IntArray(0)
    private var weights = FloatArray(0)

    /** An array of at least [size] for a row of logits; valid until the next call. */
    fun row(size: Int): FloatArray {
        if (logits.size < size) logits = FloatArray(size)
        return logits
    }

    /**
     * The most probable token after the repetition penalty, the lowest id at a tie. [row] are [size] logits, which the
     * penalty changes; [before] and then [path] are all tokens before it, read only if there is a penalty.
     */
    fun greedyToken(row: FloatArray, size: Int, before: Tokens, path: IntArray, params: SamplingParams): Int {
        penalize(row, size, before, path, params)
        val best = largest(row, size)
        requireNumber(row[best])
        return best
    }

    /**
     * Replaces the [size] logits in [row] by the distribution the next token is drawn from; excluded tokens have
     * exactly 0. The arguments are those of [greedyToken]; the temperature must be above 0. LogitsException if the
     * logits are not numbers.
     */
    fun probabilities(row: FloatArray, size: Int, before: Tokens, path: IntArray, params: SamplingParams) {
        penalize(row, size, before, path, params)
        val top = row[largest(row, size)]
        requireNumber(top)
        if (params.topK !in 1 until size) {
            distribute(row, size, top, params)
            return
        }
        val count = keepLargest(row, size, params.topK)
        distribute(weights, count, top, params)
        java.util.Arrays.fill(row, 0, size, 0f)
        for (place in 0 until count) row[kept[place]] = weights[place]
    }

    /**
     * The token at [u] in [0, 1) of the cumulative [probs], [size] of them, which need not sum to one exactly.
     *
     * Tokens are added up column by column, as [ExactSums] does: up to 512 tokens in their own order. A token of
     * probability zero is never returned.
     */
    fun draw(probs: FloatArray, size: Int, u: Double): Int {
        val count = sums.add(probs, size)
        val columns = sums.columns
        var whole = 0.0
        for (column in 0 until count) whole += columns[column]
        val interval = locate(count, u * whole) { columns[it] }
        if (size < COLUMNS) return interval.index
        val column = interval.index
        val rows = (size - column + COLUMNS - 1) / COLUMNS
        return column + COLUMNS * locate(rows, interval.offset) { probs[column + COLUMNS * it].toDouble() }.index
    }

    private fun penalize(row: FloatArray, size: Int, before: Tokens, path: IntArray, params: SamplingParams) {
        if (params.repetitionPenalty == 1.0) return
        val penalty = params.repetitionPenalty.toFloat()
        val count = before.size + path.size
        val seen = IntArray(count) { if (it < before.size) before[it] else path[it - before.size] }
        // All are computed before any is written: a token may be there twice.
        val values = FloatArray(count) { place ->
            val value = if (seen[place] < size) row[seen[place]] else 0f
            if (value < 0) value * penalty else value / penalty
        }
        for (place in 0 until count) if (seen[place] < size) row[seen[place]] = values[place]
    }

    /** Replaces [size] logits, the largest of which is [top], by their distribution. */
    private fun distribute(row: FloatArray, size: Int, top: Float, params: SamplingParams) {
        for (token in 0 until size) row[token] -= top
        raiseTwo(row, size, LOG2_E / params.temperature) // probabilities up to a factor: exactly 1 at the top
        var floor = params.minP
        if (params.topP < 1) floor = maxOf(floor, nucleus.floor(row, size, params.topP).toDouble())
        val least = floor.toFloat()
        for (token in 0 until size) if (row[token] < least) row[token] = 0f
        val whole = sums.total(row, size).toFloat()
        for (token in 0 until size) row[token] /= whole
    }

    /** Writes the tokens whose logits are at least the [k]-th largest to [kept], and those to [weights]. */
    private fun keepLargest(row: FloatArray, size: Int, k: Int): Int {
        if (kept.size < size) {
            kept = IntArray(size)
            weights = FloatArray(size)
        }
        val least = kthLargest(row, size, k)
        var count = 0
        for (token in 0 until size) {
            if (row[token] >= least) {
                kept[count] = token
                weights[count++] = row[token]
            }
        }
        return count
    }

    /**
     * The k-th largest entry. A sample suggests a cut that leaves a few hundred more than k candidates; if it leaves
     * fewer than k, the whole row is searched.
     */
    private fun kthLargest(row: FloatArray, size: Int, k: Int): Float {
        val sample = FloatArray((size + STRIDE - 1) / STRIDE) { row[it * STRIDE] }.apply { sort() }
        val rank = k / STRIDE + 8 + 4 * Math.sqrt((k / STRIDE).toDouble()).toInt()
        var count = size
        if (rank < sample.size) {
            count = gather(row, size, sample[sample.size - rank])
            if (count < k) count = size
        }
        if (count == size) System.arraycopy(row, 0, weights, 0, size)
        java.util.Arrays.sort(weights, 0, count)
        return weights[count - k]
    }

    /** Copies those of [row] that are at least [least] to [weights]; returns how many. */
    private fun gather(row: FloatArray, size: Int, least: Float): Int {
        var count = 0
        for (token in 0 until size) if (row[token] >= least) weights[count++] = row[token]
        return count
    }
}

/** The interval number [index] of cumulative weights, and the [offset] in it. */
private class Interval(val index: Int, val offset: Double)

/** The interval of [count] cumulative weights that contains [point], never an empty one. */
private inline fun locate(count: Int, point: Double, weight: (Int) -> Double): Interval {
    var begin = 0.0
    var lastIndex = 0
    var lastBegin = 0.0
    for (index in 0 until count) {
        val size = weight(index)
        val end = begin + size
        if (end > point) return Interval(index, point - begin)
        if (size != 0.0) {
            lastIndex = index
            lastBegin = begin
        }
        begin = end
    }
    // Rounding put the point at or past the end.
    return Interval(lastIndex, point - lastBegin)
}

/** The place of the largest of [size] logits, the first at a tie; of the first NaN if there is one. */
private fun largest(row: FloatArray, size: Int): Int {
    var best = 0
    var top = row[0]
    for (token in 0 until size) {
        val value = row[token]
        if (value > top) {
            top = value
            best = token
        } else if (value.isNaN()) {
            return token
        }
    }
    return best
}

private fun requireNumber(top: Float) {
    if (!top.isNaN() && !top.isInfinite()) return
    throw LogitsException(
        "the largest logit is $top: the model overflowed or its weights are damaged;" +
            " import the bundle again, or export it with fp32 caches",
    )
}
