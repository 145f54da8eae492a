package dev.pocketspec

import dev.pocketspec.bundle.Bundle
import dev.pocketspec.bundle.Manifest
import dev.pocketspec.bundle.Progress
import dev.pocketspec.decoding.Context
import dev.pocketspec.decoding.Scheduler
import dev.pocketspec.plan.PlanTableReader
import dev.pocketspec.scheduler.Calibration
import dev.pocketspec.scheduler.CostScheduler
import dev.pocketspec.scheduler.CostStore
import dev.pocketspec.scheduler.CostTable
import dev.pocketspec.scheduler.FixedScheduler
import dev.pocketspec.scheduler.LevelSituation
import dev.pocketspec.scheduler.SchedulerState

/** Decides how answers are drafted, and keeps what was learned of that from answer to answer. */
internal class Speculation(private val models: OpenModels, manifest: Manifest, costs: CostTable) {
    private val state = SchedulerState(costs, manifest.target.name, agreements(manifest, costs), models.target::padded)

    /** The policy of one answer: plain decoding unless [isWanted], and where the plan has no room for drafts. */
    fun scheduler(context: Context, isWanted: Boolean): Scheduler {
        if (!isWanted) return FixedScheduler()
        val situation = LevelSituation(context, models.target, { models.drafting }) {
            LevelSituation.Room(models.plan.draft.nodes, models.plan.draft.tree)
        }
        return LivePicks(CostScheduler(state, situation), models)
    }

    companion object {
        /** What is expected of a drafter whose agreement was not measured at export. */
        private const val UNKNOWN_AGREEMENT = 0.5

        /** Measures what forwards cost here, unless that is known of this bundle, device and plan. */
        fun costs(bundle: Bundle, models: OpenModels, kernels: String, progress: Progress): CostTable {
            val sizes = models.plan.levels.map { "${it.name} ${it.kvType} ${it.maxRows}" }
            val device = listOf("os.arch", "os.version").map { System.getProperty(it).orEmpty() }
            val store = CostStore(bundle.deviceFolder, listOf(PlanTableReader.keyOf(bundle.manifest.files), kernels) + device + sizes)
            store.load()?.let { return it }
            val target = bundle.manifest.target.name
            return Calibration(mapOf(target to models.target) + models.drafting, target).measure(progress).also(store::save)
        }

        /** The levels that draft, the one next to the target first, with how often the target agrees with them. */
        private fun agreements(manifest: Manifest, costs: CostTable): Map<String, Double> {
            val drafting = manifest.levels.filter { it.role != Manifest.TARGET && it.name in costs.levels }
            return drafting.sortedBy { it.role != "intermediate" }.associate { it.name to (it.agreement ?: UNKNOWN_AGREEMENT) }
        }
    }
}
