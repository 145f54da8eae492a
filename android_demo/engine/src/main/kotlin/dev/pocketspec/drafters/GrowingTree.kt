package dev.pocketspec.drafters

import dev.pocketspec.decoding.Draft
import dev.pocketspec.decoding.Logits
import dev.pocketspec.decoding.Model

internal const val ROOT = -1

/**
 * A drafted token that follows node [parent] ([ROOT]: the committed tokens); depth 0 follows the root.
 *
 * [chance] is the drafter's own probability of the token, [score] the product of those along the path down to it.
 */
internal class Node(val token: Int, val parent: Int, val depth: Int, val score: Double, val chance: Double)

/**
 * A tree of drafted tokens that [model] grows depth by depth, with one forward for each depth; [nodes] are in order of
 * growth, parents first. The model's cache must hold all committed tokens and nothing else.
 *
 * A tree mask covers the rows of one forward; rows in the cache are visible to all of them. So the rows of branches
 * cannot stay in the cache: every forward computes them again, and the cache drops them afterwards. Once a single
 * branch is left, its rows do stay in the cache. They are called the trunk.
 */
internal class GrowingTree(private val model: Model) {
    val nodes = ArrayList<Node>()
    private var trunk = ROOT

    /** Adds a node and returns its number. */
    fun add(token: Int, parent: Int, score: Double, chance: Double): Int {
        val depth = if (parent == ROOT) 0 else nodes[parent].depth + 1
        nodes.add(Node(token, parent, depth, score, chance))
        return nodes.size - 1
    }

    /** The tokens from depth 0 down to [node]; none for the root. */
    fun path(node: Int): IntArray = ancestors(node, ROOT).map { nodes[it].token }.reversed().toIntArray()

    /**
     * The logits after the nodes [level], a row for each, valid until the model's next forward.
     *
     * The nodes have one depth, and their parents were given to the call before. Later calls get descendants only.
     */
    fun feed(level: List<Int>): Logits {
        val rows = level.flatMap { ancestors(it, trunk) }.toSortedSet().toIntArray()
        val tokens = IntArray(rows.size) { nodes[rows[it]].token }
        val held = model.cache.length
        if (level.size == 1) {
            trunk = level[0]
            return model.forward(tokens, null, rows.size - 1)
        }
        val parents = IntArray(rows.size) { rows.indexOf(nodes[rows[it]].parent) }
        val logits = model.forward(tokens, parents, rows.size - level.size)
        model.cache.rollback(held)
        return logits
    }

    /** [node] and its ancestors below [end]. */
    private fun ancestors(node: Int, end: Int): List<Int> {
        val found = ArrayList<Int>()
        var above = node
        while (above != end) {
            found.add(above)
            above = nodes[above].parent
        }
        return found
    }

    /**
     * The [chosen] nodes as a draft; with a node, its parent must be chosen.
     *
     * The order is depth first, siblings as they were added, so that rows of an accepted path often lie side by side
     * and the cache keeps them without a copy.
     */
    fun draft(chosen: List<Int>, source: String, expected: Double, rowsRead: Int): Draft {
        val children = chosen.sorted().groupBy { nodes[it].parent }
        val order = ArrayList<Int>()
        val pending = ArrayList(children[ROOT].orEmpty().reversed())
        while (pending.isNotEmpty()) {
            val node = pending.removeAt(pending.size - 1)
            order.add(node)
            pending.addAll(children[node].orEmpty().reversed())
        }
        return Draft(
            tokens = IntArray(order.size) { nodes[order[it]].token },
            parents = IntArray(order.size) { order.indexOf(nodes[order[it]].parent) },
            expected = expected,
            source = source,
            chances = DoubleArray(order.size) { nodes[order[it]].chance },
            rowsRead = rowsRead,
        )
    }
}
