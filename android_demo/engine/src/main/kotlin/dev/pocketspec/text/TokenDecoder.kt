package dev.pocketspec.text

/** Turns the texts of tokens into the texts that they stand for; those of the last decoder are joined. */
internal fun interface TokenDecoder {
    fun decode(tokens: List<String>): List<String>
}

/** The decoders that occur with byte-pair encodings. */
internal object TokenDecoders {
    /** What the library does without a decoder. */
    val NONE = TokenDecoder { listOf(it.joinToString(" ")) }

    fun sequence(parts: List<TokenDecoder>) = TokenDecoder { parts.fold(it) { tokens, part -> part.decode(tokens) } }

    fun byteLevel() = TokenDecoder { tokens ->
        val parts = tokens.map(ByteAlphabet::read)
        val bytes = ByteArray(parts.sumOf { it.size })
        var place = 0
        for (part in parts) {
            part.copyInto(bytes, place)
            place += part.size
        }
        listOf(Utf8.lossy(bytes))
    }

    fun fuse() = TokenDecoder { listOf(it.joinToString("")) }

    fun replace(matches: Matches, content: String) = TokenDecoder { tokens ->
        tokens.map { matches.replace(it, content) }
    }

    /** Cuts up to [start] and [stop] characters [content] off the ends of each token. */
    fun strip(content: String, start: Int, stop: Int) = TokenDecoder { tokens ->
        tokens.map { token ->
            var cut = token
            for (turn in 0 until start) cut = cut.removePrefix(content)
            for (turn in 0 until stop) cut = cut.removeSuffix(content)
            cut
        }
    }

    /** Marks become spaces, but those of the first token nothing, if a mark [isPrepended] to texts. */
    fun metaspace(mark: String, isPrepended: Boolean) = TokenDecoder { tokens ->
        tokens.mapIndexed { place, token -> token.replace(mark, if (place == 0 && isPrepended) "" else " ") }
    }

    /** Tokens such as `<0x0A>` become bytes; each of a run of them that is not UTF-8 becomes a replacement mark. */
    fun byteFallback() = TokenDecoder { tokens ->
        val texts = ArrayList<String>()
        val run = ArrayList<Byte>()
        fun endRun() {
            if (run.isEmpty()) return
            val text = Utf8.strict(run.toByteArray())
            if (text != null) texts.add(text) else run.forEach { texts.add(Utf8.REPLACEMENT.toString()) }
            run.clear()
        }
        for (token in tokens) {
            val value = byteOf(token)
            if (value >= 0) {
                run.add(value.toByte())
            } else {
                endRun()
                texts.add(token)
            }
        }
        endRun()
        texts
    }

    private fun byteOf(token: String): Int {
        if (token.length != 6 || !token.startsWith("<0x") || token[5] != '>') return -1
        val digits = if (token[3] == '+') token.substring(4, 5) else token.substring(3, 5) // as Rust reads numbers
        val isHexadecimal = digits.all { it in '0'..'9' || it in 'a'..'f' || it in 'A'..'F' }
        return if (isHexadecimal) digits.toInt(16) else -1
    }
}
