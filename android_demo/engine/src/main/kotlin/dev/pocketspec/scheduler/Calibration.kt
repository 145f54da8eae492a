package dev.pocketspec.scheduler

import dev.pocketspec.bundle.Progress
import dev.pocketspec.decoding.Context
import dev.pocketspec.decoding.Drafter
import dev.pocketspec.decoding.Drafters
import dev.pocketspec.decoding.GreedyVerifier
import dev.pocketspec.decoding.Loop
import dev.pocketspec.decoding.Model
import dev.pocketspec.decoding.Pick
import dev.pocketspec.decoding.SamplingParams
import dev.pocketspec.decoding.StopRule
import dev.pocketspec.decoding.chainLimit
import dev.pocketspec.decoding.fillCache
import dev.pocketspec.drafters.SUFFIX_LONGEST
import dev.pocketspec.drafters.SuffixDrafter

// Numbers of rows that are timed, as far as a model runs so many, and the turns in which they are.
private val ROWS = intArrayOf(1, 2, 4, 8, 16)
private const val TURNS = 7

// No turn begins that would end later; the first one always runs.
private const val SECONDS = 1.5

private const val TEXT_TOKENS = 64
private const val LOOP_STEPS = 12
private const val SUFFIX_TOKENS = 512
private const val SUFFIX_QUESTIONS = 40

/**
 * Measures what forwards and the loop cost on this device, in a second or two: [levels] by name, of which [target]
 * verifies. It belongs on the engine's thread, before an answer; afterwards the caches are empty. [clock] gives seconds.
 *
 * Levels and rows take turns, so that a slow moment affects all of them. Rows are not padded here: what padding costs
 * follows from the width to which it leads.
 */
class Calibration(
    private val levels: Map<String, Model>,
    private val target: String,
    private val clock: () -> Double = { System.nanoTime() * 1e-9 },
) {
    fun measure(progress: Progress): CostTable {
        try {
            for (model in levels.values) fill(model)
            val times = timeForwards(progress)
            val costs = levels.mapValues { (name, model) ->
                val rows = rowsOf(model)
                RowCosts(rows, DoubleArray(rows.size) { typical(times.getValue(Case(name, rows[it]))) })
            }
            return CostTable(costs, stepSeconds(levels.getValue(target)), suffixSeconds())
        } finally {
            for (model in levels.values) model.cache.rollback(0)
        }
    }

    private data class Case(val level: String, val rows: Int)

    private fun timeForwards(progress: Progress): Map<Case, List<Double>> {
        val cases = levels.flatMap { (name, model) -> rowsOf(model).map { Case(name, it) } }
        val times = cases.associateWith { ArrayList<Double>() }
        for (case in cases) time(case) // warms up
        val start = clock()
        for (turn in 1..TURNS) {
            for (case in cases) times.getValue(case).add(time(case))
            progress.report("measuring this device", turn.toLong(), TURNS.toLong())
            if ((clock() - start) * (turn + 1) / turn > SECONDS) break
        }
        return times
    }

    private fun time(case: Case): Double {
        val model = levels.getValue(case.level)
        val length = model.cache.length
        val tokens = IntArray(case.rows)
        val start = clock()
        // A drafter's plan may have room for the logits of its last row alone.
        model.forward(tokens, logitsFrom = if (case.level == target) 0 else case.rows - 1)
        return (clock() - start).also { model.cache.rollback(length) }
    }

    /** The numbers of rows that really run as they are, since others are padded to those. */
    private fun rowsOf(model: Model): IntArray {
        val fitting = ROWS.filter { it <= model.maxRows && model.padded(it) == it }
        return (fitting.ifEmpty { listOf(model.padded(1)) }).toIntArray()
    }

    /** Lets the model read a short text, as far as it has room for that and a forward. */
    private fun fill(model: Model) {
        model.cache.rollback(0)
        model.prefill(IntArray(minOf(TEXT_TOKENS, (model.cache.capacity - model.maxRows) / 2)))
    }

    /** The loop's own work in a plain step. */
    private fun stepSeconds(model: Model): Double {
        val length = minOf(TEXT_TOKENS, (model.cache.capacity - model.maxRows) / 2)
        val context = Context(length + LOOP_STEPS + 2, SamplingParams())
        context.hold(IntArray(length + 1))
        model.fillCache(context.tokens.part(0, length))
        val loop = Loop(model, context, NO_DRAFTERS, GreedyVerifier(), StopRule())
        val times = ArrayList<Double>()
        while (times.size < LOOP_STEPS && context.size < context.capacity) {
            if (model.cache.length + model.padded(1) > model.cache.capacity) break
            val step = loop.step(Pick(null))
            times.add(step.seconds - step.targetSeconds)
        }
        return typical(times)
    }

    /** One draft of the suffix drafter, in a text that repeats itself. */
    private fun suffixSeconds(): Double {
        val context = Context(SUFFIX_TOKENS, SamplingParams())
        context.hold(IntArray(SUFFIX_TOKENS - SUFFIX_QUESTIONS) { it % TEXT_TOKENS })
        val drafter = SuffixDrafter()
        val times = List(SUFFIX_QUESTIONS) {
            val start = clock()
            drafter.propose(context, chainLimit(SUFFIX_LONGEST))
            (clock() - start).also { context.append(intArrayOf(context.size % TEXT_TOKENS)) }
        }
        return typical(times)
    }
}

/** The median of the faster half: other programs only ever add time. */
private fun typical(seconds: List<Double>): Double {
    if (seconds.isEmpty()) return 0.0
    val faster = seconds.sorted().take((seconds.size + 1) / 2)
    return faster[faster.size / 2]
}

private val NO_DRAFTERS = object : Drafters {
    override fun get(name: String): Drafter = throw IllegalStateException("calibration drafts nothing, not even by $name")
}
