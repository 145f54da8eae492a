package dev.pocketspec.app

import android.content.Context
import android.text.format.Formatter
import dev.pocketspec.chat.ChatState
import dev.pocketspec.chat.Phase
import dev.pocketspec.chat.PlanView
import java.io.File

/** The state in the user's language. */
class Texts(private val context: Context) {
    /** What the app is doing. */
    fun status(state: ChatState): String = when (state.phase) {
        Phase.NO_BUNDLE -> context.getString(R.string.no_bundle)
        Phase.IMPORTING -> progress(state, R.string.importing)
        Phase.OPENING -> progress(state, R.string.opening)
        Phase.ANSWERING -> context.getString(R.string.answering)
        Phase.READY -> context.getString(R.string.ready, state.bundle?.let { File(it).name }.orEmpty())
    }

    /** Speed, acceptance and measured memory. */
    fun statistics(state: ChatState): String {
        val parts = ArrayList<String>()
        state.statistics?.let {
            parts.add(context.getString(R.string.statistics, it.decodeTokensPerSecond, it.tokens, it.steps))
            if (it.drafted > 0) {
                val percent = Math.round(it.acceptanceRate * 100).toInt()
                parts.add(context.getString(R.string.acceptance, it.accepted, it.drafted, percent))
            }
        }
        state.memory?.let { parts.add(context.getString(R.string.memory, bytes(it.nativeBytes), bytes(it.javaHeapBytes))) }
        return parts.joinToString(" · ")
    }

    /** Memory against the budget. */
    fun budget(state: ChatState): String {
        val plan = state.plan ?: return context.getString(R.string.budget_only, bytes(state.budgetBytes))
        val sentence = if (state.isShrunk) R.string.budget_shrunk else R.string.budget_value
        return context.getString(sentence, bytes(plan.plannedBytes), bytes(state.budgetBytes))
    }

    /** The plan, a line for each part. */
    fun plan(plan: PlanView): String {
        val lines = plan.parts.mapTo(ArrayList()) { context.getString(R.string.plan_line, it.name, exact(it.bytes)) }
        lines.add(context.getString(R.string.plan_total, exact(plan.plannedBytes), exact(plan.budgetBytes)))
        lines.add(context.getString(R.string.plan_smallest, exact(plan.smallestBytes)))
        lines.add(context.getString(R.string.plan_context, plan.contextTokens))
        lines.add(context.getString(R.string.plan_levels, plan.levels.joinToString()))
        return lines.joinToString("\n")
    }

    private fun progress(state: ChatState, without: Int): String {
        val progress = state.progress ?: return context.getString(without)
        if (progress.total <= 0) return progress.stage
        return context.getString(R.string.progress, progress.stage, (100 * progress.done / progress.total).toInt())
    }

    private fun bytes(count: Long): String = Formatter.formatShortFileSize(context, count)

    private fun exact(count: Long): String = "%,d".format(context.resources.configuration.locale, count)
}
