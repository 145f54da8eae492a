package dev.pocketspec

import dev.pocketspec.decoding.Pick
import dev.pocketspec.decoding.Scheduler
import dev.pocketspec.decoding.Shape
import dev.pocketspec.decoding.Step
import dev.pocketspec.decoding.chainLimit

/** The picks of [scheduler] that the open models can follow: after a change of plan a drafter or its trees may be gone. */
internal class LivePicks(private val scheduler: Scheduler, private val models: OpenModels) : Scheduler {
    override fun pick(last: Step?): Pick {
        val pick = scheduler.pick(last)
        val drafter = pick.drafter ?: return pick
        val most = models.plan.draft.nodes
        if (most == 0 || drafter.split('>').any { it != SUFFIX && it !in models.drafting }) return Pick(null)
        val isPossible = pick.limit.shape == Shape.CHAIN || models.target.takesTrees
        val limit = if (isPossible) pick.limit else chainLimit(pick.limit.depth)
        return pick.copy(limit = limit.within(most, most))
    }

    private companion object {
        const val SUFFIX = "suffix"
    }
}
