package dev.pocketspec.decoding

import dev.pocketspec.bundle.PocketspecException
import dev.pocketspec.text.TextStream
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Test

class StopTest {
    /** Token n is the n-th letter; 26 has no text until the next one comes. */
    private class Letters : TextStream {
        private var waiting = ""

        override fun feed(tokens: IntArray): String = tokens.joinToString("") { token ->
            if (token == 26) "".also { waiting += "?" } else (waiting + ('a' + token)).also { waiting = "" }
        }

        override fun flush(): String = waiting.also { waiting = "" }
    }

    private fun ids(text: String) = text.map { it - 'a' }

    @Test
    fun anAnswerEndsAtTheSameTokenForAnyDivisionIntoSteps() {
        val answer = ids("bcxyzabcxydef")
        for (width in 1..answer.size) {
            for ((rule, kept, reason) in listOf(
                Triple({ StopRule(setOf('z' - 'a')) }, 5, "eos"),
                Triple({ StopRule(maxNewTokens = 3) }, 3, "length"),
                Triple({ StopRule(strings = listOf("abd", "cxyd"), stream = Letters()) }, 11, "stop"),
                Triple({ StopRule(setOf(1), 1) }, 1, "eos"),
            )) {
                val (tokens, found) = ended(rule(), answer, width)
                assertEquals("steps of $width", Pair(kept, reason), Pair(tokens, found))
            }
        }
    }

    private fun ended(rule: StopRule, answer: List<Int>, width: Int): Pair<Int, String?> {
        val generated = ArrayList<Int>()
        for (step in answer.chunked(width)) {
            generated.addAll(step)
            val cut = rule.cut(generated, step.size)
            if (cut.reason != null) return Pair(generated.size - step.size + cut.keep, cut.reason)
        }
        return Pair(generated.size, null)
    }

    @Test
    fun textIsHeldBackWhileItCouldBecomeAStopString() {
        val text = StopText(listOf("abc", "bcd"))
        assertEquals(listOf("x", "", "ab", "ab", ""), listOf("xa", "b", "ab", "bc", "d").map { text.feed(it) })
        assertEquals("bcd", text.found)
        val unfinished = StopText(listOf("two"))
        assertEquals("one", unfinished.feed("onetw"))
        assertEquals("tw", unfinished.flush())
        val first = StopText(listOf("longer", "ge"))
        assertEquals("lon", first.feed("longer"))
        assertEquals("ge", first.found)
        assertEquals("", first.feed("more"))
    }

    @Test
    fun badRulesAreRefused() {
        assertThrows(PocketspecException::class.java) { StopText(listOf("")) }
        assertThrows(PocketspecException::class.java) { StopRule(maxNewTokens = 0) }
        assertThrows(PocketspecException::class.java) { StopRule(strings = listOf("a")) }
    }

    @Test
    fun chunksHaveTheWholeTextWithItsSourcesAndCountEveryStep() {
        val steps = listOf(
            step("ab", listOf("near", TARGET), 1, 3, null),
            step("{", listOf(TARGET), 0, 0, null),
            step("cd", listOf("near", "near"), 2, 2, "length"),
        )
        val chunks = TextChunks(steps.iterator(), Stats(promptTokens = 4), Letters(), StopText()).asSequence().toList()
        assertEquals("ab?cd", chunks.joinToString("") { it.text })
        assertEquals(listOf(TextPiece("a", "near"), TextPiece("b", TARGET)), chunks[0].pieces)
        assertEquals(emptyList<TextPiece>(), chunks[1].pieces)
        val stats = chunks.last().stats
        val counts = listOf(stats.tokens, stats.steps, stats.drafted, stats.accepted, stats.promptTokens)
        assertEquals(listOf(5, 3, 5, 3, 4), counts)
        assertEquals(mapOf("near" to 3, TARGET to 2), stats.sources)
        assertEquals("length", stats.finish)
        assertEquals(0.6, stats.acceptanceRate, 1e-12)
        assertEquals(5 / 3.0, stats.tokensPerStep, 1e-12)
    }

    @Test
    fun theEndTokenIsNotShownAndWhatWaitsIs() {
        val steps = listOf(step("ab{c", listOf("near", "near", "near", TARGET), 3, 3, "eos"))
        val chunk = TextChunks(steps.iterator(), Stats(), Letters(), StopText(listOf("b?d"))).next()
        assertEquals("ab?", chunk.text)
        assertEquals(TextPiece("b?", TARGET), chunk.pieces.last())
    }

    private fun step(text: String, sources: List<String>, accepted: Int, drafted: Int, finish: String?): Step {
        val draft = makeChain(IntArray(drafted))
        return Step(ids(text).toIntArray(), sources, accepted, 0.1, 0.2, 0.5, finish, draft = draft)
    }
}
