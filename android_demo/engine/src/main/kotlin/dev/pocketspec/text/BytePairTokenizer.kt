package dev.pocketspec.text

/** A byte-pair tokenizer: added tokens, normalizer, pre-tokenizer, model, what belongs around a text, and decoder. */
internal class BytePairTokenizer(
    private val model: BytePairs,
    private val added: AddedTokens,
    private val preTokenizer: PreTokenizer,
    private val around: List<IntArray?>,
    private val tokenDecoder: TokenDecoder,
    fallsBackToBytes: Boolean,
) : Tokenizer {
    override val vocabSize: Int = model.vocabulary.size + added.numBeyond(model.vocabulary)

    override val specialTokens: Map<String, Int> = added.special

    private val seams = TextSeams(this, added)

    /** Bytes by the ids of the tokens `<0x00>` to `<0xFF>`, if the tokenizer falls back to bytes. */
    val byteTokens: Map<Int, Int> = if (fallsBackToBytes) findByteTokens() else emptyMap()

    override fun encode(text: String, addSpecialTokens: Boolean): IntArray {
        if (Utf8.loneSurrogate(text) >= 0) {
            throw TokenizerException("the prompt is not valid Unicode text: surrogates not allowed")
        }
        val ids = IntList(text.length / 2 + 16)
        try {
            if (addSpecialTokens) {
                for (part in around) if (part == null) encodeInto(ids, text) else ids.addAll(part)
            } else {
                encodeInto(ids, text)
            }
        } catch (error: PatternException) {
            throw TokenizerException("the tokenizer cannot encode the prompt (${error.message}); shorten it")
        }
        return ids.toArray()
    }

    override fun encodeRest(text: String, start: Int, before: IntArray): IntArray = seams.encodeRest(text, start, before)

    override fun isBetweenTokens(text: String, place: Int): Boolean = seams.isBetweenTokens(text, place)

    override fun decoder(after: IntArray): TextStream = WindowStream(this, after)

    /** The library's decoding of [tokens], without special tokens; ids without an entry are ignored. */
    fun decodeWindow(tokens: IntArray): String {
        val written = ArrayList<String>(tokens.size)
        for (id in tokens) {
            val token = added.written(id) ?: model.vocabulary.token(id) ?: continue
            if (!added.isSpecial(token)) written.add(token)
        }
        return tokenDecoder.decode(written).joinToString("")
    }

    private fun encodeInto(ids: IntList, text: String) {
        for (piece in added.split(text)) {
            if (piece.token >= 0) ids.add(piece.token) else encodePiece(ids, piece)
        }
    }

    private fun encodePiece(ids: IntList, piece: Piece) {
        if (piece.text.isEmpty()) return
        for (word in preTokenizer.split(piece)) model.encode(word.text, ids)
    }

    private fun findByteTokens(): Map<Int, Int> {
        val found = LinkedHashMap<Int, Int>()
        for (value in 0..255) {
            val name = TokenizerReader.byteToken(value)
            val id = added.id(name) ?: model.vocabulary.find(name)
            if (id >= 0) found[id] = value
        }
        val newline = found.filterValues { it == '\n'.code }.keys.toIntArray()
        return if (decodeWindow(newline) == "\n") found else emptyMap()
    }
}
