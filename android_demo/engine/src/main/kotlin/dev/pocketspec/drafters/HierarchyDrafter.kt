package dev.pocketspec.drafters

import dev.pocketspec.decoding.Context
import dev.pocketspec.decoding.Cut
import dev.pocketspec.decoding.Draft
import dev.pocketspec.decoding.DraftException
import dev.pocketspec.decoding.DraftLimit
import dev.pocketspec.decoding.Drafter
import dev.pocketspec.decoding.Drafters
import dev.pocketspec.decoding.GreedyVerifier
import dev.pocketspec.decoding.Logits
import dev.pocketspec.decoding.LogitsException
import dev.pocketspec.decoding.Loop
import dev.pocketspec.decoding.MatchVerifier
import dev.pocketspec.decoding.Model
import dev.pocketspec.decoding.Pick
import dev.pocketspec.decoding.Step
import dev.pocketspec.decoding.StoppingCriterion
import dev.pocketspec.decoding.Tokens
import dev.pocketspec.decoding.Verdict
import dev.pocketspec.decoding.Verifier
import dev.pocketspec.decoding.chainLimit
import dev.pocketspec.decoding.makeChain

/** The limit for the drafter below if none is given. A heuristic: for an int4 intermediate every row has a cost. */
val INNER_LIMIT = chainLimit(3)

/**
 * Hierarchical drafting: [middle], the intermediate, decodes ahead of the committed tokens with the same loop as the
 * target, and [lower] drafts for it. The target, with a vocabulary of [vocabSize], gets the result as a chain. The
 * drafter below may itself be a hierarchy. Drafts are those of `runtime/drafters/hierarchy.py`.
 *
 * The draft is what the intermediate alone would draft, whatever drafts below: greedy, or drawn with the same random
 * numbers that the target will use for the same positions. Ids that the target lacks are never proposed.
 */
class HierarchyDrafter(
    private val lower: Drafter,
    private val middle: Model,
    private val vocabSize: Int,
    override val name: String,
) : Drafter {
    private val sharedVocab = minOf(vocabSize, middle.vocabSize)
    private val greedy = GreedyVerifier()
    private val match = MatchVerifier()
    private var text: Context? = null
    private var seen: Context? = null

    /**
     * [DraftLimit.inner] is the limit for each draft of the drafter below; null: a chain of 3.
     *
     * Such a draft may be accepted as a whole, so drafting ends as soon as there are `limit.depth` less the depth of
     * the inner limit, and at least one. The draft is empty only if the intermediate's cache is too small for a window
     * of two tokens.
     */
    override fun propose(context: Context, limit: DraftLimit): Draft {
        val room = minOf(middle.maxRows, context.capacity - context.size)
        val depth = minOf(limit.nodes, limit.depth, room)
        val window = middle.windowSize(context.capacity)
        if (depth <= 0 || window == 0) return Draft()
        val known = knownTo(middle.vocabSize, vocabSize, windowOf(context.tokens, window))
        val text = contextOf(text, context, context.tokens).also { text = it }
        val seen = contextOf(seen, context, known).also { seen = it }
        val rowsRead = catchUp(seen)
        val rule = if (context.sampling.temperature == 0.0) greedy else match
        val level = InnerLevel(lower, rule, text, middle.vocabSize, sharedVocab)
        val loop = Loop(middle, seen, level, level, Endless)
        val inner = limit.inner ?: INNER_LIMIT
        val steps = ArrayList<Step>()
        while (text.size - context.size < maxOf(1, depth - inner.depth)) {
            // A step also adds a token of the intermediate's own; the draft must not become too long with it.
            val pick = Pick(lower.name, inner.within(inner.nodes, depth - (text.size - context.size) - 1))
            steps.add(step(loop, pick))
            text.append(steps.last().tokens)
        }
        val drafted = text.tokens.part(context.size).toIntArray()
        return makeChain(drafted, name, below = steps, rowsRead = rowsRead)
    }

    private fun step(loop: Loop, pick: Pick): Step {
        try {
            return loop.step(pick)
        } catch (error: LogitsException) {
            throw DraftException(name, error)
        }
    }

    /**
     * Rolls the intermediate's cache back to its common prefix with [seen]; returns how many rows it lacks.
     *
     * The row of the last token does not count. The first step's forward computes the missing rows if it has room for
     * them; otherwise they are computed here.
     */
    private fun catchUp(seen: Context): Int {
        val kept = minOf(middle.cache.tokens.sharedPrefix(seen.tokens), seen.size - 1)
        middle.cache.rollback(kept)
        if (middle.padded(seen.size - kept) > middle.maxRows) {
            middle.prefill(seen.tokens.part(kept, seen.size - 1).toIntArray())
        }
        return seen.size - 1 - kept
    }
}

/**
 * Drafter and acceptance rule of the intermediate's loop: [lower] and [rule], both on the whole [text].
 *
 * The intermediate has [numIds] ids and may lack some that were drafted. In its forward they are replaced by its last
 * id. The rule gets the draft as it was, and the [vocabSize] logits that intermediate and target share: an id without a
 * logit is never accepted, and its row is never read.
 */
private class InnerLevel(
    private val lower: Drafter,
    private val rule: Verifier,
    private val text: Context,
    private val numIds: Int,
    private val vocabSize: Int,
) : Drafter, Drafters, Verifier {
    override val name = "level"
    private var guess = Draft()

    override fun get(name: String): Drafter = this

    override fun propose(context: Context, limit: DraftLimit): Draft {
        guess = lower.propose(text, limit)
        val known = IntArray(guess.size) { minOf(guess.tokens[it], numIds - 1) }
        return Draft(known, guess.parents, guess.expected, guess.source, guess.chances, guess.below, guess.rowsRead)
    }

    override fun accept(draft: Draft, logits: Logits, context: Context): Verdict {
        val judged = guess
        guess = Draft()
        check(judged.parents.contentEquals(draft.parents)) { "the intermediate ran another draft" }
        return rule.accept(judged, SharedLogits(logits, vocabSize), text)
    }
}

/** The logits of the first [vocabSize] tokens. */
private class SharedLogits(private val all: Logits, override val vocabSize: Int) : Logits {
    override val rows get() = all.rows

    override fun read(row: Int, out: FloatArray, count: Int) = all.read(row, out, count)
}

/** The intermediate's answers do not end: its text is a draft. */
private object Endless : StoppingCriterion {
    override fun cut(generated: List<Int>, fresh: Int): Cut = Cut(fresh)
}

/** A context of [tokens] with the settings and capacity of [context]; uses [held] again if that is as large. */
private fun contextOf(held: Context?, context: Context, tokens: Tokens): Context {
    val result = held?.takeIf { it.capacity == context.capacity } ?: Context(context.capacity, context.sampling)
    result.sampling = context.sampling
    result.first = context.position - tokens.size
    val shared = result.tokens.sharedPrefix(tokens)
    result.truncate(shared)
    result.append(tokens.part(shared).toIntArray())
    return result
}
