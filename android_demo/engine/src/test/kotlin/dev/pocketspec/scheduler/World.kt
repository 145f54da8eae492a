package dev.pocketspec.scheduler

import dev.pocketspec.decoding.Draft
import dev.pocketspec.decoding.DraftLimit
import dev.pocketspec.decoding.Pick
import dev.pocketspec.decoding.Scheduler
import dev.pocketspec.decoding.Shape
import dev.pocketspec.decoding.Step
import dev.pocketspec.decoding.makeChain
import java.util.Random

/**
 * A simulated device and text for schedulers: steps with the costs and acceptances it is given, no clock and no model.
 *
 * [costs] are what a calibration found, milliseconds by rows and level. [chances] are those that a level's token is
 * what the target says, "lower>middle" what the intermediate accepts; they and [machine], how many times slower
 * everything is, may depend on the number of tokens so far. [real] are the true costs of levels where the calibration
 * was mistaken.
 */
class World(
    val costs: Map<String, Map<Int, Double>>,
    private val chances: Map<String, (Int) -> Double>,
    private val machine: (Int) -> Double = { 1.0 },
    real: Map<String, Map<Int, Double>> = emptyMap(),
    val trees: Boolean = true,
    private val noise: Double = 0.05,
    seed: Long = 0,
) {
    // The first numbers of neighbouring seeds are alike.
    private val random = Random(Random(seed * 7919 + 17).apply { repeat(8) { nextLong() } }.nextLong())
    private val table = (costs + real).mapValues { rowCosts(it.value) }
    var tokens = 0
        private set

    fun calibrated() = CostTable(costs.mapValues { rowCosts(it.value) }, STEP_SECONDS, SUFFIX_SECONDS)

    /** What a token takes now that is decoded plainly. */
    fun plainSeconds(): Double = table.getValue("target").of(1) * machine(tokens) + STEP_SECONDS

    fun step(pick: Pick): Step {
        val limit = pick.limit
        val below = ArrayList<Step>()
        var drafting = 0.0
        var first = true
        val (drafted, accepted) = when {
            pick.drafter == null -> Pair(0, 0)
            pick.drafter == "suffix" -> (if (random.nextDouble() < chance("suffix")) 3 else 0).let { Pair(it, it) }
            ">" in pick.drafter!! -> hierarchy(pick, below).let { Pair(it, walk(chance(middle(pick)), it)) }
            limit.shape == Shape.CHAIN -> {
                val found = chain(chance(pick.drafter!!), limit)
                repeat(found.first) { drafting += forward(pick.drafter!!, 1) }
                found
            }
            else -> {
                for (depth in 0 until limit.depth) {
                    drafting += forward(pick.drafter!!, maxOf(1, limit.nodes * depth / limit.depth))
                }
                first = random.nextDouble() < chance(pick.drafter!!)
                Pair(limit.nodes, if (first) 1 + treeRest(pick) else treeMiss(pick))
            }
        }
        drafting += below.sumOf { it.seconds }
        val target = forward("target", 1 + drafted)
        tokens += accepted + 1
        val draft = draft(drafted, below)
        val seconds = target + drafting + STEP_SECONDS
        val fresh = IntArray(accepted + 1)
        val isFirst = first && accepted > 0
        return Step(fresh, emptyList(), accepted, drafting, target, seconds, null, pick, draft, isFirst)
    }

    private fun draft(drafted: Int, below: List<Step>): Draft = makeChain(IntArray(drafted), below = below)

    private fun hierarchy(pick: Pick, below: MutableList<Step>): Int {
        val (lower, middle) = pick.drafter!!.split(">")
        val inner = pick.limit.inner!!
        var drafted = 0
        while (drafted < maxOf(1, pick.limit.depth - inner.depth)) {
            val accepted = walk(chance(pick.drafter!!), inner.depth)
            var seconds = forward(middle, 1 + inner.nodes) + STEP_SECONDS
            repeat(inner.depth) { seconds += forward(lower, 1) }
            drafted = minOf(drafted + accepted + 1, pick.limit.depth)
            val judged = draft(inner.nodes, emptyList())
            below.add(Step(IntArray(accepted + 1), emptyList(), accepted, 0.0, 0.0, seconds, draft = judged))
        }
        return drafted
    }

    /** Tokens drafted and accepted: every token has a chance of its own, which the drafter knows. */
    private fun chain(chance: Double, limit: DraftLimit): Pair<Int, Int> {
        var survival = 1.0
        var accepted = 0
        var stands = true
        for (drafted in 1..limit.nodes) {
            val own = beta(2 * chance + 1e-6, 2 * (1 - chance) + 1e-6)
            survival *= own
            stands = stands && random.nextDouble() < own
            if (stands) accepted++
            if (Math.pow(survival, 1 + 1.0 / drafted) < limit.floor) return Pair(drafted, accepted)
        }
        return Pair(limit.nodes, accepted)
    }

    /** A number with the beta distribution (Joehnk 1964). */
    private fun beta(a: Double, b: Double): Double {
        while (true) {
            val x = Math.pow(random.nextDouble(), 1 / a)
            val y = Math.pow(random.nextDouble(), 1 / b)
            if (x + y > 0 && x + y <= 1) return x / (x + y)
        }
    }

    /** How many of [length] tokens stand, each with [chance] if those before it do. */
    private fun walk(chance: Double, length: Int): Int {
        var stands = 0
        while (stands < length && random.nextDouble() < chance) stands++
        return stands
    }

    /** Below the first depth: as many tokens on average as expected. */
    private fun treeRest(pick: Pick): Int = walk(anyChild(pick), pick.limit.depth - 1)

    private fun treeMiss(pick: Pick): Int {
        val chance = chance(pick.drafter!!)
        val sibling = if (chance >= 1) 0.0 else maxOf(anyChild(pick) - chance, 0.0) / (1 - chance)
        return if (random.nextDouble() < sibling) 1 + treeRest(pick) else 0
    }

    /** The chance that one of the children is right with which a walk down brings what a tree does on average. */
    private fun anyChild(pick: Pick): Double {
        val limit = pick.limit
        val chance = chance(pick.drafter!!)
        return EVEN.getOrPut(Triple(chance, limit.depth, limit.nodes)) {
            val mean = 1 + treeCurve(DoubleArray(limit.depth) { chance }, limit.nodes).last()
            var low = 0.0
            var high = 1.0
            repeat(30) {
                val middle = (low + high) / 2
                if (chainTokens(DoubleArray(limit.depth) { middle }) < mean) low = middle else high = middle
            }
            low
        }
    }

    private fun middle(pick: Pick): String = pick.drafter!!.substringAfter(">")

    private fun chance(name: String): Double = chances[name]?.invoke(tokens) ?: 0.0

    private fun forward(level: String, rows: Int): Double =
        table.getValue(level).of(rows) * machine(tokens) * Math.exp(noise * random.nextGaussian())

    companion object {
        const val STEP_SECONDS = 1e-4
        const val SUFFIX_SECONDS = 5e-5
        private val EVEN = HashMap<Triple<Double, Int, Int>, Double>()

        private fun rowCosts(milliseconds: Map<Int, Double>): RowCosts {
            val rows = milliseconds.keys.sorted()
            return RowCosts(rows.toIntArray(), DoubleArray(rows.size) { milliseconds.getValue(rows[it]) / 1e3 })
        }
    }
}

/** One step: its tokens, its seconds and those that plain decoding would have taken for a token, at that moment. */
class Moment(val start: Int, val tokens: Int, val seconds: Double, val plain: Double, val choice: String)

/** Steps until there are [tokens] more. */
fun World.moments(tokens: Int, scheduler: Scheduler): List<Moment> {
    val end = this.tokens + tokens
    val found = ArrayList<Moment>()
    var last: Step? = null
    while (this.tokens < end) {
        val start = this.tokens
        val plain = plainSeconds()
        last = step(scheduler.pick(last))
        found.add(Moment(start, last.tokens.size, last.seconds, plain, last.pick.name))
    }
    return found
}

/** The rate over that of plain decoding meanwhile. */
fun speedup(moments: List<Moment>): Double = moments.sumOf { it.tokens * it.plain } / moments.sumOf { it.seconds }

/** The least such rate over any [tokens] tokens behind [start]. */
fun worstWindow(moments: List<Moment>, tokens: Int = 100, start: Int = 32): Double {
    val late = moments.filter { it.start >= start }
    var worst = Double.POSITIVE_INFINITY
    var first = 0
    var count = 0
    var seconds = 0.0
    var plain = 0.0
    for (moment in late) {
        count += moment.tokens
        seconds += moment.seconds
        plain += moment.tokens * moment.plain
        while (count - late[first].tokens >= tokens) {
            val old = late[first++]
            count -= old.tokens
            seconds -= old.seconds
            plain -= old.tokens * old.plain
        }
        if (count >= tokens) worst = minOf(worst, plain / seconds)
    }
    return worst
}

/** What somebody might have chosen for all steps. */
fun fixedPicks(world: World): List<Pick> {
    val levels = world.costs.keys.filter { it != "target" }
    val chains = listOf(1, 2, 3, 4, 5, 7, 9, 12).map { DraftLimit(it, it) }
    val trees = listOf(4 to 2, 6 to 3, 8 to 3, 12 to 4).map { (nodes, depth) -> DraftLimit(nodes, depth, Shape.TREE) }
    val single = levels.flatMap { level -> (chains + if (world.trees) trees else emptyList()).map { Pick(level, it) } }
    val stacked = levels.zipWithNext { middle, lower ->
        listOf(3, 5, 7, 9, 12).flatMap { length ->
            listOf(1, 2, 3).map { Pick("$lower>$middle", DraftLimit(length, length, inner = DraftLimit(it, it))) }
        }
    }
    return single + stacked.flatten() + Pick(null) + Pick("suffix", DraftLimit(7, 7))
}
