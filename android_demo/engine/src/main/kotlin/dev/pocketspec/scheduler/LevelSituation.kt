package dev.pocketspec.scheduler

import dev.pocketspec.decoding.Context
import dev.pocketspec.decoding.Model
import dev.pocketspec.drafters.rowsBehind

/** The situation of an answer whose text [context] holds, with the [levels] that are open now, by name. */
class LevelSituation(
    private val context: Context,
    private val target: Model,
    private val levels: () -> Map<String, Model>,
    private val planned: () -> Room,
) : Situation {
    /** What the plan has room for: the [nodes] of a draft, and whether it may be a tree. */
    class Room(val nodes: Int, val trees: Boolean)

    override val nodes: Int get() = planned().nodes
    override val trees: Boolean get() = planned().trees && target.takesTrees

    override fun behind(level: String): Int? = levels()[level]?.rowsBehind(context)
}
