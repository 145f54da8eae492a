package dev.pocketspec

import dev.pocketspec.decoding.Drafter
import dev.pocketspec.decoding.Drafters
import dev.pocketspec.drafters.DrafterRegistry
import dev.pocketspec.models.Levels
import dev.pocketspec.models.OrtModel
import dev.pocketspec.plan.Plan
import java.io.Closeable

/**
 * The open models, exactly as planned, and the drafters that use them. Another plan takes effect between two steps of an
 * answer: memory is freed first, then taken. [beforeForward] may throw, to end a step.
 */
internal class OpenModels(private val levels: Levels, plan: Plan, private val beforeForward: () -> Unit) : Drafters, Closeable {
    var plan = plan
        private set
    val target: OrtModel = levels.openTarget(plan)
    var drafting: Map<String, OrtModel> = emptyMap()
        private set
    private lateinit var registry: DrafterRegistry

    init {
        try {
            draftWith(levels.openDrafters(plan))
        } catch (error: Throwable) {
            target.close()
            throw error
        }
    }

    override fun get(name: String): Drafter = registry[name]

    /**
     * Changes to [next], of the same context and KV type. If its drafters cannot be opened, those that are open go on;
     * the text is that of the target with any.
     */
    fun follow(next: Plan) {
        val kept = drafting.filterKeys { next.level(it) != null }
        (drafting - kept.keys).values.forEach { it.close() }
        draftWith(kept)
        levels.fit(target, next.target, next)
        plan = next
        draftWith(levels.openDrafters(next, kept))
    }

    override fun close() {
        drafting.values.forEach { it.close() }
        drafting = emptyMap()
        target.close()
    }

    private fun draftWith(models: Map<String, OrtModel>) {
        drafting = models
        registry = DrafterRegistry(models, target.vocabSize)
        for (model in models.values + target) model.beforeForward = beforeForward
    }
}
