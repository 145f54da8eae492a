package dev.pocketspec.decoding

import dev.pocketspec.drafters.DrafterRegistry
import dev.pocketspec.json.Json
import org.junit.Assert.assertTrue
import org.junit.Test

/** Drafts, accepted counts and tokens of every step are Python's (`tests/android_demo/table_steps.py`). */
class TableStepsTest {
    @Test
    fun everyStepIsPythons() {
        val text = javaClass.getResource("/decoding/table_steps.json")!!.readText()
        val answers = (Json.parse(text) as List<*>).map { GoldenAnswer(it as Map<*, *>) }
        assertTrue(answers.size > 60)
        for (answer in answers) {
            val target = if (answer.target == "target") model(4, 7, step = 4) else model(4, 8, vocab = 3)
            answer.assertRepeated(target, DrafterRegistry(levels(), target.vocabSize), CAPACITY)
        }
    }

    private fun levels(): Map<String, Model> = mapOf(
        "near" to model(4, 2),
        "far" to model(2, 3, step = 2),
        "narrow" to model(4, 4, vocab = 9),
        "wide" to model(4, 5, vocab = 16),
        "forgetful" to model(4, 6, capacity = 45),
    )

    private fun model(share: Int, seed: Long, vocab: Int = 11, capacity: Int = CAPACITY + MAX_ROWS, step: Int = 1) =
        TableModel.of(share, seed, vocab, capacity, MAX_ROWS, step)

    private companion object {
        const val CAPACITY = 96
        const val MAX_ROWS = 20
    }
}
