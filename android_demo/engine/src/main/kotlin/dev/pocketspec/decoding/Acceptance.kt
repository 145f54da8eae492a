package dev.pocketspec.decoding

/** Follows the target's most probable token while the draft has it: the rule at temperature 0. */
class GreedyVerifier(private val sampler: Sampler = Sampler()) : Verifier {
    override fun accept(draft: Draft, logits: Logits, context: Context): Verdict {
        val rows = TargetRows(draft, logits, context, sampler)
        return matchWalk(draft, rows::greedy)
    }
}

/**
 * Sample and match: draws from the target once per visited node, and descends while the draft has the token. It is the
 * rule above temperature 0.
 *
 * Drafted tokens never influence the random numbers. So with any draft the output is the same, token for token, as
 * plain sampling with the same seed.
 */
class MatchVerifier(private val sampler: Sampler = Sampler()) : Verifier {
    override fun accept(draft: Draft, logits: Logits, context: Context): Verdict {
        val rows = TargetRows(draft, logits, context, sampler)
        return matchWalk(draft, rows::drawn)
    }
}

/** The acceptance rule for answers sampled with [sampling]. */
fun verifierFor(sampling: SamplingParams): Verifier =
    if (sampling.temperature == 0.0) GreedyVerifier() else MatchVerifier()

/** Walks down from the anchor while `choose(node)`, the target's token after a node, is one of its children. */
private fun matchWalk(draft: Draft, choose: (Int) -> Int): Verdict {
    val path = IntArray(draft.size)
    var depth = 0
    while (true) {
        val node = if (depth > 0) path[depth - 1] else -1
        val token = choose(node)
        val child = draft.child(node) { draft.tokens[it] == token } ?: return Verdict(path.copyOf(depth), token)
        path[depth++] = child
    }
}
