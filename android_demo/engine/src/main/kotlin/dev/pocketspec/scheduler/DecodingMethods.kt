package dev.pocketspec.scheduler

import dev.pocketspec.decoding.DraftLimit
import dev.pocketspec.decoding.NOTHING
import dev.pocketspec.decoding.Pick
import dev.pocketspec.decoding.Shape
import dev.pocketspec.decoding.Step
import dev.pocketspec.decoding.chainLimit
import dev.pocketspec.drafters.SUFFIX_LONGEST
import dev.pocketspec.drafters.SUFFIX_NAME
import java.util.PriorityQueue

// What is forecast: depths of trees, lengths of chains of hierarchies and of the drafts within.
private val DEPTHS = 2..5
private val LENGTHS = listOf(2, 3, 4, 5, 6, 8, 10, 12)
private val INNER = listOf(1, 2, 3, 5)

// Weight of a step relative to the one after it.
private const val MEMORY = 0.992

/** A drafter (null: plain decoding) with drafts of one shape, and what a step of it brings and costs. */
internal abstract class DecodingMethod(val drafter: String?, vararg val levels: String) {
    /** What it learns of acceptance; methods may share it. Trees show the first depth alone. */
    open val acceptances: Set<AcceptanceStats> = emptySet()

    /** The total of tokens, over all answers, when it was last picked. */
    var latest = Int.MIN_VALUE / 2

    /** The forecasts of all drafts of at most [nodes] that are worth one. */
    abstract fun forecasts(nodes: Int, trees: Boolean, latency: Latency): List<Forecast>

    /** Learns from a step. */
    open fun observe(step: Step) = Unit
}

/** No draft, one row and one token a step. */
internal class Plain : DecodingMethod(null) {
    fun forecast(latency: Latency): Forecast =
        latency.forecast(this, Pick(null, NOTHING), 1.0, latency.target(1), 0.0, 0.0)

    override fun forecasts(nodes: Int, trees: Boolean, latency: Latency) = listOf(forecast(latency))
}

/** Chains of the suffix drafter: asking costs little, a draft comes at times. */
internal class SuffixChains : DecodingMethod(SUFFIX_NAME) {
    // Before the first step: one question in ten brings a draft, of three tokens, of which half is accepted.
    private val hits = Share(MEMORY).apply { add(1.0, 10.0) }
    private val drafted = Share(MEMORY).apply { add(6.0, 2.0) }
    private val accepted = Share(MEMORY).apply { add(3.0, 2.0) }

    override fun forecasts(nodes: Int, trees: Boolean, latency: Latency): List<Forecast> {
        val longest = minOf(nodes, SUFFIX_LONGEST)
        if (longest == 0) return emptyList()
        val count = minOf(Math.round(drafted.value).toInt(), longest)
        val verifying = (1 - hits.value) * latency.target(1) + hits.value * latency.target(1 + maxOf(1, count))
        val tokens = 1 + hits.value * minOf(accepted.value, longest.toDouble())
        val pick = Pick(drafter, chainLimit(longest))
        return listOf(latency.forecast(this, pick, tokens, verifying, latency.costs.suffixSeconds, 0.0))
    }

    override fun observe(step: Step) {
        hits.add(if (step.numDrafted > 0) 1.0 else 0.0, 1.0)
        if (step.numDrafted == 0) return
        drafted.add(step.numDrafted.toDouble(), 1.0)
        accepted.add(step.numAccepted.toDouble(), 1.0)
    }
}

/** Chains of the draft model [level]. */
internal class Chains(private val level: String, private val acceptance: AcceptanceStats) :
    DecodingMethod(level, level) {
    override val acceptances = setOf(acceptance)

    override fun forecasts(nodes: Int, trees: Boolean, latency: Latency) = (1..nodes).map { length ->
        val tokens = chainTokens(acceptance.chances(length))
        val drafting = length * latency.forward(level, 1)
        val pick = Pick(drafter, chainLimit(length))
        latency.forecast(this, pick, tokens, latency.target(1 + length), drafting, length.toDouble(), true)
    }

    override fun observe(step: Step) = acceptance.observe(step.numAccepted, step.numDrafted)
}

/** Trees of the draft model [level], grown depth by depth; each forward reads the nodes of all depths above again. */
internal class Trees(private val level: String, private val acceptance: AcceptanceStats) :
    DecodingMethod(level, level) {
    override val acceptances = setOf(acceptance)

    override fun forecasts(nodes: Int, trees: Boolean, latency: Latency): List<Forecast> {
        if (!trees) return emptyList()
        return DEPTHS.flatMap { depth ->
            val accepted = treeCurve(acceptance.chances(depth), nodes)
            (depth + 1..nodes step 2).map { forecast(DraftLimit(it, depth, Shape.TREE), accepted[it], latency) }
        }
    }

    private fun forecast(limit: DraftLimit, accepted: Double, latency: Latency): Forecast {
        val drafting = (0 until limit.depth).sumOf { depth ->
            latency.forward(level, maxOf(1, limit.nodes * depth / limit.depth))
        }
        val tokens = 1 + minOf(accepted * acceptance.treeGain, limit.depth.toDouble())
        val verifying = latency.target(1 + limit.nodes)
        return latency.forecast(this, Pick(drafter, limit), tokens, verifying, drafting, limit.nodes.toDouble())
    }

    override fun observe(step: Step) {
        val limit = step.pick.limit
        if (step.numDrafted == 0) return
        val expected = treeCurve(acceptance.chances(limit.depth), limit.nodes)[limit.nodes]
        acceptance.observeTree(step.numAccepted, expected, step.firstAccepted)
    }
}

/** Chains of the level [middle], sped up by the level [lower]; [outer] and [inner] are what target and middle accept. */
internal class Hierarchies(
    private val lower: String,
    private val middle: String,
    private val outer: AcceptanceStats,
    private val inner: AcceptanceStats,
) : DecodingMethod("$lower>$middle", lower, middle) {
    override val acceptances = setOf(outer, inner)

    override fun forecasts(nodes: Int, trees: Boolean, latency: Latency): List<Forecast> =
        INNER.flatMap { below -> LENGTHS.filter { it <= nodes }.map { forecast(it, below, latency) } }

    /** The intermediate's steps, of which each brings as many tokens, go on until another could bring too many. */
    private fun forecast(length: Int, below: Int, latency: Latency): Forecast {
        val brought = chainTokens(inner.chances(below))
        val steps = Math.ceil(maxOf(1, length - below) / brought)
        val drafted = minOf(Math.round(steps * brought).toInt(), length)
        val tokens = chainTokens(outer.chances(drafted))
        val judged = latency.forward(middle, 1 + below) + below * latency.forward(lower, 1) + latency.costs.stepSeconds
        val pick = Pick(drafter, chainLimit(length, chainLimit(below)))
        return latency.forecast(this, pick, tokens, latency.target(1 + drafted), steps * judged, drafted.toDouble())
    }

    override fun observe(step: Step) {
        outer.observe(step.numAccepted, step.numDrafted)
        for (below in step.draft.below) inner.observe(below.numAccepted, below.numDrafted)
    }
}

/** Tokens that a step with a chain commits on average, the target's own included: 1 + c1 + c1 c2 + ... */
internal fun chainTokens(chances: DoubleArray): Double {
    var total = 1.0
    var survival = 1.0
    for (chance in chances) {
        survival *= chance
        total += survival
    }
    return total
}

/**
 * The nodes that are accepted on average of the best trees of 0, 1, .. [most] nodes.
 *
 * At a depth with chance c the drafter's choice of rank r is taken to be right with probability c (1 - c)^r, whatever
 * stands before it.
 */
internal fun treeCurve(chances: DoubleArray, most: Int): DoubleArray {
    val curve = DoubleArray(most + 1)
    // The probabilities of paths that may be added next, and their depths.
    val open = PriorityQueue(11, compareByDescending<Pair<Double, Int>> { it.first })
    open.add(Pair(chances[0], 0))
    for (nodes in 1..most) {
        val (share, depth) = open.remove()
        curve[nodes] = curve[nodes - 1] + share
        if (depth + 1 < chances.size) open.add(Pair(share * chances[depth + 1], depth + 1))
        open.add(Pair(share * (1 - chances[depth]), depth))
    }
    return curve
}
