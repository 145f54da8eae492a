package dev.pocketspec.decoding

/**
 * The steps of one answer: continues [context] until [stop] or the context ends it.
 *
 * Every call of [next] commits tokens to the context; to give up the answer is not to call it again. If a drafter is
 * broken, [drop] is called, which keeps it from being picked again. The prompt is what the context holds at the first
 * step; what the cache already has of it is not computed again. ContextFullException if the context is full or the
 * prompt does not fit the cache.
 */
class Decoding(
    private val target: Model,
    private val context: Context,
    drafters: Drafters,
    private val scheduler: Scheduler,
    verifier: Verifier,
    stop: StoppingCriterion,
    private val drop: (DraftException) -> Unit = { throw it },
) : Iterator<Step> {
    private val loop = Loop(target, context, drafters, verifier, stop)
    private var last: Step? = null

    override fun hasNext(): Boolean = last?.finish == null

    override fun next(): Step {
        if (!hasNext()) throw NoSuchElementException("the answer ended: ${last?.finish}")
        if (last == null) readPrompt()
        val step = try {
            loop.step(scheduler.pick(last))
        } catch (error: DraftException) {
            drop(error)
            loop.step(Pick(null))
        }
        last = step
        return step
    }

    private fun readPrompt() {
        requireRoom(context.size, context.capacity)
        target.fillCache(context.tokens.part(0, context.size - 1))
    }
}

/** Brings the cache to the rows of [wanted], keeping the prefix that it already holds, with room for one more. */
fun Model.fillCache(wanted: Tokens) {
    val kept = cache.tokens.sharedPrefix(wanted)
    cache.rollback(kept)
    cache.require(wanted.size - kept + padded(1))
    if (kept < wanted.size) prefill(wanted.part(kept).toIntArray())
}
