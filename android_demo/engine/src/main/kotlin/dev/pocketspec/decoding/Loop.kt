package dev.pocketspec.decoding

/**
 * The decoding of one level: every step drafts, runs the target, accepts, and commits one token or more.
 *
 * At the start of a step the cache holds all committed tokens but the last one, the anchor: the length of the cache is
 * that of the context less 1. (A level that drafts may lack more of them, since others decide what is committed; these
 * rows are run in the same forward, before the anchor.) Plain decoding is the same loop with empty drafts. Tokens that
 * a stop rule cuts off are not kept, and the cache is rolled back before a step is returned. So an answer can be given
 * up between any two steps, and an error within a step leaves everything as it was before the step.
 */
class Loop(
    private val target: Model,
    private val context: Context,
    private val drafters: Drafters,
    private val verifier: Verifier,
    private val stop: StoppingCriterion,
) {
    private val generated = ArrayList<Int>()

    /** Runs one step; after an error, cache and context are as they were before. */
    fun step(pick: Pick): Step {
        val held = target.cache.length
        val committed = context.size
        check(held < committed) { "the cache holds $held rows of $committed tokens" }
        try {
            return run(pick, committed)
        } catch (error: Throwable) {
            target.cache.rollback(held)
            context.truncate(committed)
            throw error
        }
    }

    private fun run(pick: Pick, committed: Int): Step {
        val start = System.nanoTime()
        val draft = draft(pick)
        val drafted = System.nanoTime()
        val logits = forward(draft)
        val verified = System.nanoTime()
        val verdict = verifier.accept(draft, logits, context)
        val fresh = IntArray(verdict.path.size + 1) {
            if (it < verdict.path.size) draft.tokens[verdict.path[it]] else verdict.token
        }
        val cut = commit(verdict, fresh, committed - 1)
        val source = draft.source.ifEmpty { pick.drafter ?: TARGET }
        return Step(
            tokens = if (cut.keep == fresh.size) fresh else fresh.copyOf(cut.keep),
            sources = List(cut.keep) { if (it < verdict.path.size) source else TARGET },
            numAccepted = verdict.path.size,
            draftSeconds = (drafted - start) * NANO,
            targetSeconds = (verified - drafted) * NANO,
            seconds = (System.nanoTime() - start) * NANO,
            finish = cut.reason,
            pick = pick,
            draft = draft,
            firstAccepted = verdict.path.isNotEmpty() && verdict.path[0] == 0,
        )
    }

    /** A draft within the pick and the room of context and cache; a context's last token is never drafted. */
    private fun draft(pick: Pick): Draft {
        if (pick.drafter == null) return Draft()
        val before = context.size - target.cache.length
        val nodes = target.fittingRows(before + pick.limit.nodes) - before
        val limit = pick.limit.within(nodes, context.capacity - context.size - 1)
        if (limit.depth <= 0) return Draft()
        val draft = drafters[pick.drafter].propose(context, limit)
        check(draft.size <= limit.nodes) { "${pick.name} drafted ${draft.size} nodes" }
        check(target.takesTrees || draft.isChain) { "${pick.name} drafted a tree" }
        return draft
    }

    /** The target's logits of 1 + nodes rows: row 0 follows the anchor. */
    private fun forward(draft: Draft): Logits {
        val length = target.cache.length
        val missing = context.size - 1 - length
        val rows = IntArray(missing + 1 + draft.size)
        context.tokens.part(length).copyTo(rows, 0)
        System.arraycopy(draft.tokens, 0, rows, missing + 1, draft.size)
        return target.forward(rows, draft.parentRows(missing), missing)
    }

    /**
     * Commits those of the [fresh] tokens of a verdict that the stop rule keeps; returns how many, and why the answer
     * ends, if it does. [held] rows were in the cache before the anchor's.
     */
    private fun commit(verdict: Verdict, fresh: IntArray, held: Int): Cut {
        fresh.forEach { generated.add(it) }
        val cut = stop.cut(generated, fresh.size)
        check(cut.keep == fresh.size || cut.reason != null) { "a stop rule cut tokens and gave no reason" }
        context.append(fresh.copyOf(cut.keep))
        // The anchor's row stays, and so do the rows of the kept tokens, except the last one, which is the next anchor.
        val kept = IntArray(cut.keep) { held + rowOf(if (it == 0) -1 else verdict.path[it - 1]) }
        val cache = target.cache
        cache.rollback(held, kept)
        val isFull = context.size >= context.capacity || cache.length + target.padded(1) > cache.capacity
        return Cut(cut.keep, cut.reason ?: if (isFull) "context" else null)
    }
}

private const val NANO = 1e-9
