package dev.pocketspec.decoding

import dev.pocketspec.bundle.PocketspecException
import dev.pocketspec.text.TextStream

/**
 * The end of one answer: at an end token of [eos], at one of [strings], or after [maxNewTokens].
 *
 * Tokens are read one by one, so an answer ends at the same token for any division into steps. Tokens up to the one
 * that completes a stop string stand. [cut] is called once for every step, with the tokens of the answer so far.
 * [stream] decodes the answer's tokens to look for the strings; it belongs to this rule alone.
 */
class StopRule(
    private val eos: Set<Int> = emptySet(),
    private val maxNewTokens: Int? = null,
    strings: List<String> = emptyList(),
    private val stream: TextStream? = null,
) : StoppingCriterion {
    private val text = if (strings.isEmpty()) null else StopText(strings)

    init {
        if (maxNewTokens != null && maxNewTokens < 1) {
            throw PocketspecException("the most new tokens are $maxNewTokens; it must be at least 1")
        }
        if (text != null && stream == null) throw PocketspecException("stop strings need a tokenizer")
    }

    override fun cut(generated: List<Int>, fresh: Int): Cut {
        val before = generated.size - fresh
        for (index in 0 until fresh) {
            val reason = endsAt(generated[before + index], before + index + 1)
            if (reason != null) return Cut(index + 1, reason)
        }
        return Cut(fresh)
    }

    private fun endsAt(token: Int, length: Int): String? {
        if (token in eos) return "eos"
        if (text != null && stream != null) {
            text.feed(stream.feed(token))
            if (text.found != null) return "stop"
        }
        return if (maxNewTokens != null && length >= maxNewTokens) "length" else null
    }
}
