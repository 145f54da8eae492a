package dev.pocketspec.text

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File

class TokenizerFileTest {
    private val tokens = """{"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "<u>": 5}"""

    private fun description(parts: String = "", model: String = "") =
        """{"model": {"type": "BPE", "merges": ["a b", ["ab", "c"]], "vocab": $tokens$model}$parts}"""

    private fun refusal(text: String): String = assertThrows(text, TokenizerException::class.java) { TokenizerFile.read(text) }.message!!

    @Test
    fun mergesAreReadInBothForms() {
        val tokenizer = TokenizerFile.read(description())
        assertArrayEquals(intArrayOf(4, 3, 0), tokenizer.encode("abcaba"))
        assertArrayEquals(intArrayOf(4, 0), tokenizer.encode("abc?a"))
        assertEquals(6, tokenizer.vocabSize)
    }

    @Test
    fun partsThatAreNotKnownAreNamed() {
        val unknown = mapOf(
            description(""", "pre_tokenizer": {"type": "UnicodeScripts"}""") to "the pre-tokenizer 'UnicodeScripts'",
            description(""", "normalizer": {"type": "Precompiled"}""") to "the normalizer 'Precompiled'",
            description(""", "decoder": {"type": "WordPiece"}""") to "the decoder 'WordPiece'",
            description(""", "post_processor": {"type": "BertProcessing"}""") to "the post-processor 'BertProcessing'",
            description(model = """, "end_of_word_suffix": "</w>"""") to "the end_of_word_suffix '</w>'",
            """{"model": {"type": "Unigram", "vocab": [["a", 0.5]]}}""" to "the model 'Unigram'",
            description(""", "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(?<=a)"}, "behavior": "Isolated"}""") to "'(?<='",
        )
        for ((text, named) in unknown) {
            val message = refusal(text)
            assertTrue(message, named in message && "not know" in message && message.startsWith("tokenizer.json cannot be used: "))
            assertTrue(message, message.endsWith("; take a model with another tokenizer"))
        }
    }

    @Test
    fun brokenFilesAreRefused() {
        val broken = listOf(
            "{}", "[", "null", description().dropLast(1), description().replace("\"abc\": 4, ", ""),
            description().replace("\"a\": 0", "\"a\": -1"),
            description().replace("\"a b\"", "\"a b c\""), description(model = ", \"unk_token\": \"?\""),
            description(", \"normalizer\": {\"type\": \"Prepend\"}"),
        )
        for (text in broken) assertTrue(refusal(text), refusal(text).startsWith("tokenizer.json "))
        val missing = assertThrows(TokenizerException::class.java) { TokenizerFile.open(File("nowhere/tokenizer.json")) }
        assertEquals("no tokenizer.json in nowhere; export the bundle again", missing.message)
    }

    @Test
    fun surrogatesAreRefused() {
        val error = assertThrows(TokenizerException::class.java) { TokenizerFile.read(description()).encode("a\uD800") }
        assertEquals("the prompt is not valid Unicode text: surrogates not allowed", error.message)
    }

    @Test
    fun aLongWordIsNoWorseThanShortOnes() {
        val tokenizer = TokenizerFile.read(description())
        val ids = tokenizer.encode("abc".repeat(200_000)) // one piece: with a list of symbols, hours
        assertEquals(200_000, ids.size)
        assertTrue(ids.all { it == 4 })
    }
}
