package dev.pocketspec.decoding

// Fewer candidates than this are sorted, which then costs less than another pass.
private const val FEW = 2048

/**
 * The edge of top_p, by the same operations as `_nucleus_floor` of `runtime/decoding/sampling.py`.
 *
 * It is a search for a quantile. While there are many candidates, a sample brackets the smallest weight, and the mass
 * above the bracket is added up; the remaining candidates are sorted.
 */
internal class Nucleus(private val sums: ExactSums) {
    private var pool = FloatArray(0)
    private var above = 0.0
    private var below = 0.0

    /**
     * The smallest weight of the nucleus: the fewest, largest of the [size] [weights] that together have [topP] of the
     * sum.
     */
    fun floor(weights: FloatArray, size: Int, topP: Double): Float {
        pool = weights.copyOf(size)
        above = 0.0
        below = 0.0
        val whole = sums.total(pool)
        val mass = topP * whole
        while (pool.size > FEW && narrow(whole, mass)) Unit
        val ascending = pool.apply { sort() }
        pool = FloatArray(0)
        var sum = 0.0
        for (place in ascending.indices.reversed()) {
            sum += ascending[place].toDouble()
            if (above + sum >= mass) return ascending[place]
        }
        return ascending[0]
    }

    /** Narrows the candidates to those on one side of a bracket or within it; returns false if it separates none. */
    private fun narrow(whole: Double, mass: Double): Boolean {
        val (low, high) = bracket(whole - mass - below)
        val upper = count { it > high }
        val upperMass = sums.total(masked(upper) { it > high })
        if (above + upperMass >= mass && upper > 0) {
            below = whole - above - upperMass
            pool = gathered(upper) { it > high }
            return true
        }
        val middle = gathered(count { it >= low } - upper) { it >= low && !(it > high) }
        val middleMass = sums.total(middle)
        val hasMore = above + upperMass + middleMass < mass
        val lower = if (hasMore) count { it < low } else 0
        // Ties, which no bracket separates, or a sum that rounding made too small.
        if (middle.size == pool.size || (hasMore && lower == 0)) return false
        above += upperMass
        if (hasMore) {
            above += middleMass
            pool = gathered(lower) { it < low }
        } else {
            below = whole - above - middleMass
            pool = middle
        }
        return true
    }

    /**
     * Two weights that probably enclose the cut which leaves [mass] of the pool below it.
     *
     * They are estimated from the small end of a sample, which misses the few largest weights that often have most of
     * the mass.
     */
    private fun bracket(mass: Double): Pair<Float, Float> {
        val step = maxOf(1, pool.size / FEW)
        val sample = FloatArray((pool.size + step - 1) / step) { pool[it * step] }.apply { sort() }
        val scale = pool.size.toDouble() / sample.size
        var rank = 0
        var sum = 0.0
        while (rank < sample.size) {
            sum += sample[rank].toDouble()
            if (sum * scale >= mass) break
            rank++
        }
        val slack = sample.size / 32
        return Pair(
            sample[maxOf(minOf(rank, sample.size - 1) - slack, 0)],
            sample[minOf(rank + slack, sample.size - 1)],
        )
    }

    /**
     * What to add up for the sum of the [count] weights that are [wanted]: these alone if they are few, else all, with
     * zeros for the others. The order of additions, and so the last bits of the sum, differ between the two.
     */
    private inline fun masked(count: Int, wanted: (Float) -> Boolean): FloatArray {
        if (count < pool.size / 8) return gathered(count, wanted)
        return FloatArray(pool.size) { if (wanted(pool[it])) pool[it] else 0f }
    }

    private inline fun gathered(count: Int, wanted: (Float) -> Boolean): FloatArray {
        val found = FloatArray(count)
        var place = 0
        for (weight in pool) if (wanted(weight)) found[place++] = weight
        return found
    }

    private inline fun count(wanted: (Float) -> Boolean): Int {
        var found = 0
        for (weight in pool) if (wanted(weight)) found++
        return found
    }
}
