package dev.pocketspec.scheduler

import dev.pocketspec.decoding.Pick
import dev.pocketspec.decoding.Scheduler
import dev.pocketspec.decoding.Step
import dev.pocketspec.drafters.SUFFIX_NAME

// Rates this close count as equal: methods are not changed for less.
private const val NEARLY = 0.98

// A method that was not used for so many tokens may be tried again, unless it could not reach this share of the best
// rate even with every token accepted.
private const val STALE_TOKENS = 16
private const val HOPELESS = 0.6

// A drafter that has not followed the text must read it first; that must pay within so many tokens.
private const val HORIZON_TOKENS = 64.0

// No floor of chances is higher, or nothing would be learnt.
private const val HIGHEST_FLOOR = 0.8

// Plain steps that wrong drafts may lose. With fewer, a processor on which rows are dear never tries a long draft.
private const val MOST_LOST = 3.0

// Choosing may take this share of the time.
private const val CHOOSING = 0.004

/** The circumstances of a choice, which may change between two steps. */
interface Situation {
    /** The most nodes of a draft, and whether it may be a tree. */
    val nodes: Int
    val trees: Boolean

    /** Rows that a level must read before it can draft; null: it is not open. */
    fun behind(level: String): Int?
}

/**
 * Everything that the scheduler has learned of one bundle on this device, kept from answer to answer.
 *
 * [agreements] gives the drafting levels, the one next to the target first, and how often the target is expected to
 * accept their tokens; [padded] the rows that a forward of the level [target] really runs.
 */
class SchedulerState(costs: CostTable, target: String, agreements: Map<String, Double>, padded: (Int) -> Int) {
    internal val latency = Latency(costs, target, padded)
    internal val plain = Plain()
    internal val losses = LossBudget(most = MOST_LOST)
    internal val trials = LossBudget()
    internal var tokens = 0
    private val acceptances = agreements.mapValues { AcceptanceStats(it.value) }
    private val inner = ArrayList<AcceptanceStats>()
    internal val methods: List<DecodingMethod> = listOf(plain, SuffixChains()) +
        acceptances.flatMap { (level, stats) -> listOf(Chains(level, stats), Trees(level, stats)) } +
        agreements.keys.toList().zipWithNext { middle, lower ->
            val judged = AcceptanceStats(agreements.getValue(lower)).also { inner.add(it) }
            Hierarchies(lower, middle, acceptances.getValue(middle), judged)
        }

    internal fun beginAnswer() = (acceptances.values + inner).forEach { it.beginAnswer() }
}

/**
 * Picks the method and draft expected to be fastest, and bounds what may be lost by being wrong about that: the small
 * form of `runtime/scheduler/cost_based.py`. It is the policy for one answer; [clock] gives seconds.
 *
 * Plain decoding is one of the methods, so speculation that does not pay is not used. A loss budget bounds the loss
 * against it whatever was forecast: no draft is begun that could overdraw it if every token were wrong. Methods that
 * are not used are tried again now and then, as far as a second budget allows.
 */
class CostScheduler(
    private val state: SchedulerState,
    private val situation: Situation,
    private val clock: () -> Double = { System.nanoTime() * 1e-9 },
) : Scheduler {
    private val latency = state.latency
    private var main: DecodingMethod? = null
    private var usual = Decision(state.plain.forecast(latency))
    private var decision = usual
    private var left = 0

    init {
        state.beginAnswer()
    }

    override fun pick(last: Step?): Pick {
        if (last != null) observe(last)
        left--
        if (last == null || left < 0) {
            choose()
        } else if (decision.risk > affordable() && !state.losses.isFull) {
            decision = Decision(state.plain.forecast(latency))
        }
        return decision.pick
    }

    /** Settles both budgets for a step, and learns from it. */
    private fun observe(step: Step) {
        val plain = latency.plain()
        val forecast = decision.forecast
        val expected = latency.expected(forecast, step.numDrafted)
        val won = if (forecast.pick.drafter == null) 0.0 else step.tokens.size * plain - expected
        state.losses.settle(won / plain, expected / plain)
        val wonByTrial = decision.trial?.let { step.tokens.size * it.perToken - expected - it.beginSeconds } ?: 0.0
        state.trials.settle(wonByTrial / plain, expected / plain)
        state.tokens += step.tokens.size
        // A trial whose draft was accepted as a whole may be repeated at once.
        val again = decision.trial != null && step.numDrafted > 0 && step.numAccepted == step.numDrafted
        if (!again) forecast.method.latest = state.tokens
        latency.update(forecast, step)
        forecast.method.observe(step)
        if (decision.trial != null) decision = usual
    }

    /** Decides for the best method, or once in a while for a trial of another. */
    private fun choose() {
        val start = clock()
        val candidates = state.methods.mapNotNull { candidate(it) }
        val best = best(candidates)
        main = best.method
        usual = sized(best)
        decision = trial(candidates, best) ?: usual
        left = ((clock() - start) / (CHOOSING * usual.forecast.seconds * latency.slowdown)).toInt()
    }

    /** What a method can do now; null if one of its models is not open, or there is no room for a draft. */
    private fun candidate(method: DecodingMethod): Candidate? {
        var begin = 0.0
        for (level in method.levels) {
            val behind = situation.behind(level) ?: return null
            if (behind > FEW_ROWS) begin += latency.forward(level, behind)
        }
        val forecasts = method.forecasts(situation.nodes, situation.trees, latency)
        if (forecasts.isEmpty()) return null
        // Where even the smallest draft is a large risk, it is taken as soon as the budget is full.
        val most = latency.plain() + affordable()
        val least = if (state.losses.isFull) forecasts.minOf { it.seconds } else most
        return Candidate(method, forecasts, fastest(forecasts.filter { it.seconds <= maxOf(most, least) }), begin)
    }

    /** The fastest; the method in use unless another is clearly faster. */
    private fun best(candidates: List<Candidate>): Candidate {
        val best = candidates.minByOrNull { it.perToken }!!
        val used = candidates.firstOrNull { it.method === main } ?: return best
        return if (NEARLY * used.perToken < best.perToken) used else best
    }

    /**
     * The best draft, shorter where the drafter is not sure: one more token pays if its chance of acceptance exceeds its
     * cost at the rate that is to be had.
     */
    private fun sized(candidate: Candidate): Decision {
        val forecast = candidate.best ?: return Decision(state.plain.forecast(latency))
        val floor = minOf(forecast.nodeSeconds / candidate.perToken, HIGHEST_FLOOR)
        val pick = forecast.pick.copy(limit = forecast.pick.limit.copy(floor = floor))
        return Decision(forecast, forecast.seconds - latency.plain(), pick)
    }

    /** The method that was not tried for longest, with the draft that loses least, if the budgets allow it. */
    private fun trial(candidates: List<Candidate>, best: Candidate): Decision? {
        val plain = latency.plain()
        for (candidate in candidates.sortedBy { it.method.latest }) {
            if (candidate === best || state.tokens - candidate.method.latest < STALE_TOKENS) continue
            if (candidates.any { it !== candidate && it.showsMoreThan(candidate) }) continue
            val highest = candidate.forecasts.maxOf { (1 + it.pick.limit.depth) / it.seconds }
            val forecast = candidate.forecasts.minByOrNull { it.seconds - it.tokens * best.perToken }!!
            val loss = forecast.seconds - forecast.tokens * best.perToken + candidate.beginSeconds
            val risk = forecast.seconds - plain
            val isPaid = loss <= state.trials.affordable * plain && risk <= affordable()
            if (isPaid && highest * best.perToken > HOPELESS) {
                return Decision(forecast, risk, trial = Trial(best.perToken, candidate.beginSeconds))
            }
        }
        return null
    }

    /** Seconds that one step may lose against plain decoding. */
    private fun affordable(): Double = state.losses.affordable * latency.plain()
}

/** A method with all its forecasts and the best of those whose loss is affordable (null: there is none). */
private class Candidate(val method: DecodingMethod, val forecasts: List<Forecast>, val best: Forecast?, val beginSeconds: Double) {
    val perToken = if (best == null) Double.POSITIVE_INFINITY else best.perToken + beginSeconds / HORIZON_TOKENS

    /** Whether it shows all that [other] could show, and is no slower. */
    fun showsMoreThan(other: Candidate): Boolean {
        val isShown = other.method.acceptances.isNotEmpty() && method.acceptances.containsAll(other.method.acceptances)
        return isShown && method !is Trees && perToken <= other.perToken
    }
}

/** A trial is compared with the seconds a token of the best method, and is charged for reading the text. */
private class Trial(val perToken: Double, val beginSeconds: Double)

/** What is done until the next choice; [risk] seconds are lost if no drafted token is accepted. */
private class Decision(val forecast: Forecast, val risk: Double = 0.0, val pick: Pick = forecast.pick, val trial: Trial? = null)

/** The smallest draft among those about as fast as the fastest; null if there are none. */
private fun fastest(forecasts: List<Forecast>): Forecast? {
    val least = forecasts.minOfOrNull { it.perToken } ?: return null
    return forecasts.filter { NEARLY * it.perToken <= least }.minByOrNull { it.pick.limit.nodes }
}
