package dev.pocketspec.text

/** What a tokenizer's model does with characters that are no tokens. */
internal class UnknownCharacters(val token: Int, val isFused: Boolean, val byteTokens: IntArray?)

/** Byte-pair encoding: a piece of text becomes its characters' tokens, which merge by rank. */
internal class BytePairs(
    val vocabulary: Vocabulary,
    private val merges: Merges,
    private val unknown: UnknownCharacters,
    private val takesWholeWords: Boolean,
) {
    /** Adds the ids of [piece] to [ids]. */
    fun encode(piece: String, ids: IntList) {
        if (piece.isEmpty()) return
        val whole = if (takesWholeWords) vocabulary.find(piece) else -1
        if (whole >= 0) {
            ids.add(whole)
            return
        }
        val symbols = characters(piece)
        if (symbols.size > 1) MergeQueue(symbols, merges).mergeInto(ids) else if (symbols.size == 1) ids.add(symbols[0])
    }

    /** The tokens of the characters of [piece]. Unknown ones wait for the next known one, as in the library. */
    private fun characters(piece: String): IntList {
        val symbols = IntList(piece.length + 4)
        var waits = false
        var place = 0
        while (place < piece.length) {
            val end = place + Character.charCount(piece.codePointAt(place))
            val id = vocabulary.find(piece, place, end)
            when {
                id >= 0 -> {
                    if (waits) symbols.add(unknown.token)
                    waits = false
                    symbols.add(id)
                }
                unknown.byteTokens != null && addBytes(piece.substring(place, end), unknown.byteTokens, symbols) -> Unit
                unknown.token >= 0 -> {
                    if (waits && !unknown.isFused) symbols.add(unknown.token)
                    waits = true
                }
            }
            place = end
        }
        if (waits) symbols.add(unknown.token)
        return symbols
    }

    /** Adds the byte tokens of [character]; false, and nothing, if one is missing. */
    private fun addBytes(character: String, byteTokens: IntArray, symbols: IntList): Boolean {
        val bytes = character.toByteArray(Charsets.UTF_8)
        if (bytes.any { byteTokens[it.toInt() and 0xFF] < 0 }) return false
        for (byte in bytes) symbols.add(byteTokens[byte.toInt() and 0xFF])
        return true
    }
}

/** Merges the tokens of one piece: a linked list of them, and a heap of the merges that are possible. */
private class MergeQueue(symbols: IntList, private val merges: Merges) {
    private val tokens = symbols.toArray()
    private val next = IntArray(tokens.size) { if (it + 1 < tokens.size) it + 1 else -1 }
    private val previous = IntArray(tokens.size) { it - 1 }
    private val isGone = BooleanArray(tokens.size)
    private var heap = LongArray(tokens.size)
    private var heapSize = 0

    fun mergeInto(ids: IntList) {
        for (place in 0 until tokens.size - 1) offer(place)
        while (heapSize > 0) {
            val top = take()
            merge((top shr 32).toInt(), top.toInt())
        }
        for (place in tokens.indices) if (!isGone[place]) ids.add(tokens[place])
    }

    private fun merge(rank: Int, place: Int) {
        if (isGone[place] || next[place] < 0) return
        val right = next[place]
        val current = merges.rank(tokens[place], tokens[right])
        if (current < 0 || merges.result(current) != merges.result(rank)) return // the tokens have changed meanwhile
        tokens[place] = merges.result(rank)
        isGone[right] = true
        next[place] = next[right]
        if (next[right] >= 0) previous[next[right]] = place
        if (previous[place] >= 0) offer(previous[place])
        offer(place)
    }

    /** Puts the merge of the token at [place] with its next one into the heap, if there is one. */
    private fun offer(place: Int) {
        if (next[place] < 0) return
        val rank = merges.rank(tokens[place], tokens[next[place]])
        if (rank >= 0) push(rank.toLong() shl 32 or place.toLong())
    }

    private fun push(entry: Long) {
        if (heapSize == heap.size) heap = heap.copyOf(heapSize * 2)
        var at = heapSize++
        while (at > 0 && heap[(at - 1) / 2] > entry) {
            heap[at] = heap[(at - 1) / 2]
            at = (at - 1) / 2
        }
        heap[at] = entry
    }

    private fun take(): Long {
        val top = heap[0]
        val last = heap[--heapSize]
        var at = 0
        while (true) {
            var child = 2 * at + 1
            if (child >= heapSize) break
            if (child + 1 < heapSize && heap[child + 1] < heap[child]) child++
            if (heap[child] >= last) break
            heap[at] = heap[child]
            at = child
        }
        heap[at] = last
        return top
    }
}
