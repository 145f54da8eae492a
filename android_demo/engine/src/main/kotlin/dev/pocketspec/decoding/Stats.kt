package dev.pocketspec.decoding

/**
 * One answer, so far or complete, computed from its steps.
 *
 * [promptTokens] were given, [cachedTokens] of them were still in the KV cache. [sources] counts the answer's tokens by
 * who proposed them, "target" for those that were not drafted. Times are in seconds: [draftSeconds] and [targetSeconds]
 * within the steps, [stepSeconds] of the steps as a whole, [firstTokenSeconds] from the call to the end of the first
 * step, [seconds] from the call to now. [finish] is "eos", "stop", "length", "context", "cancelled", or null while it
 * goes on.
 */
data class Stats(
    val promptTokens: Int = 0,
    val cachedTokens: Int = 0,
    val tokens: Int = 0,
    val steps: Int = 0,
    val drafted: Int = 0,
    val accepted: Int = 0,
    val sources: Map<String, Int> = emptyMap(),
    val draftSeconds: Double = 0.0,
    val targetSeconds: Double = 0.0,
    val stepSeconds: Double = 0.0,
    val firstTokenSeconds: Double = 0.0,
    val seconds: Double = 0.0,
    val finish: String? = null,
) {
    /** These statistics with one more step, which ended [now] seconds after the call. */
    fun after(step: Step, now: Double): Stats {
        val counts = LinkedHashMap(sources)
        for (source in step.sources) counts[source] = (counts[source] ?: 0) + 1
        return copy(
            tokens = tokens + step.tokens.size,
            steps = steps + 1,
            drafted = drafted + step.numDrafted,
            accepted = accepted + step.numAccepted,
            sources = counts,
            draftSeconds = draftSeconds + step.draftSeconds,
            targetSeconds = targetSeconds + step.targetSeconds,
            stepSeconds = stepSeconds + step.seconds,
            firstTokenSeconds = if (steps > 0) firstTokenSeconds else now,
            seconds = now,
            finish = step.finish,
        )
    }

    /** Tokens of the answer per forward of the target; 1 is plain decoding. */
    val tokensPerStep: Double get() = ratio(tokens.toDouble(), steps.toDouble())

    /** The share of drafted tokens that were accepted. */
    val acceptanceRate: Double get() = ratio(accepted.toDouble(), drafted.toDouble())

    /** Tokens per second of the steps alone, without the prompt. */
    val decodeTokensPerSecond: Double get() = ratio(tokens.toDouble(), stepSeconds)

    /** Tokens per second from the call to now, the prompt included. */
    val tokensPerSecond: Double get() = ratio(tokens.toDouble(), seconds)
}

private fun ratio(amount: Double, of: Double): Double = if (of > 0) amount / of else 0.0
