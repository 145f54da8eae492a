package dev.pocketspec.decoding

const val PLAIN_NAME = "plain"

/** The shape of a draft: one path, or branches. */
enum class Shape(val word: String) {
    CHAIN("chain"),
    TREE("tree"),
}

/**
 * The largest draft that is wanted: a [shape] of [nodes] in all, with at most [depth] tokens along one path.
 *
 * A node is left out if the drafter estimates its chance of acceptance, together with all nodes above it, below
 * [floor]. [inner] is the limit for the drafter below in a hierarchy.
 */
data class DraftLimit(
    val nodes: Int,
    val depth: Int,
    val shape: Shape = Shape.CHAIN,
    val floor: Double = 0.0,
    val inner: DraftLimit? = null,
) {
    /** A limit in the names of picks; that of the level below follows a slash. */
    val name: String
        get() {
            val size = if (shape == Shape.CHAIN) "$nodes" else "${nodes}x$depth"
            return shape.word + size + (inner?.let { "/${it.name}" } ?: "")
        }

    /** This limit, reduced to [mostNodes] and [mostDepth]. */
    fun within(mostNodes: Int, mostDepth: Int): DraftLimit {
        val deepest = minOf(depth, mostDepth)
        val fewer = minOf(nodes, mostNodes).let { if (shape == Shape.CHAIN) minOf(it, deepest) else it }
        return copy(nodes = fewer, depth = minOf(fewer, deepest))
    }
}

/** The drafter for the next step, null for plain decoding, and the largest draft that is wanted of it. */
data class Pick(val drafter: String?, val limit: DraftLimit = NOTHING) {
    /** The name that benchmarks use: plain, NAME-chain3, NAME-tree7x3, LOWER>MIDDLE-chain6/chain3. */
    val name: String
        get() = if (drafter == null) PLAIN_NAME else "$drafter-${limit.name}"
}

/** The limit of no draft. */
val NOTHING = DraftLimit(0, 0)

/** The limit of a chain of [length] tokens. */
fun chainLimit(length: Int, inner: DraftLimit? = null): DraftLimit = DraftLimit(length, length, inner = inner)

/** The limit of a tree of [nodes] nodes, with the usual depth of such trees: 3 for 7 nodes, 4 for 15. */
fun treeLimit(nodes: Int): DraftLimit = DraftLimit(nodes, 32 - Integer.numberOfLeadingZeros(nodes), Shape.TREE)
