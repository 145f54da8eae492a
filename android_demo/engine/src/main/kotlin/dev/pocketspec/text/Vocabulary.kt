package dev.pocketspec.text

/**
 * Tokens by id, and ids by token: one array of characters and a hash table, since a map of 150,000 texts would take
 * twenty times the room.
 */
internal class Vocabulary private constructor(
    private val characters: CharArray,
    private val starts: IntArray,
    private val ids: IntArray,
    private val largest: Int,
) {
    private val slots = IntArray(tableSize(ids.size)) { -1 }
    private val entryOfId = IntArray(largest + 1) { -1 }

    /** The number of tokens. */
    var size = 0
        private set

    init {
        for (entry in ids.indices) {
            val slot = slotOf(characters, starts[entry], starts[entry + 1])
            if (slots[slot] < 0) size++
            slots[slot] = entry // a token that comes twice has the id that comes last, as in the library
        }
        for (slot in slots) if (slot >= 0) entryOfId[ids[slot]] = slot
    }

    /** The id of the token that the characters of [text] from [start] to [end] are; -1 if they are none. */
    fun find(text: String, start: Int = 0, end: Int = text.length): Int {
        var slot = slot(hash(end - start) { text[start + it] })
        while (true) {
            val entry = slots[slot]
            if (entry < 0) return -1
            if (isEntry(entry, end - start) { text[start + it] }) return ids[entry]
            slot = (slot + 1) and (slots.size - 1)
        }
    }

    /** The token with id [id]; null if there is none. */
    fun token(id: Int): String? {
        val entry = if (id in 0..largest) entryOfId[id] else -1
        return if (entry < 0) null else String(characters, starts[entry], starts[entry + 1] - starts[entry])
    }

    private fun slotOf(from: CharArray, start: Int, end: Int): Int {
        var slot = slot(hash(end - start) { from[start + it] })
        while (slots[slot] >= 0 && !isEntry(slots[slot], end - start) { from[start + it] }) {
            slot = (slot + 1) and (slots.size - 1)
        }
        return slot
    }

    private inline fun hash(length: Int, at: (Int) -> Char): Int {
        var hash = 0
        for (place in 0 until length) hash = hash * 31 + at(place).code
        return hash
    }

    private fun slot(hash: Int): Int = (hash * MIX ushr 8) and (slots.size - 1)

    private inline fun isEntry(entry: Int, length: Int, at: (Int) -> Char): Boolean {
        val start = starts[entry]
        if (starts[entry + 1] - start != length) return false
        for (place in 0 until length) if (characters[start + place] != at(place)) return false
        return true
    }

    /** Collects tokens. */
    class Builder {
        private val characters = StringBuilder()
        private val starts = IntList(1024)
        private val ids = IntList(1024)
        private var largest = -1

        fun add(token: String, id: Int) {
            starts.add(characters.length)
            ids.add(id)
            characters.append(token)
            largest = maxOf(largest, id)
        }

        fun build(): Vocabulary {
            starts.add(characters.length)
            val all = CharArray(characters.length)
            characters.getChars(0, all.size, all, 0)
            return Vocabulary(all, starts.toArray(), ids.toArray(), largest)
        }
    }

    private companion object {
        const val MIX = -0x61c88647

        fun tableSize(entries: Int): Int = Integer.highestOneBit(maxOf(8, entries * 2)) * 2
    }
}
