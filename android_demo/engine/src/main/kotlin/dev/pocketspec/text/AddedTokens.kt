package dev.pocketspec.text

/** A token that is found in a text before anything else is done with it. */
internal class AddedToken(
    val content: String,
    val isSpecial: Boolean,
    val isNormalized: Boolean,
    val isSingleWord: Boolean,
    val stripsLeft: Boolean,
    val stripsRight: Boolean,
)

/** A part of a text: a token that was found, or text that is yet to be encoded; [isFirst]: it begins the whole text. */
internal class Piece(val text: String, val isFirst: Boolean, val token: Int = -1)

/** The added tokens of a tokenizer, numbered as the library does it, and how they are found. */
internal class AddedTokens(tokens: List<AddedToken>, vocabulary: Vocabulary, private val normalizer: Normalizer) {
    private val byId = LinkedHashMap<Int, AddedToken>()
    private val idOf = HashMap<String, Int>()
    private val normalized = HashMap<Int, String>()
    private val specialContents = HashSet<String>()
    private val plainTrie = TokenTrie()
    private val normalizedTrie = TokenTrie()

    init {
        var nextId = vocabulary.size
        for (token in tokens) {
            if (token.content.isEmpty()) continue
            val known = idOf[token.content] ?: vocabulary.find(token.content)
            val id = if (known >= 0) known else nextId++
            idOf[token.content] = id
            byId[id] = token
            if (token.isSpecial) specialContents.add(token.content)
            if (token.isNormalized) normalized[id] = normalizer.normalize(token.content) else normalized.remove(id)
        }
        for ((id, token) in byId) {
            if (token.isNormalized) normalizedTrie.add(normalized.getValue(id), id) else plainTrie.add(token.content, id)
        }
    }

    /** How many added tokens [vocabulary] does not have. */
    fun numBeyond(vocabulary: Vocabulary): Int = idOf.keys.count { vocabulary.find(it) < 0 }

    /** The special tokens, and their ids. */
    val special: Map<String, Int> get() = idOf.filterKeys { it in specialContents }

    /** All of them. */
    val all: Collection<AddedToken> get() = byId.values

    /** The added token with the id [id]; null if there is none. */
    fun token(id: Int): AddedToken? = byId[id]

    /** The id of the added token [content]; null if there is none. */
    fun id(content: String): Int? = idOf[content]

    /** What decoders are given for [id]: the token as it is found in texts; null if it is not an added one. */
    fun written(id: Int): String? = byId[id]?.let { normalized[id] ?: it.content }

    /** Whether decoded text leaves out what is written so. */
    fun isSpecial(written: String): Boolean = written in specialContents

    /** [text] split at the added tokens, and normalized between them. */
    fun split(text: String): List<Piece> {
        val pieces = ArrayList<Piece>()
        for (piece in found(Piece(text, true), plainTrie)) {
            if (piece.token >= 0) pieces.add(piece) else pieces.addAll(found(normalizedPiece(piece), normalizedTrie))
        }
        return pieces
    }

    private fun normalizedPiece(piece: Piece) = Piece(normalizer.normalize(piece.text), piece.isFirst)

    private fun found(piece: Piece, trie: TokenTrie): List<Piece> {
        val text = piece.text
        val pieces = ArrayList<Piece>()
        var done = 0
        var place = 0
        while (place < text.length && !trie.isEmpty) {
            val id = trie.longest(text, place)
            if (id < 0) {
                place++
                continue
            }
            val end = place + trie.lastLength
            val token = byId.getValue(id)
            if (!token.isSingleWord || isAlone(text, place, end)) {
                val start = if (token.stripsLeft) maxOf(spaceBefore(text, place), done) else place
                val stop = if (token.stripsRight) spaceAfter(text, end) else end
                if (done < start) pieces.add(part(piece, done, start))
                pieces.add(Piece("", false, id))
                done = stop
            }
            place = end
        }
        if (done < text.length) pieces.add(part(piece, done, text.length))
        return pieces
    }

    private fun part(piece: Piece, start: Int, end: Int) =
        Piece(piece.text.substring(start, end), piece.isFirst && start == 0)

    private fun isAlone(text: String, start: Int, end: Int): Boolean {
        val isBegun = start > 0 && Unicode.isWord(text.codePointBefore(start))
        return !isBegun && !(end < text.length && Unicode.isWord(text.codePointAt(end)))
    }

    private fun spaceBefore(text: String, start: Int): Int {
        var place = start
        while (place > 0 && Unicode.isSpace(text[place - 1].code)) place--
        return place
    }

    private fun spaceAfter(text: String, end: Int): Int {
        var place = end
        while (place < text.length && Unicode.isSpace(text[place].code)) place++
        return place
    }
}

/** Finds the longest of many texts at a place. */
private class TokenTrie {
    private class Node(var id: Int = -1, val next: HashMap<Char, Node> = HashMap(4))

    private val root = Node()

    /** The length of what [longest] found last. */
    var lastLength = 0
        private set

    val isEmpty: Boolean get() = root.next.isEmpty()

    fun add(text: String, id: Int) {
        if (text.isEmpty()) return
        var node = root
        for (character in text) node = node.next.getOrPut(character) { Node() }
        node.id = id
    }

    /** The id of the longest token that begins at [place]; -1 if none does. */
    fun longest(text: String, place: Int): Int {
        var node = root
        var found = -1
        var at = place
        while (at < text.length) {
            node = node.next[text[at++]] ?: break
            if (node.id >= 0) {
                found = node.id
                lastLength = at - place
            }
        }
        return found
    }
}
