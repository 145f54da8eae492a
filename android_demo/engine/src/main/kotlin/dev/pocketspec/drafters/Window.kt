package dev.pocketspec.drafters

import dev.pocketspec.decoding.Context
import dev.pocketspec.decoding.Model
import dev.pocketspec.decoding.Tokens

// A window of one token would be empty after a move by half of it.
private const val MIN_WINDOW = 2

/**
 * The most committed tokens that a draft model reads of a context of [contextCapacity]; 0 if its cache is too small.
 *
 * The cache has `maxRows` rows more than the model has positions. If the positions hold the whole context, the window
 * is all of it: no draft goes beyond the context. Otherwise `maxRows - 1` of them stay free, so that a full window
 * leaves room for a draft.
 */
internal fun Model.windowSize(contextCapacity: Int): Int {
    val positions = cache.capacity - maxRows
    val size = if (contextCapacity <= positions) positions else positions - maxRows + 1
    return if (size >= MIN_WINDOW) size else 0
}

/**
 * The latest of [tokens] that a window of [size] holds: all, or between half of it and all of it.
 *
 * The window's start moves in steps of half a window and depends only on the token count. So it needs no state: with a
 * size of 10, 10 tokens are read from 0 on, 11 to 15 from 5 on, 16 to 20 from 10 on.
 */
internal fun windowOf(tokens: Tokens, size: Int): Tokens {
    val step = size / 2
    val excess = maxOf(0, tokens.size - size)
    return tokens.part((excess + step - 1) / step * step)
}

/** [tokens] with ids that a model of [vocabSize] lacks replaced by its last one; the same view if there can be none. */
internal fun knownTo(vocabSize: Int, targetVocabSize: Int, tokens: Tokens): Tokens {
    if (targetVocabSize <= vocabSize) return tokens
    return Tokens(IntArray(tokens.size) { minOf(tokens[it], vocabSize - 1) })
}

/** Rows that the model must read before it can draft for [context]. */
fun Model.rowsBehind(context: Context): Int {
    val window = windowOf(context.tokens, maxOf(MIN_WINDOW, windowSize(context.capacity)))
    return window.size - cache.tokens.sharedPrefix(window)
}
