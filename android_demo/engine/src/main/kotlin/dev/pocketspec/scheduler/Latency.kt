package dev.pocketspec.scheduler

import dev.pocketspec.decoding.Pick
import dev.pocketspec.decoding.Step

/**
 * One possible next step of [method]: it is expected to commit [tokens] in [seconds].
 *
 * [besideSeconds] of these are the drafter's and the loop's, as calibrated, for [drafted] tokens. [nodeSeconds] is the
 * average cost of one more token, where the drafter can stop early (0: it cannot).
 */
internal class Forecast(
    val method: DecodingMethod,
    val pick: Pick,
    val tokens: Double,
    val seconds: Double,
    val besideSeconds: Double,
    val drafted: Double,
    val nodeSeconds: Double,
) {
    val perToken: Double get() = seconds / tokens
}

/**
 * Predicts seconds: [costs] as calibrated, corrected by every measured step, and relative to the slowdown of the
 * machine as a whole, which changes no choice. [target] is the level that verifies, [padded] the rows that it really
 * runs.
 */
internal class Latency(val costs: CostTable, private val target: String, private val padded: (Int) -> Int) {
    private val machine = RunningRatio(0.3, 4.0)
    private val slope = RowSlope()
    private val methodRatios = HashMap<DecodingMethod, RunningRatio>()
    private var lastRows = 0

    /** How many times longer everything takes at the moment than is predicted. */
    val slowdown: Double get() = machine.value

    /** A forward of a level below the target, as calibrated; infinite for one that was not. */
    fun forward(level: String, rows: Int): Double = costs.levels[level]?.of(rows) ?: Double.POSITIVE_INFINITY

    /** A forward of the target. */
    fun target(rows: Int): Double = forward(target, 1) * (1 + slope.value * extra(padded(rows)))

    /** A step without a draft. */
    fun plain(): Double = target(1) + costs.stepSeconds

    fun forecast(
        method: DecodingMethod,
        pick: Pick,
        tokens: Double,
        verifying: Double,
        drafting: Double,
        drafted: Double,
        stopsEarly: Boolean = false,
    ): Forecast {
        val beside = drafting + costs.stepSeconds
        val more = if (stopsEarly) (drafting * correction(method) + verifying - target(1)) / drafted else 0.0
        return Forecast(method, pick, tokens, verifying + beside * correction(method), beside, drafted, more)
    }

    /** Seconds of a step that was taken on [forecast], now that [drafted] tokens were drafted. */
    fun expected(forecast: Forecast, drafted: Int): Double =
        target(1 + drafted) + beside(forecast, drafted) * correction(forecast.method)

    /** Corrects the estimates with a step that was taken on [forecast]. */
    fun update(forecast: Forecast, step: Step) {
        val rows = padded(1 + step.numDrafted)
        // Only what changes from one number of rows to another belongs to the rows; the rest is the machine's.
        val alone = forward(target, 1) * slowdown
        if (lastRows != 0 && lastRows != rows) slope.observe(extra(rows), step.targetSeconds / alone - 1)
        lastRows = rows
        machine.observe(step.targetSeconds / target(rows))
        if (forecast.pick.drafter == null || step.draft.rowsRead > FEW_ROWS) return
        val beside = beside(forecast, step.numDrafted) * slowdown
        val observed = (step.seconds - step.targetSeconds) / beside
        methodRatios.getOrPut(forecast.method) { RunningRatio(0.3, 4.0) }.observe(observed)
    }

    /** How much longer a forward of the target was calibrated to take than one of a single row. */
    private fun extra(rows: Int): Double = forward(target, rows) / forward(target, 1) - 1

    private fun correction(method: DecodingMethod): Double = methodRatios[method]?.value ?: 1.0

    private fun beside(forecast: Forecast, drafted: Int): Double {
        if (forecast.drafted == 0.0) return forecast.besideSeconds
        val drafting = (forecast.besideSeconds - costs.stepSeconds) * drafted / forecast.drafted
        return drafting + costs.stepSeconds
    }
}

/** Rows that a drafter reads anyway after a rejection or a bonus token. */
internal const val FEW_ROWS = 4
