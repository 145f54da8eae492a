package dev.pocketspec.scheduler

// Weight of a step relative to the one after it, and of the latest few that are compared with the estimate.
private const val MEMORY = 0.992
private const val LATEST = 0.8
private const val LONG_MEMORY = 0.998

// A difference like this, 2 to 3 standard deviations, replaces the estimate.
private const val SURPRISE = 0.4
private const val PRIOR_WEIGHT = 8.0
private const val POOLED_WEIGHT = 4.0
private const val MOST_DEPTH = 32

/**
 * Running estimates of how often one drafter's tokens are accepted, depth by depth: the small form of
 * `runtime/scheduler/acceptance_stats.py`. [prior] is expected before the first step.
 *
 * With few observations a depth is drawn towards the estimate over all depths, and that one towards the prior. Where
 * the latest steps clearly contradict the estimate, only they count.
 */
internal class AcceptanceStats(prior: Double) {
    private val depths = Array(MOST_DEPTH) { Share(MEMORY) }
    private val all = Share(MEMORY)

    // The long run survives a change: a bad paragraph ends.
    private val long = Share(LONG_MEMORY).apply { add(prior * PRIOR_WEIGHT, PRIOR_WEIGHT) }
    private val latest = Share(LATEST).apply { add(prior * 5, 5.0) }
    private val latestFirst = Share(LATEST).apply { add(prior * 5, 5.0) }
    private var gainAccepted = PRIOR_WEIGHT
    private var gainExpected = PRIOR_WEIGHT

    /** How many times more nodes of trees are accepted than if siblings were independent. */
    val treeGain: Double get() = gainAccepted / gainExpected

    /** The chances that tokens at the first [depth] depths are accepted, given that all before them are. */
    fun chances(depth: Int): DoubleArray {
        val pooled = all.towards(long.value, PRIOR_WEIGHT)
        return DoubleArray(depth) { depths[minOf(it, MOST_DEPTH - 1)].towards(pooled, POOLED_WEIGHT) }
    }

    /** A chain [drafted] tokens long, of which the first [accepted] stood. */
    fun observe(accepted: Int, drafted: Int) {
        val reached = minOf(accepted + 1, drafted, MOST_DEPTH)
        if (reached == 0) return
        val stood = minOf(accepted, reached).toDouble()
        all.add(stood, reached.toDouble())
        long.add(stood, reached.toDouble())
        latest.add(stood, reached.toDouble())
        for (depth in 1 until reached) depths[depth].add(if (depth < accepted) 1.0 else 0.0, 1.0)
        observeFirst(accepted > 0)
    }

    /** A tree of which [accepted] nodes stood where [expected] were expected; [first]: its first choice did. */
    fun observeTree(accepted: Int, expected: Double, first: Boolean) {
        gainAccepted = gainAccepted * MEMORY + accepted
        gainExpected = gainExpected * MEMORY + expected
        // Behind the first token a tree is deep only where the drafter is sure: that says nothing about chains.
        observeFirst(first)
    }

    /** The next text may be of another kind. */
    fun beginAnswer() = keep(0.75)

    private fun observeFirst(stood: Boolean) {
        latestFirst.add(if (stood) 1.0 else 0.0, 1.0)
        depths[0].add(if (stood) 1.0 else 0.0, 1.0)
        if (Math.abs(latestFirst.value - chances(1)[0]) <= SURPRISE) return
        keep(0.0)
        all.add(latest.stood, latest.seen)
        depths[0].add(latestFirst.stood, latestFirst.seen)
    }

    private fun keep(share: Double) {
        all.keep(share)
        depths.forEach { it.keep(share) }
    }
}

/** How many of the tokens [seen] have [stood]; each addition multiplies the weight of the old ones by [memory]. */
internal class Share(private val memory: Double) {
    var stood = 0.0
        private set
    var seen = 0.0
        private set

    val value: Double get() = stood / seen

    fun add(stood: Double, seen: Double) {
        this.stood = this.stood * memory + stood
        this.seen = this.seen * memory + seen
    }

    fun keep(share: Double) {
        stood *= share
        seen *= share
    }

    /** The share, drawn towards [known] as if that had been seen in [weight] tokens. */
    fun towards(known: Double, weight: Double): Double = (stood + weight * known) / (seen + weight)
}
