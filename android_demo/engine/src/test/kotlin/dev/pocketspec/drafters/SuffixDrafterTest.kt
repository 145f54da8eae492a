package dev.pocketspec.drafters

import dev.pocketspec.decoding.Context
import dev.pocketspec.decoding.DraftLimit
import dev.pocketspec.decoding.Numbers
import dev.pocketspec.decoding.SamplingParams
import dev.pocketspec.decoding.Shape
import dev.pocketspec.decoding.chainLimit
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class SuffixDrafterTest {
    @Test
    fun whatFollowedBeforeIsProposedAgain() {
        val context = Context(64, SamplingParams())
        context.hold(intArrayOf(7, 8, 9, 10, 11, 12, 1, 7, 8, 9))
        assertArrayEquals(intArrayOf(10, 11), SuffixDrafter().propose(context, chainLimit(3)).tokens)
        context.hold(intArrayOf(7, 8, 9, 10))
        assertEquals(0, SuffixDrafter().propose(context, chainLimit(3)).size)
    }

    /** A draft depends on the committed tokens and the limit alone: rejected drafts and other texts leave no trace. */
    @Test
    fun theIndexForgetsWhatWasRolledBack() {
        val numbers = Numbers(3)
        val used = SuffixDrafter()
        val context = Context(200, SamplingParams())
        var drafted = 0
        for (round in 0 until 300) {
            context.truncate(numbers.whole(context.size + 1))
            context.append(IntArray(minOf(numbers.whole(20), context.capacity - context.size)) { numbers.whole(3) })
            val shape = if (round % 2 == 0) Shape.CHAIN else Shape.TREE
            val limit = DraftLimit(9, 5, shape)
            val found = used.propose(context, limit)
            val fresh = SuffixDrafter().propose(context, limit)
            assertArrayEquals(fresh.tokens, found.tokens)
            assertArrayEquals(fresh.parents, found.parents)
            assertTrue(found.size <= 9 && found.depth <= 5)
            drafted += found.size
        }
        assertTrue(drafted > 200)
    }
}
