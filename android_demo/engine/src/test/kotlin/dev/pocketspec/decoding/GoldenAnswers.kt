package dev.pocketspec.decoding

import dev.pocketspec.scheduler.FixedScheduler
import org.junit.Assert.assertEquals

/** Answers that Python wrote (`tests/android_demo/golden_steps.py`), read and given again. */
class GoldenAnswer(private val data: Map<*, *>) {
    val target = data["target"] as String?
    private val limit = limitOf(data["limit"] as Map<*, *>)
    private val name = data["name"] ?: "${data["drafter"]}-${limit.name} of ${data["prompt"]}"

    /** Decodes with [target] and [drafters] in a context of [capacity], and compares every step. */
    fun assertRepeated(target: Model, drafters: Drafters, capacity: Int) {
        val context = Context(capacity, sampling())
        context.hold(ints(data["prompt"]))
        val recorder = DraftRecorder(verifierFor(context.sampling))
        val pick = Pick(data["drafter"] as String?, limit)
        val stop = StopRule(ints(data["eos"]).toSet(), (data["max_new_tokens"] as Long).toInt())
        val decoding = Decoding(target, context, drafters, FixedScheduler(pick), recorder, stop)
        val expected = data["steps"] as List<*>
        for ((number, step) in expected.withIndex()) {
            assertEquals("$name, step $number", shown(step as Map<*, *>), shown(decoding.next(), recorder.draft))
        }
        assertEquals("$name: whether the answer has ended", false, decoding.hasNext())
    }

    private fun sampling(): SamplingParams {
        val given = data["sampling"] as Map<*, *>
        fun number(name: String) = (given[name] as Number).toDouble()
        return SamplingParams(
            number("temperature"),
            (given["top_k"] as Number).toInt(),
            number("top_p"),
            number("min_p"),
            number("repetition_penalty"),
            (given["seed"] as Number).toLong(),
        )
    }

    private fun limitOf(data: Map<*, *>): DraftLimit = DraftLimit(
        (data["nodes"] as Long).toInt(),
        (data["depth"] as Long).toInt(),
        if (data["shape"] == "tree") Shape.TREE else Shape.CHAIN,
        (data["floor"] as Number).toDouble(),
        data["inner"]?.let { limitOf(it as Map<*, *>) },
    )

    private fun shown(step: Map<*, *>): String {
        val draft = ints(step["draft"])
        val parents = step["parents"]?.let { ints(it) } ?: IntArray(draft.size) { it - 1 }
        val below = step["below"]?.let { ints(it).toList() } ?: emptyList<Int>()
        return shown(draft, parents, (step["accepted"] as Long).toInt(), ints(step["tokens"]), below, step["finish"])
    }

    private fun shown(step: Step, draft: Draft): String {
        val below = step.draft.below.map { it.numAccepted }
        return shown(draft.tokens, draft.parents, step.numAccepted, step.tokens, below, step.finish)
    }

    private fun shown(
        draft: IntArray,
        parents: IntArray,
        accepted: Int,
        tokens: IntArray,
        below: List<Int>,
        finish: Any?,
    ): String = "draft ${draft.toList()} after ${parents.toList()}, accepted $accepted, tokens ${tokens.toList()}," +
        " below $below, finish $finish"
}

private fun ints(value: Any?): IntArray = (value as List<*>).map { (it as Long).toInt() }.toIntArray()

/** Keeps the draft that was judged last. */
private class DraftRecorder(private val rule: Verifier) : Verifier {
    var draft = Draft()

    override fun accept(draft: Draft, logits: Logits, context: Context): Verdict {
        this.draft = draft
        return rule.accept(draft, logits, context)
    }
}
