package dev.pocketspec.decoding

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class SamplerTest {
    private val sampler = Sampler()
    private val none = Tokens(NO_TOKENS)

    private fun probabilities(logits: FloatArray, params: SamplingParams): FloatArray =
        logits.copyOf().also { sampler.probabilities(it, it.size, none, NO_TOKENS, params) }

    @Test
    fun filtersKeepWhatTheirNamesSay() {
        val logits = floatArrayOf(0f, 3f, 1f, 2f, 2f)
        val all = probabilities(logits, SamplingParams(1.0))
        assertEquals(1.0, all.sum().toDouble(), 1e-6)
        assertEquals(Math.exp(-1.0), (all[3] / all[1]).toDouble(), 1e-6)
        assertEquals(setOf(1, 3, 4), kept(probabilities(logits, SamplingParams(1.0, topK = 2))))
        // Ties at the edge stay.
        assertEquals(setOf(1, 3, 4), kept(probabilities(logits, SamplingParams(1.0, topP = 0.7))))
        assertEquals(setOf(1, 3, 4), kept(probabilities(logits, SamplingParams(1.0, minP = 0.2))))
        assertEquals(setOf(1), kept(probabilities(logits, SamplingParams(0.01, topP = 0.9))))
    }

    private fun kept(probs: FloatArray): Set<Int> = probs.indices.filter { probs[it] > 0 }.toSet()

    @Test
    fun theEdgeOfTheNucleusIsThatOfASort() {
        for (seed in 0L until 40L) {
            val size = 10 + 997 * seed.toInt()
            val logits = Numbers(seed).bell(size)
            if (seed % 3 == 0L) for (place in logits.indices) logits[place] = Math.round(logits[place] * 4) / 4f
            val topP = 0.05 + 0.9 * seed / 40
            val whole = probabilities(logits, SamplingParams(0.7)).sortedArrayDescending()
            var mass = 0.0
            val least = whole.first { mass += it; mass >= topP * (1 + 1e-6) }
            val found = probabilities(logits, SamplingParams(0.7, topP = topP)).count { it > 0 }
            val near = whole.count { it > least * 1.001f }..whole.count { it >= least * 0.999f }
            assertTrue("$found of $size, expected $near", found in near)
        }
    }

    @Test
    fun drawsFollowTheDistributionAndNeverTakeWhatIsExcluded() {
        val size = 1300
        val probs = FloatArray(size) { if (it % 3 == 1) 0f else 1f / size }
        val counts = IntArray(size)
        for (position in 0 until 20_000) counts[sampler.draw(probs, size, uniform(5, position))]++
        assertTrue(counts.indices.all { (counts[it] == 0) == (it % 3 == 1) || probs[it] > 0 })
        assertEquals(20_000, counts.sum())
        assertTrue(counts.filterIndexed { it, _ -> it % 3 == 1 }.all { it == 0 })
        for (u in doubleArrayOf(0.0, 0.5, 1.0 - 1e-16)) assertTrue(probs[sampler.draw(probs, size, u)] > 0)
    }

    @Test
    fun aTokenIsPenalizedOnceHoweverOftenItWasSaid() {
        val params = SamplingParams(repetitionPenalty = 2.0)
        val row = floatArrayOf(4f, -1f, 3f)
        assertEquals(2, sampler.greedyToken(row, 3, Tokens(intArrayOf(0, 0, 1, 99)), intArrayOf(0), params))
        assertArrayEquals(floatArrayOf(2f, -2f, 3f), row, 0f)
    }

    @Test
    fun logitsThatAreNoNumbersAreRefused() {
        for (bad in listOf(Float.NaN, Float.POSITIVE_INFINITY)) {
            val row = floatArrayOf(1f, bad, 2f)
            assertThrows(LogitsException::class.java) { sampler.greedyToken(row, 3, none, NO_TOKENS, SamplingParams()) }
            assertThrows(LogitsException::class.java) { probabilities(row, SamplingParams(1.0)) }
        }
        assertEquals(1, sampler.greedyToken(floatArrayOf(-1f, 2f, 2f), 3, none, NO_TOKENS, SamplingParams()))
    }

    @Test
    fun settingsOutsideTheirRangeAreNamed() {
        fun refused(make: () -> SamplingParams): String =
            assertThrows(SamplingException::class.java) { make() }.message!!.substringBefore(",")
        assertEquals("temperature is -1.0", refused { SamplingParams(-1.0) })
        assertEquals("temperature is NaN", refused { SamplingParams(Double.NaN) })
        assertEquals("temperature is 1.0E-9", refused { SamplingParams(1e-9) })
        assertEquals("top_k is -1", refused { SamplingParams(topK = -1) })
        assertEquals("top_p is 1.5", refused { SamplingParams(topP = 1.5) })
        assertEquals("min_p is 2.0", refused { SamplingParams(minP = 2.0) })
        assertEquals("repetition_penalty is 0.0", refused { SamplingParams(repetitionPenalty = 0.0) })
    }

    @Test
    fun sumsAreNearThoseOfHighPrecision() {
        for (size in listOf(0, 1, 511, 512, 513, 40_000)) {
            val values = Numbers(size.toLong()).uniform(0.0, 1.0, size)
            assertEquals(values.sumOf { it.toDouble() }, ExactSums().total(values), 1e-9)
        }
    }
}
