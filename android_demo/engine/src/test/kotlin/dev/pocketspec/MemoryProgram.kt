package dev.pocketspec

import dev.pocketspec.bundle.Bundle
import dev.pocketspec.json.Json
import dev.pocketspec.models.Arena
import dev.pocketspec.models.DirectAllocator
import dev.pocketspec.models.FirstSession
import dev.pocketspec.models.Kernels
import dev.pocketspec.models.Levels
import dev.pocketspec.models.OrtModel
import dev.pocketspec.plan.Plan
import dev.pocketspec.plan.PlanRequest
import dev.pocketspec.plan.PlanTableReader
import java.io.File

/** One plan of a bundle, run to the last row of every level with drafts as large as planned, and its bytes. */
internal class MemoryProgram(private val bundle: Bundle, private val kernels: Kernels, private val cores: Int) {
    private val table = PlanTableReader.read(bundle)
    private val own = OwnMemory()

    /** Predicted and measured bytes of the plan for [context] tokens whose budget lies at [share] between the least and the most. */
    fun run(context: Int, share: Double): Map<String, Any?> {
        FirstSession.run(kernels)
        val memory = NativeMemory(bundle.folder)
        val request = PlanRequest(Long.MAX_VALUE / 2, kernels.name, own.process(), context)
        val least = table.smallestBytes(request)
        val budget = least + ((table.choose(request).neededBytes - least) * share).toLong()
        val plan = table.choose(request.copy(budgetBytes = budget))
        val arena = Arena(DirectAllocator())
        val peak = memory.peakOf { converse(plan, arena) }
        val planned = plan.nativeBytes()
        return mapOf(
            "levels" to plan.levels.map { "${it.name} ${it.kvType} ${it.capacity}" },
            "draft" to "${if (plan.draft.tree) "tree" else "chain"} of ${plan.draft.nodes}",
            "chunk" to plan.prefillChunk,
            "planned" to listOf(planned.anonymous, planned.hot),
            "taken" to listOf(peak.anonymous, peak.mapped),
            "arena" to listOf(plan.arenaBytes, arena.bytes),
            "budget" to budget,
            "process" to peak.process,
        )
    }

    /** Opens the levels, which stay open, and runs each of them twice: once all weights are in memory, all are measured. */
    private fun converse(plan: Plan, arena: Arena) {
        val levels = Levels(bundle, kernels, arena, cores)
        val models = plan.levels.map { levels.open(it, plan) }
        repeat(2) { for (model in models) fill(model, plan) }
    }

    /** A prompt that leaves room for one draft, and that draft. */
    private fun fill(model: OrtModel, plan: Plan) {
        val rows = model.plan.maxRows
        model.cache.rollback(0)
        model.prefill(IntArray(minOf(plan.context, model.plan.capacity) - rows) { it * STEP % model.vocabSize })
        // A tree in which every row but the first is below another.
        val parents = if (model.takesTrees) IntArray(rows) { if (it == 0) -1 else (it - 1) / 2 } else null
        model.forward(IntArray(rows) { it % model.vocabSize }, parents, rows - model.plan.logitsRows)
    }

    private companion object {
        const val STEP = 7
    }
}

/** Arguments: the bundle's folder, the library of native operators (or nothing), threads, the context, and the share. */
fun main(arguments: Array<String>) {
    val (folder, library, cores, context, share) = arguments
    val kernels = Kernels(if (library.isEmpty()) null else File(library))
    val program = MemoryProgram(Bundle.read(File(folder)), kernels, cores.toInt())
    println(Json.write(program.run(context.toInt(), share.toDouble()), ascii = true))
}
