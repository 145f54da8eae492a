package dev.pocketspec.text

import dev.pocketspec.json.JsonObject

/** Makes the parts of a tokenizer from their descriptions; a kind that is not known is refused by its name. */
internal object TokenizerParts {
    private val FORMS = listOf("NFC", "NFD", "NFKC", "NFKD")

    fun normalizer(of: JsonObject?): Normalizer {
        if (of == null) return Normalizers.NONE
        return when (val type = of.textOrNull("type") ?: "") {
            in FORMS -> Normalizers.unicode(canonical = 'K' !in type, composed = type.endsWith("C"))
            "Lowercase" -> Normalizers.lowercase()
            "Prepend" -> Normalizers.prepend(of.text("prepend"))
            "Replace" -> Normalizers.replace(matches(of), of.text("content"))
            "Sequence" -> Normalizers.sequence(of.children("normalizers").map(::normalizer))
            "Strip" -> Normalizers.strip(of.boolean("strip_left"), of.boolean("strip_right"))
            else -> unknown("normalizer", type, FORMS + listOf("Lowercase", "Prepend", "Replace", "Sequence", "Strip"))
        }
    }

    fun preTokenizer(of: JsonObject?): PreTokenizer {
        if (of == null) return PreTokenizers.NONE
        return when (val type = of.textOrNull("type") ?: "") {
            "ByteLevel" -> PreTokenizers.byteLevel(of.boolean("add_prefix_space"), of.boolean("use_regex", true))
            "Digits" -> PreTokenizers.digits(of.boolean("individual_digits"))
            "Metaspace" -> PreTokenizers.metaspace(of.text("replacement"), scheme(of), of.boolean("split", true))
            "Sequence" -> PreTokenizers.sequence(of.children("pretokenizers").map(::preTokenizer))
            "Split" -> PreTokenizers.split(matches(of), behavior(of), of.boolean("invert", false))
            else -> unknown("pre-tokenizer", type, listOf("ByteLevel", "Digits", "Metaspace", "Sequence", "Split"))
        }
    }

    fun decoder(of: JsonObject?): TokenDecoder {
        if (of == null) return TokenDecoders.NONE
        return when (val type = of.textOrNull("type") ?: "") {
            "ByteFallback" -> TokenDecoders.byteFallback()
            "ByteLevel" -> TokenDecoders.byteLevel()
            "Fuse" -> TokenDecoders.fuse()
            "Metaspace" -> TokenDecoders.metaspace(of.text("replacement"), scheme(of) != "never")
            "Replace" -> TokenDecoders.replace(matches(of), of.text("content"))
            "Sequence" -> TokenDecoders.sequence(of.children("decoders").map(::decoder))
            "Strip" -> TokenDecoders.strip(of.text("content"), of.int("start"), of.int("stop"))
            else -> unknown("decoder", type, listOf("ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Sequence", "Strip"))
        }
    }

    /** What belongs around a text: ids, and null for the text itself. */
    fun around(of: JsonObject?): List<IntArray?> {
        if (of == null) return listOf(null)
        return when (val type = of.textOrNull("type") ?: "") {
            "ByteLevel" -> listOf(null)
            "Sequence" -> of.children("processors").fold(listOf(null), ::wrapped)
            "TemplateProcessing" -> of.children("single").map { piece -> special(piece, of.child("special_tokens")) }
            else -> unknown("post-processor", type, listOf("ByteLevel", "Sequence", "TemplateProcessing"))
        }
    }

    /** What [outer] puts around a text that has [inner] around it. */
    private fun wrapped(inner: List<IntArray?>, outer: JsonObject): List<IntArray?> =
        around(outer).flatMap { ids -> if (ids == null) inner else listOf(ids) }

    private fun special(piece: JsonObject, tokens: JsonObject): IntArray? {
        val token = piece.childOrNull("SpecialToken")
        if (token != null) return tokens.child(token.text("id")).ints("ids")
        piece.child("Sequence").text("id", "A")
        return null
    }

    private fun scheme(of: JsonObject): String {
        if (of.has("prepend_scheme")) return of.text("prepend_scheme", "always", "first", "never")
        return if (of.boolean("add_prefix_space", true)) "always" else "never"
    }

    private fun behavior(of: JsonObject): SplitBehavior {
        val names = SplitBehavior.values().map { it.name }.toTypedArray()
        return SplitBehavior.valueOf(of.text("behavior", *names))
    }

    private fun matches(of: JsonObject): Matches {
        val pattern = of.child("pattern")
        return if (pattern.has("String")) Matches.of(pattern.text("String")) else Matches.of(Pattern(pattern.text("Regex")))
    }

    private fun unknown(kind: String, type: String, known: List<String>): Nothing {
        throw PatternException("it has the $kind '$type', which this app does not know (${known.joinToString()})")
    }
}
