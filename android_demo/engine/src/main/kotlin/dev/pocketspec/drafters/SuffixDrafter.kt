package dev.pocketspec.drafters

import dev.pocketspec.decoding.Context
import dev.pocketspec.decoding.Draft
import dev.pocketspec.decoding.DraftLimit
import dev.pocketspec.decoding.Drafter
import dev.pocketspec.decoding.Shape
import java.util.PriorityQueue

/** The usual longest chain: a match is right for a long stretch or not at all, and short matches draft less. */
const val SUFFIX_LONGEST = 7
const val SUFFIX_NAME = "suffix"

// An occurrence that matches m tokens has weight m. These are the weight of a token that no occurrence proposes, and
// what every token that a single occurrence proposes adds to it; see runtime/drafters/suffix.py.
private const val NOVELTY = 1.0
private const val NOVELTY_PER_SINGLE = 2.0

private const val MIN_CHANCE = 0.25
private const val REACH = 2.0

/**
 * Repetition as a drafter: what followed the last tokens earlier in the conversation may follow them again. It needs no
 * model; its drafts are those of `runtime/drafters/suffix.py`.
 *
 * A node is proposed if the occurrences give it, with all nodes above it, at least the chance `limit.floor` (if that is
 * 0, a quarter), and if its depth is at most twice the length of the match. [Draft.expected] is the sum of these
 * chances. Many drafts are empty.
 */
class SuffixDrafter(override val name: String = SUFFIX_NAME) : Drafter {
    private var index = SuffixIndex(0)

    override fun propose(context: Context, limit: DraftLimit): Draft {
        if (context.capacity > index.capacity) index = SuffixIndex(context.capacity)
        index.update(context.tokens)
        val most = limit.within(limit.nodes, limit.nodes)
        val occurrences = if (most.depth > 0) index.occurrences(most.depth) else emptyList()
        return if (occurrences.isEmpty()) Draft(source = name) else grow(occurrences, most)
    }

    /** The nodes with the best chances. Chances fall along a path, so a best-first search finds them in order. */
    private fun grow(occurrences: List<Occurrence>, limit: DraftLimit): Draft {
        val tokens = IntArray(limit.nodes)
        val parents = IntArray(limit.nodes)
        var count = 0
        var expected = 0.0
        var serial = 0
        val floor = if (limit.floor > 0) limit.floor else MIN_CHANCE
        // Among equal chances the older node comes first.
        val open = PriorityQueue(11, compareByDescending<OpenNode> { it.chance }.thenBy { it.serial })
        var node = OpenNode(-1, 0, 1.0, occurrences, 0, 0)
        while (true) {
            val parent = count - 1
            if (node.depth < minOf(limit.depth.toDouble(), REACH * node.occurrences[0].match)) {
                val children = children(node.occurrences, node.depth)
                for (child in if (limit.shape == Shape.CHAIN) children.take(1) else children) {
                    val chance = node.chance * child.share
                    if (chance < floor) continue
                    open.add(OpenNode(parent, node.depth + 1, chance, child.occurrences, child.token, ++serial))
                }
            }
            if (open.isEmpty() || count == limit.nodes) {
                return Draft(tokens.copyOf(count), parents.copyOf(count), expected, name)
            }
            node = open.remove()
            tokens[count] = node.token
            parents[count++] = node.parent
            expected += node.chance
        }
    }

    /**
     * The next tokens after [depth] tokens on which all [occurrences] agree.
     *
     * The most probable comes first, at a tie the lower token id. Each of the depth tokens makes a match one longer.
     */
    private fun children(occurrences: List<Occurrence>, depth: Int): List<Child> {
        val groups = LinkedHashMap<Int, ArrayList<Occurrence>>()
        var weight = NOVELTY
        for (occurrence in occurrences) {
            if (depth >= occurrence.continuation.size) continue
            groups.getOrPut(occurrence.continuation[depth]) { ArrayList() }.add(occurrence)
            weight += occurrence.match + depth
        }
        weight += NOVELTY_PER_SINGLE * groups.values.count { it.size == 1 }
        return groups.map { (token, group) -> Child(group.sumOf { it.match + depth } / weight, token, group) }
            .sortedWith(compareByDescending<Child> { it.share }.thenBy { it.token })
    }
}

private class Child(val share: Double, val token: Int, val occurrences: List<Occurrence>)

private class OpenNode(
    val parent: Int,
    val depth: Int,
    val chance: Double,
    val occurrences: List<Occurrence>,
    val token: Int,
    val serial: Int,
)
