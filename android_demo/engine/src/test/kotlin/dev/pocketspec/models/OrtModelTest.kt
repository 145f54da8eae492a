package dev.pocketspec.models

import dev.pocketspec.bundle.PocketspecException
import dev.pocketspec.decoding.ContextFullException
import kotlin.test.Test
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

class OrtModelTest {
    private val tokens = IntArray(40) { 3 + it * 7 }

    @Test
    fun `an arena holds exactly the planned bytes, and nothing once all is closed`() {
        for (kernels in listOf(Kernels.NATIVE, Kernels.PORTABLE)) {
            val demo = DemoModels(kernels)
            val plan = demo.plan(512)
            val target = demo.levels.open(plan.target, plan)
            val drafters = demo.levels.openDrafters(plan)
            assertTrue(plan.levels.size > 1)
            assertEquals(plan.arenaBytes, demo.arena.bytes)
            (drafters.values + target).forEach { it.close() }
            assertEquals(0L, demo.arena.bytes)
        }
    }

    @Test
    fun `a smaller plan in the middle changes no bit, and a larger one neither`() {
        val demo = DemoModels()
        val whole = demo.plan(512)
        val small = demo.plan(512, whole.target.kvType, demo.smallest(512, whole.target.kvType))
        assertTrue(small.arenaBytes < whole.arenaBytes && small.target.capacity < whole.target.capacity)
        val expected = demo.levels.open(whole.target, whole).use { rows(it) {} }
        val plans = listOf(small, whole, small)
        for (first in listOf(whole, small)) {
            var turn = 0
            val found = demo.levels.open(first.target, first).use { model ->
                rows(model) { demo.levels.fit(model, plans[turn % 3].target, plans[turn++ % 3]) }
            }
            assertEquals(expected, found)
        }
        assertEquals(0L, demo.arena.bytes)
    }

    @Test
    fun `portable and native operators agree on most tokens`() {
        val choices = listOf(Kernels.NATIVE, Kernels.PORTABLE).map { kernels ->
            val demo = DemoModels(kernels)
            val plan = demo.plan(512)
            demo.levels.open(plan.target, plan).use { model ->
                model.prefill(tokens)
                val row = FloatArray(model.vocabSize)
                List(20) { at ->
                    model.forward(intArrayOf(5 + at, 9)).read(0, row)
                    row.indices.maxByOrNull { row[it] }
                }
            }
        }
        assertTrue(choices[0].zip(choices[1]).count { it.first == it.second } >= 15)
    }

    @Test
    fun `widths of the native operators agree bit for bit, trees included`() {
        val demo = DemoModels()
        val plan = demo.plan(512)
        demo.levels.open(plan.target, plan).use { model ->
            val found = ExactWidths(model).find()
            assertTrue(found.exact && found.tree)
            assertContentEquals(IntArray(plan.target.maxRows) { it + 1 }, found.widths)
            assertEquals(0, model.cache.length)
        }
    }

    @Test
    fun `a full cache and a closed model say what to do`() {
        val demo = DemoModels()
        val plan = demo.plan(512)
        val model = demo.levels.open(plan.target, plan)
        assertFailsWith<ContextFullException> { model.prefill(IntArray(plan.target.capacity + 1)) }
        assertEquals(0, model.cache.length)
        model.close()
        assertFailsWith<PocketspecException> { model.prefill(intArrayOf(1)) }
        model.close()
    }

    /** The logits of a few forwards as bits; [between] is called before each. */
    private fun rows(model: OrtModel, between: () -> Unit): List<Int> {
        model.prefill(tokens)
        val row = FloatArray(model.vocabSize)
        return List(6) { at ->
            between()
            model.forward(intArrayOf(11 * at + 1)).read(0, row)
            row.fold(0) { hash, value -> hash * 31 + value.toRawBits() }
        }
    }
}
