package dev.pocketspec.decoding

/** An acceptance rule. */
interface Verifier {
    /** Judges [draft] by [logits] of 1 + nodes rows: row 0 follows the anchor. */
    fun accept(draft: Draft, logits: Logits, context: Context): Verdict
}

/** [path]: accepted nodes from the anchor down. [token]: the target's own token after them. */
class Verdict(val path: IntArray, val token: Int)
