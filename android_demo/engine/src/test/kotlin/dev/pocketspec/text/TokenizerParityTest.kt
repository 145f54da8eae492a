package dev.pocketspec.text

import dev.pocketspec.json.Json
import dev.pocketspec.json.JsonObject
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File

/** Every text has the tokens that it has in Python, and every row of tokens the same text, in the same pieces. */
class TokenizerParityTest {
    @Test
    fun everyTokenizerIsEqualToPythons() {
        val differences = TextFixtures.files("text").flatMap(::differences)
        assertTrue(differences.take(8).joinToString("\n"), differences.isEmpty())
    }

    private fun differences(file: File): List<String> {
        val cases = TextFixtures.lines(file)
        val head = cases.first()
        val tokenizer = TokenizerFile.open(File(head.text("tokenizer"), "tokenizer.json"))
        assertEquals(file.name, head.int("entries"), tokenizer.vocabSize)
        assertEquals(file.name, head.child("special").values.mapValues { (it.value as Long).toInt() }, tokenizer.specialTokens)
        return cases.drop(1).mapNotNull { case -> difference(tokenizer, case)?.let { "${file.name}: $it" } }.toList()
    }

    private fun difference(tokenizer: Tokenizer, case: JsonObject): String? {
        if (case.has("error")) {
            val error = assertThrows(TokenizerException::class.java) { tokenizer.encode(case.text("text")) }
            return if (error.message == case.text("error")) null else "says ${error.message} of ${case.values}"
        }
        if (case.has("text")) {
            val text = case.text("text")
            val found = tokenizer.encode(text).toList()
            if (found != case.ints("ids").toList()) return "${Json.write(text, true)} has $found, not ${case.list("ids")}"
            val bare = tokenizer.encode(text, addSpecialTokens = false).toList()
            if (bare != case.ints("bare").toList()) return "${Json.write(text, true)} has bare $bare, not ${case.list("bare")}"
        }
        val pieces = pieces(tokenizer, case)
        if (pieces != case.texts("pieces")) return "the pieces of ${case.values} are ${Json.write(pieces, true)}"
        val window = (tokenizer as BytePairTokenizer).decodeWindow(case.ints("tokens"))
        return if (window == case.text("window")) null else "the text of ${case.values} is ${Json.write(window, true)}"
    }

    private fun pieces(tokenizer: Tokenizer, case: JsonObject): List<String> {
        val stream = tokenizer.decoder(case.ints("after"))
        val tokens = case.ints("tokens")
        val sizes = case.ints("sizes")
        val pieces = ArrayList<String>()
        var start = 0
        while (start < tokens.size) {
            val end = start + sizes[pieces.size % sizes.size]
            pieces.add(stream.feed(tokens.copyOfRange(start, minOf(end, tokens.size))))
            start = end
        }
        return pieces + stream.flush()
    }
}
