package dev.pocketspec.plan

import dev.pocketspec.bundle.PocketspecException

/**
 * All plans of a bundle, made by the planner of the Python side and chosen from here by budget.
 *
 * There is one planner, so its plans and those here cannot differ. What it cannot know is what this process takes
 * without a model; that is measured here and enters the same sum.
 */
class PlanTable internal constructor(
    private val bundle: String,
    private val columns: List<Column>,
) {
    /** The plans for one context, one kind of kernels and one KV type (null: planned), those of the most bytes first. */
    internal class Column(val context: Int, val kernels: String, val kvType: String?, val rungs: List<Rung>)

    /** A plan without what depends on the process: [anonymous] and [hot] are bytes beyond its own. */
    internal class Rung(
        val anonymous: Long,
        val hot: Long,
        val draft: DraftPlan,
        val prefillChunk: Int,
        val levels: List<LevelPlan>,
        val shared: List<Part>,
        val tokensPerSecond: Double,
        val givenUp: GivenUp?,
    ) {
        fun margin(process: ProcessBytes): Long = marginBytes(anonymous + process.anonymous, hot + process.files)

        fun needed(process: ProcessBytes): Long =
            anonymous + process.anonymous + hot + process.files + margin(process)
    }

    /** The contexts that there are plans for, in tokens, rising. */
    val contexts: List<Int> get() = columns.map { it.context }.distinct().sorted()

    /** The best plan within the budget of [request]; OverBudgetException, with the least budget, if none fits. */
    fun choose(request: PlanRequest): Plan {
        val candidates = columnsFor(request)
        for (column in candidates) {
            val place = column.rungs.indexOfFirst { it.needed(request.process) <= request.budgetBytes }
            if (place >= 0) return plan(column, place, request)
        }
        throw refusal(candidates.last(), request)
    }

    /** The least budget with which [choose] would find a plan. */
    fun smallestBytes(request: PlanRequest): Long = columnsFor(request).last().rungs.last().needed(request.process)

    /** The columns that a request may use, the longest context first. */
    private fun columnsFor(request: PlanRequest): List<Column> {
        val found = columns.filter {
            it.kernels == request.kernels && it.kvType == request.kvType && request.context in listOf(null, it.context)
        }
        if (found.isNotEmpty()) return found.sortedByDescending { it.context }
        throw PocketspecException(
            "$bundle has no plan for a context of ${request.context} tokens with ${request.kernels} kernels and a KV" +
                " cache in ${request.kvType ?: "any type"}; choose one of ${contexts.joinToString()} tokens.",
        )
    }

    private fun plan(column: Column, place: Int, request: PlanRequest): Plan {
        val rung = column.rungs[place]
        val process = request.process
        return Plan(
            context = column.context,
            kernels = column.kernels,
            budgetBytes = request.budgetBytes,
            draft = rung.draft,
            prefillChunk = rung.prefillChunk,
            levels = rung.levels,
            shared = rung.shared,
            process = process,
            neededBytes = rung.needed(process),
            marginBytes = rung.margin(process),
            smallestBytes = column.rungs.last().needed(process),
            tokensPerSecond = rung.tokensPerSecond,
            givenUp = givenUp(column, place),
        )
    }

    /** One entry for each step that was taken, over all of its rungs together. */
    private fun givenUp(column: Column, place: Int): List<GivenUp> {
        val steps = LinkedHashMap<String, GivenUp>()
        for (rung in column.rungs.subList(0, place + 1)) rung.givenUp?.let { steps[it.step] = it }
        return steps.values.toList()
    }

    private fun refusal(column: Column, request: PlanRequest): OverBudgetException {
        val smallest = column.rungs.last().needed(request.process)
        val leanest = plan(column, column.rungs.size - 1, request)
        val largest = leanest.parts().maxByOrNull { it.bytes }
        return OverBudgetException(
            "$bundle does not fit ${show(request.budgetBytes)}: ${show(smallest - request.budgetBytes)} are missing for a" +
                " context of ${column.context} tokens, and the largest part is ${largest?.name} with" +
                " ${show(largest?.bytes ?: 0)}; allow at least ${show(smallest)}, or choose a smaller bundle.",
            smallest,
        )
    }

    companion object {
        const val FILE_NAME = "plans.json"
        private const val LEAST_MARGIN = 4L shl 20
        private const val MARGIN_SHARE = 0.05
        private const val BYTES_PER_TABLE_BYTE = 512

        /** How far the prediction may be off, and the page tables; see `margin_bytes` in `memory/footprint.py`. */
        fun marginBytes(anonymous: Long, hot: Long): Long =
            maxOf(LEAST_MARGIN, (anonymous * MARGIN_SHARE).toLong()) + (anonymous + hot) / BYTES_PER_TABLE_BYTE

        /** [bytes] as digits with commas, for messages. */
        fun show(bytes: Long): String {
            val digits = bytes.toString()
            val groups = digits.removePrefix("-").reversed().chunked(3).joinToString(",").reversed()
            return (if (digits.startsWith("-")) "-" else "") + groups + " bytes"
        }
    }
}
