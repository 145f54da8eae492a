package dev.pocketspec.models

import dev.pocketspec.bundle.Bundle
import dev.pocketspec.bundle.PocketspecException
import dev.pocketspec.plan.LevelPlan
import dev.pocketspec.plan.Plan

/** Opens the levels of [bundle] as plans say, in the memory of [arena]. */
class Levels(
    private val bundle: Bundle,
    private val kernels: Kernels,
    private val arena: Arena,
    private val cores: Int = Runtime.getRuntime().availableProcessors(),
) {
    /** The target; steps run at the widths that agree bit for bit, which are found by trying once and kept. */
    fun openTarget(plan: Plan): OrtModel {
        val model = open(plan.target, plan)
        try {
            model.widths = WidthsRecord(bundle, plan.target, kernels.key, threads(plan.target)).of(model)
            return model
        } catch (error: Throwable) {
            model.close()
            throw error
        }
    }

    /** Every planned drafter by name; those in [kept] are already open, and are resized to the plan. */
    fun openDrafters(plan: Plan, kept: Map<String, OrtModel> = emptyMap()): Map<String, OrtModel> {
        val models = LinkedHashMap<String, OrtModel>()
        try {
            for (planned in plan.levels.drop(1)) {
                models[planned.name] = kept[planned.name]?.also { fit(it, planned, plan) } ?: open(planned, plan)
            }
        } catch (error: Throwable) {
            (models - kept.keys).values.forEach { it.close() }
            throw error
        }
        return models
    }

    /** Resizes an open level to another plan. The content of its cache is kept if it still fits. */
    fun fit(model: OrtModel, planned: LevelPlan, plan: Plan) {
        // Only a drafter's does not: it reads again what it needs.
        if (model.cache.length > planned.capacity - planned.maxRows) model.cache.rollback(0)
        model.resize(planned, plan.prefillChunk)
    }

    /** Opens a level without testing widths. */
    fun open(planned: LevelPlan, plan: Plan): OrtModel {
        val level = bundle.manifest.level(planned.name)
        val graphs = if (planned.isNative) level.native?.graphs.orEmpty() else level.graphs
        val graph = graphs[planned.kvType]
            ?: throw PocketspecException("${level.name} has no graph for a KV cache in ${planned.kvType}; plan the bundle again.")
        val file = bundle.file(level.path(graph))
        val options = kernels.sessionOptions(file.parentFile, threads(planned), planned.isNative)
        val opened = OpenedSession.open(level.name, options) { OnnxGraph.read(file) }
        try {
            return OrtModel(opened, arena, planned, plan.prefillChunk)
        } catch (error: Throwable) {
            opened.close()
            throw error
        }
    }

    private fun threads(planned: LevelPlan): Int = minOf(planned.threads, cores)
}
