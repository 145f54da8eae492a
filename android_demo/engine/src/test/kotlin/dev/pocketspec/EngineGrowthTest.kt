package dev.pocketspec

import dev.pocketspec.chat.AnswerSettings
import dev.pocketspec.models.ModelFixtures
import dev.pocketspec.text.Message
import org.junit.experimental.categories.Category
import kotlin.test.Test
import kotlin.test.assertTrue

class EngineGrowthTest {
    @Test
    @Category(Slow::class)
    fun `10,000 steps under changing budgets take no more memory than 3,000`() {
        val parts = EngineParts(library = TestPlaces.kernels(), context = 512)
        Engine.open(ModelFixtures.file("demo"), PLENTY, parts).use { engine ->
            run(engine, 3_000)
            val before = parts.memory.process().anonymous
            run(engine, 7_000)
            val grown = parts.memory.process().anonymous - before
            assertTrue(grown < MOST_GROWTH, "$grown bytes")
        }
    }

    /** Sampled answers of [steps] steps in all, with another budget now and then, and the whole one at the end. */
    private fun run(engine: Engine, steps: Int) {
        var done = 0
        while (done < steps) {
            val settings = AnswerSettings(200, temperature = 0.8, seed = done.toLong())
            engine.answer(listOf(Message("user", "Story $done.")), settings).use { answer ->
                while (answer.hasNext()) {
                    if (done % 50 == 7) engine.setBudget(if (done % 100 == 7) engine.plan.smallestBytes + SOME else PLENTY)
                    answer.next()
                    done++
                }
            }
        }
        engine.setBudget(PLENTY)
        System.gc()
    }

    private companion object {
        const val PLENTY = 4_000_000_000L
        const val SOME = 6_000_000L

        /** Two kilobytes a step; what the C library keeps for later changes by 10 MB. */
        const val MOST_GROWTH = 14_000_000L
    }
}
