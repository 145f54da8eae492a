package dev.pocketspec.decoding

/**
 * One forward of the target and the [tokens] it committed; [sources] names who proposed each.
 *
 * [numAccepted] of the [numDrafted] nodes were accepted, even if a stop rule then cut some. Times are wall clock in
 * seconds: drafting, the target's forward, and the whole step. [finish] is "eos", "stop", "length" or "context" on the
 * last step of an answer, else null. [pick] is what was asked for, [draft] what was proposed, with the estimates of
 * the drafter and the steps below. [firstAccepted]: the drafter's first choice for the first token was accepted.
 */
class Step(
    val tokens: IntArray,
    val sources: List<String>,
    val numAccepted: Int,
    val draftSeconds: Double,
    val targetSeconds: Double,
    val seconds: Double,
    val finish: String? = null,
    val pick: Pick = Pick(null),
    val draft: Draft = Draft(),
    val firstAccepted: Boolean = false,
) {
    val numDrafted: Int get() = draft.size
}

/** The source of tokens that were not drafted. */
const val TARGET = "target"
