package dev.pocketspec.text.template

import dev.pocketspec.json.Json
import dev.pocketspec.json.JsonObject
import dev.pocketspec.text.TextFixtures
import org.junit.Assert.assertTrue
import org.junit.Test

/** Random templates are rendered as in Python; what only this app refuses, it refuses by name. */
class ExpressionParityTest {
    @Test
    fun randomTemplatesAreRenderedAsInPython() {
        val cases = TextFixtures.lines(TextFixtures.files("expression").single())
        @Suppress("UNCHECKED_CAST")
        val messages = cases.first().list("messages") as List<Map<String, Any?>>
        val differences = cases.drop(1).mapNotNull { difference(it, messages) }.toList()
        assertTrue("${differences.size}:\n" + differences.take(25).joinToString("\n"), differences.isEmpty())
    }

    private fun difference(case: JsonObject, messages: List<Map<String, Any?>>): String? {
        val rendered = try {
            JinjaTemplate(case.text("source"), mapOf("bos_token" to "<s>"), "the template").renderData(messages, true, emptyMap())
        } catch (error: ChatTemplateException) {
            if (case.has("error") || "not know" in error.message || "this app" in error.message) return null
            return "${Json.write(case.values)} is refused: ${error.message}"
        }
        return if (rendered == case.values["text"]) null else "${Json.write(case.values)} is ${Json.write(rendered)}"
    }
}
