package dev.pocketspec.text

import dev.pocketspec.json.JsonException
import dev.pocketspec.json.JsonObject
import dev.pocketspec.json.JsonReader

/** Reads one tokenizer; JsonException or PatternException says what is wrong. */
internal class TokenizerReader(private val text: String) {
    private val parts = HashMap<String, Any?>()
    private val modelOptions = HashMap<String, Any?>()
    private val tokens = Vocabulary.Builder()
    private var hasTokens = false
    private var mergesAt = -1
    private var numMerges = 0

    fun read(): Tokenizer {
        val reader = JsonReader(text)
        reader.members { name -> if (name == "model") readModel(reader) else parts[name] = reader.value() }
        reader.end()
        val options = JsonObject.of(modelOptions, "model")
        refuseOthers(options)
        val vocabulary = tokens.build()
        val hasBytes = options.boolean("byte_fallback", false)
        val unknown = unknown(options, vocabulary, if (hasBytes) byteTokens(vocabulary) else null)
        val model = BytePairs(vocabulary, readMerges(vocabulary), unknown, options.boolean("ignore_merges", false))
        val all = JsonObject.of(parts)
        val added = if (all.has("added_tokens")) all.children("added_tokens").map(::addedToken) else emptyList()
        val normalizer = TokenizerParts.normalizer(all.childOrNull("normalizer"))
        return BytePairTokenizer(
            model,
            AddedTokens(added, vocabulary, normalizer),
            TokenizerParts.preTokenizer(all.childOrNull("pre_tokenizer")),
            TokenizerParts.around(all.childOrNull("post_processor")),
            TokenizerParts.decoder(all.childOrNull("decoder")),
            hasBytes,
        )
    }

    private fun readModel(reader: JsonReader) = reader.members { name ->
        when {
            name == "vocab" && reader.isObject() -> {
                hasTokens = true
                reader.members { token -> tokens.add(token, id(reader)) }
            }
            name == "merges" -> {
                mergesAt = reader.position
                reader.items {
                    numMerges++
                    reader.skip()
                }
            }
            name == "vocab" -> reader.skip()
            else -> modelOptions[name] = reader.value()
        }
    }

    private fun id(reader: JsonReader): Int {
        val id = reader.value() as? Long
        if (id == null || id !in 0..MOST_ID) reader.fail("the id of a token is no whole number up to $MOST_ID")
        return id.toInt()
    }

    private fun refuseOthers(options: JsonObject) {
        val type = if (options.has("type")) options.text("type") else if (mergesAt >= 0) "BPE" else "without merges"
        if (type != "BPE") throw PatternException("it has the model '$type', which this app does not know (BPE)")
        if (!hasTokens || mergesAt < 0) throw JsonException("model.vocab or model.merges is missing")
        for (name in listOf("continuing_subword_prefix", "end_of_word_suffix")) {
            if (options.has(name) && options.text(name) != "") refuse("model has the $name '${options.text(name)}'")
        }
        if (options.has("dropout") && options.double("dropout") != 0.0) refuse("its model drops merges by chance")
    }

    private fun refuse(what: String): Nothing = throw PatternException("$what, which this app does not know")

    /** Merges are read when the vocabulary is known, wherever they stand in the file. */
    private fun readMerges(vocabulary: Vocabulary): Merges {
        val merges = Merges(numMerges)
        val reader = JsonReader(text, mergesAt)
        reader.items {
            val pair = if (reader.isList()) pair(reader) else reader.string().split(' ')
            if (pair.size == 2) {
                val ids = IntArray(3) { find(vocabulary, if (it < 2) pair[it] else pair[0] + pair[1]) }
                merges.add(ids[0], ids[1], ids[2])
            } else if (!pair[0].startsWith("#version")) {
                reader.fail("a merge is no pair of tokens")
            }
        }
        return merges
    }

    private fun pair(reader: JsonReader): List<String> = ArrayList<String>(2).also { pair ->
        reader.items { pair.add(reader.string()) }
        if (pair.size != 2) reader.fail("a merge is no pair of tokens")
    }

    private fun find(vocabulary: Vocabulary, token: String): Int {
        val id = vocabulary.find(token)
        return if (id >= 0) id else throw JsonException("a merge has the token '$token', which is not in the vocabulary")
    }

    private fun unknown(options: JsonObject, vocabulary: Vocabulary, byteTokens: IntArray?): UnknownCharacters {
        val name = options.textOrNull("unk_token")
        return UnknownCharacters(
            if (name == null) -1 else find(vocabulary, name),
            options.boolean("fuse_unk", false),
            byteTokens,
        )
    }

    private fun byteTokens(vocabulary: Vocabulary) = IntArray(256) { vocabulary.find(byteToken(it)) }

    private fun addedToken(of: JsonObject) = AddedToken(
        of.text("content"),
        of.boolean("special"),
        of.boolean("normalized"),
        of.boolean("single_word"),
        of.boolean("lstrip"),
        of.boolean("rstrip"),
    )

    companion object {
        private const val MOST_ID = 10_000_000L

        /** How the token for one byte is written. */
        fun byteToken(value: Int): String = "<0x" + value.toString(16).padStart(2, '0').uppercase() + ">"
    }
}
