package dev.pocketspec.decoding

/**
 * The target's choices after the nodes of a draft, under the context's sampling settings; a row is read only when it is
 * visited. The settings see the committed tokens and the path down to the node.
 */
internal class TargetRows(
    private val draft: Draft,
    private val logits: Logits,
    private val context: Context,
    private val sampler: Sampler,
) {
    private val size = logits.vocabSize

    /** The greedy token after [node] (-1: the anchor). */
    fun greedy(node: Int): Int =
        sampler.greedyToken(read(node), size, context.tokens, draft.path(node), context.sampling)

    /** The token after [node] that the random number of its position draws. */
    fun drawn(node: Int): Int {
        val path = draft.path(node)
        val row = read(node)
        sampler.probabilities(row, size, context.tokens, path, context.sampling)
        return sampler.draw(row, size, uniform(context.sampling.seed, context.position + path.size))
    }

    private fun read(node: Int): FloatArray = sampler.row(size).also { logits.read(rowOf(node), it) }
}
