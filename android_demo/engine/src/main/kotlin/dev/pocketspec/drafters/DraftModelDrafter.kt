package dev.pocketspec.drafters

import dev.pocketspec.decoding.Context
import dev.pocketspec.decoding.Draft
import dev.pocketspec.decoding.DraftException
import dev.pocketspec.decoding.DraftLimit
import dev.pocketspec.decoding.Drafter
import dev.pocketspec.decoding.Logits
import dev.pocketspec.decoding.LogitsException
import dev.pocketspec.decoding.Model
import dev.pocketspec.decoding.NO_CHANCES
import dev.pocketspec.decoding.Sampler
import dev.pocketspec.decoding.SamplingParams
import dev.pocketspec.decoding.Shape
import dev.pocketspec.decoding.makeChain
import dev.pocketspec.decoding.uniform

// A node whose probability or score is below this is not worth a row of the target. A heuristic.
private const val MIN_SCORE = 0.01

/**
 * A draft model: a smaller model with the target's vocabulary of [vocabSize], which drafts a chain or a tree; the
 * drafts are those of `runtime/drafters/draft_model.py`. Ids that the target lacks are never proposed.
 *
 * Greedy chains take the most probable token. Under sampling, a chain is drawn with the same random numbers that sample
 * and match will use for the same positions. A tree of the most probable branches grows depth by depth, with one
 * forward for each depth. A node's score is the product of the chances along its path, so it never rises with depth; a
 * node that is not among the best at one depth therefore never returns, and the result is the best tree of that size.
 *
 * [Draft.chances] are the drafter's own probabilities of its tokens. Greedy chains have them only with a floor, because
 * they cost a pass over the vocabulary.
 */
class DraftModelDrafter(private val model: Model, private val vocabSize: Int, override val name: String) : Drafter {
    private val sharedVocab = minOf(vocabSize, model.vocabSize)
    private val sampler = Sampler()
    private val row = FloatArray(sharedVocab)

    override fun propose(context: Context, limit: DraftLimit): Draft {
        val most = limit.within(fittingNodes(limit.nodes), limit.depth)
        if (most.depth <= 0 || model.windowSize(context.capacity) == 0) return Draft()
        check(most.shape == Shape.CHAIN || model.takesTrees) { "$name drafts no trees" }
        try {
            return if (most.shape == Shape.CHAIN) chain(context, most) else bestTree(context, most)
        } catch (error: LogitsException) {
            throw DraftException(name, error)
        }
    }

    /** The number of nodes, at most [wanted], that one forward can run with its padding. */
    private fun fittingNodes(wanted: Int): Int {
        var nodes = minOf(wanted, model.maxRows)
        while (nodes > 0 && model.padded(nodes) > model.maxRows) nodes--
        return nodes
    }

    /**
     * Reads the committed tokens of the window that the cache lacks.
     *
     * Returns the logits after the last one, and the number of rows read before it.
     */
    private fun catchUp(context: Context): Pair<Logits, Int> {
        val cache = model.cache
        val window = windowOf(context.tokens, model.windowSize(context.capacity))
        val tokens = knownTo(model.vocabSize, vocabSize, window)
        var kept = minOf(cache.tokens.sharedPrefix(tokens), tokens.size - 1)
        val rowsRead = tokens.size - 1 - kept
        cache.rollback(kept)
        if (model.padded(tokens.size - kept) > model.maxRows) {
            model.prefill(tokens.part(kept, tokens.size - 1).toIntArray())
            kept = tokens.size - 1
        }
        return Pair(model.forward(tokens.part(kept).toIntArray(), null, tokens.size - kept - 1), rowsRead)
    }

    /** The most probable tokens, or those that sample and match would draw from the drafter's distribution. */
    private fun chain(context: Context, limit: DraftLimit): Draft {
        var (logits, rowsRead) = catchUp(context)
        val params = context.sampling
        val tokens = IntArray(limit.depth)
        val chances = DoubleArray(limit.depth)
        val hasChances = params.temperature > 0 || limit.floor > 0
        var survival = 1.0
        var count = 0
        while (true) {
            val path = tokens.copyOf(count)
            logits.read(0, row, sharedVocab)
            if (params.temperature > 0) {
                sampler.probabilities(row, sharedVocab, context.tokens, path, params)
                tokens[count] = sampler.draw(row, sharedVocab, uniform(params.seed, context.position + count))
            } else {
                tokens[count] = sampler.greedyToken(row, sharedVocab, context.tokens, path, params)
                if (hasChances) {
                    logits.read(0, row, sharedVocab)
                    sampler.probabilities(row, sharedVocab, context.tokens, path, confidenceSampling(params))
                }
            }
            if (hasChances) {
                chances[count] = row[tokens[count]].toDouble()
                survival *= chances[count]
            }
            count++
            if (count == limit.depth || !isWorthExtending(survival, count, limit.floor)) {
                val known = if (hasChances) chances.copyOf(count) else NO_CHANCES
                return makeChain(tokens.copyOf(count), name, known, rowsRead = rowsRead)
            }
            logits = model.forward(intArrayOf(tokens[count - 1]))
        }
    }

    /** The most probable nodes, as many as [limit] allows. */
    private fun bestTree(context: Context, limit: DraftLimit): Draft {
        val params = confidenceSampling(context.sampling)
        var (rows, rowsRead) = catchUp(context)
        val tree = GrowingTree(model)
        var best = emptyList<Int>()
        var level = listOf(ROOT)
        for (depth in 0 until limit.depth) {
            val least = if (best.size == limit.nodes) tree.nodes[best.last()].score else 0.0
            val floor = maxOf(MIN_SCORE, limit.floor, least)
            level.forEachIndexed { place, node ->
                rows.read(place, row, sharedVocab)
                sampler.probabilities(row, sharedVocab, context.tokens, tree.path(node), params)
                addChildren(tree, node, floor, limit.nodes)
            }
            best = tree.nodes.indices.sortedByDescending { tree.nodes[it].score }.take(limit.nodes)
            level = best.filter { tree.nodes[it].depth == depth }.sorted()
            if (level.isEmpty() || depth == limit.depth - 1) break
            rows = tree.feed(level)
        }
        return tree.draft(best, name, best.fold(0.0) { sum, node -> sum + tree.nodes[node].score }, rowsRead)
    }

    /** Adds those of the [most] likeliest tokens after [node] whose paths have a chance of at least [floor]. */
    private fun addChildren(tree: GrowingTree, node: Int, floor: Double, most: Int) {
        val score = if (node == ROOT) 1.0 else tree.nodes[node].score
        val least = MIN_SCORE.toFloat()
        val likely = ArrayList<Int>()
        for (token in 0 until sharedVocab) if (row[token] >= least) likely.add(token)
        for (token in likely.sortedByDescending { row[it] }.take(most)) {
            val chance = row[token].toDouble()
            if (score * chance >= floor) tree.add(token, node, score * chance, chance)
        }
    }
}

/** The settings whose probabilities are confidence: [params]; at temperature 0, those of the plain softmax. */
private fun confidenceSampling(params: SamplingParams): SamplingParams =
    if (params.temperature > 0) params else params.copy(temperature = 1.0, topK = 0, topP = 1.0, minP = 0.0)

/**
 * Whether one more token is accepted with a chance of at least [floor].
 *
 * [survival] is the chance that all [drafted] tokens so far are accepted. The next token's own chance is unknown before
 * its forward; it is taken to be the geometric mean of theirs (a heuristic).
 */
private fun isWorthExtending(survival: Double, drafted: Int, floor: Double): Boolean =
    floor <= 0 || StrictMath.pow(survival, 1 + 1.0 / drafted) >= floor
