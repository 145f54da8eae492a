package dev.pocketspec.decoding

import dev.pocketspec.drafters.DrafterRegistry
import dev.pocketspec.scheduler.FixedScheduler
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

/** Whatever is drafted, text and cache are those of plain decoding. */
class SpeculationLawTest {
    private val samplings = listOf(
        SamplingParams(),
        SamplingParams(repetitionPenalty = 1.3),
        SamplingParams(0.8, seed = 7),
        SamplingParams(1.1, topK = 6, topP = 0.9, minP = 0.01, repetitionPenalty = 1.2, seed = -1),
    )

    @Test
    fun randomDraftsLeaveTextAndCacheAsPlainDecodingHasThem() {
        for (seed in 0L until 120L) {
            val sampling = samplings[(seed % samplings.size).toInt()]
            val plain = answer(target(seed), sampling, PLAIN, FixedScheduler())
            val drafter = RandomDrafter(Numbers(seed, 5))
            val random = answer(target(seed), sampling, drafter, RandomPicks(Numbers(seed, 6)))
            assertEquals("seed $seed, $sampling", plain, random)
        }
    }

    @Test
    fun draftersOfEveryKindGiveThePlainText() {
        val limits = listOf(
            "suffix" to treeLimit(7),
            "near" to chainLimit(5),
            "near" to treeLimit(7),
            "far>near" to chainLimit(6, treeLimit(3)),
        )
        for (seed in 0L until 16L) for ((name, limit) in limits) {
            val sampling = samplings[(seed % samplings.size).toInt()]
            val levels = mapOf("near" to TableModel.of(3, seed + 50), "far" to TableModel.of(2, seed + 70))
            val drafters = DrafterRegistry(levels, 11)
            val plain = answer(target(seed), sampling, PLAIN, FixedScheduler())
            val drafted = answer(target(seed), sampling, drafters, FixedScheduler(Pick(name, limit)))
            assertEquals("$name ${limit.name} seed $seed", plain, drafted)
        }
    }

    @Test
    fun aBrokenDrafterIsDroppedAndTheTextGoesOn() {
        val broken = TableModel.of(3, 5).apply { broken = true }
        val drafters = DrafterRegistry(mapOf("near" to broken, "far" to TableModel.of(2, 6)), 11)
        for (name in listOf("near", "far>near", "near>far")) {
            val plain = answer(target(1), samplings[0], PLAIN, FixedScheduler())
            val dropped = ArrayList<String>()
            val scheduler = FixedScheduler(Pick(name, chainLimit(3)))
            val found = answer(target(1), samplings[0], drafters, scheduler) { dropped.add(it.drafter) }
            assertEquals(plain, found)
            assertTrue(dropped.all { it == if (name == "far>near") name else "near" } && dropped.isNotEmpty())
            assertThrows(DraftException::class.java) { answer(target(1), samplings[0], drafters, scheduler) }
        }
    }

    @Test
    fun anErrorWithinAStepLeavesEverythingAsItWas() {
        val target = target(3)
        val context = Context(60, samplings[0]).apply { hold(PROMPT) }
        var fails = false
        val verifier = object : Verifier {
            override fun accept(draft: Draft, logits: Logits, context: Context): Verdict {
                if (fails) throw LogitsException("broken")
                return GreedyVerifier().accept(draft, logits, context)
            }
        }
        val picks = FixedScheduler(Pick("random", treeLimit(7)))
        val decoding = Decoding(target, context, RandomDrafter(Numbers(4)), picks, verifier, StopRule())
        repeat(3) { decoding.next() }
        val before = Pair(target.cache.content(), context.tokens.toIntArray().toList())
        fails = true
        assertThrows(LogitsException::class.java) { decoding.next() }
        assertEquals(before, Pair(target.cache.content(), context.tokens.toIntArray().toList()))
        fails = false
        assertTrue(decoding.next().tokens.isNotEmpty())
    }

    @Test
    fun answersEndWithTheContextAndPromptsMustLeaveRoom() {
        val drafter = RandomDrafter(Numbers(1))
        for (capacity in listOf(40, 70)) {
            val full = answer(target(2, capacity), samplings[0], drafter, RandomPicks(Numbers(2)), 999, emptySet())
            assertEquals("context", full.last())
        }
        val context = Context(PROMPT.size, samplings[0]).apply { hold(PROMPT) }
        val decoding = Decoding(target(2), context, PLAIN, FixedScheduler(), GreedyVerifier(), StopRule())
        val message = assertThrows(ContextFullException::class.java) { decoding.next() }.message!!
        assertTrue(message, message.startsWith("a prompt of 5 tokens; allowed are 1 to 4"))
    }

    @Test
    fun theNextTurnKeepsWhatTheCacheHolds() {
        val target = target(4)
        val context = Context(90, samplings[0]).apply { hold(PROMPT) }
        fun more(count: Int) {
            val stop = StopRule(maxNewTokens = count)
            Decoding(target, context, PLAIN, FixedScheduler(), GreedyVerifier(), stop).forEach { _ -> }
        }
        more(10)
        context.append(intArrayOf(1, 2, 3))
        more(10)
        val tokens = context.tokens.toIntArray()
        assertEquals(freshRows(4, tokens.copyOf(tokens.size - 1)), target.cache.content())
    }

    /** The tokens of an answer, and why it ended; after every step the cache must be as if nothing was ever drafted. */
    private fun answer(
        target: TableModel,
        sampling: SamplingParams,
        drafters: Drafters,
        scheduler: Scheduler,
        maxNewTokens: Int = 30,
        eos: Set<Int> = setOf(10),
        drop: (DraftException) -> Unit = { throw it },
    ): List<Any?> {
        val context = Context(50, sampling).apply { hold(PROMPT) }
        val stop = StopRule(eos, maxNewTokens)
        val decoding = Decoding(target, context, drafters, scheduler, verifierFor(sampling), stop, drop)
        var finish: String? = null
        for (step in decoding) {
            val tokens = context.tokens.toIntArray()
            assertEquals(freshRows(target.seed, tokens.copyOf(tokens.size - 1)), target.cache.content())
            assertTrue(step.numAccepted <= step.numDrafted && step.tokens.size <= step.numAccepted + 1)
            finish = step.finish
        }
        return context.tokens.toIntArray().drop(PROMPT.size) + finish
    }

    private fun target(seed: Long, capacity: Int = 70) =
        TableModel.of(3, seed, capacity = capacity, paddingStep = if (seed % 2 == 0L) 1 else 3)

    private fun freshRows(seed: Long, tokens: IntArray): List<List<Int>> {
        val model = TableModel.of(3, seed, capacity = tokens.size + 1)
        model.prefill(tokens)
        return model.cache.content()
    }

    private companion object {
        val PROMPT = intArrayOf(3, 1, 4, 1, 5)
        val PLAIN = object : Drafters {
            override fun get(name: String): Drafter = error("nothing is drafted")
        }
    }
}

/** Drafts trees and chains of random tokens. */
private class RandomDrafter(private val numbers: Numbers) : Drafter, Drafters {
    override val name = "random"

    override fun get(name: String): Drafter = this

    override fun propose(context: Context, limit: DraftLimit): Draft {
        val nodes = numbers.whole(limit.nodes + 1)
        val parents = IntArray(nodes)
        val depths = IntArray(nodes)
        for (node in 0 until nodes) {
            parents[node] = if (limit.shape == Shape.CHAIN) node - 1 else numbers.whole(node + 1) - 1
            if (parents[node] >= 0 && depths[parents[node]] + 1 == limit.depth) parents[node] = -1
            depths[node] = if (parents[node] < 0) 0 else depths[parents[node]] + 1
        }
        return Draft(IntArray(nodes) { numbers.whole(4) }, parents)
    }
}

/** A draft of random size and shape at every step. */
private class RandomPicks(private val numbers: Numbers) : Scheduler {
    override fun pick(last: Step?): Pick {
        val size = numbers.whole(9)
        return if (numbers.whole(2) == 0) Pick("random", chainLimit(size)) else Pick("random", treeLimit(size))
    }
}
