package dev.pocketspec.text.template

import dev.pocketspec.json.Json
import dev.pocketspec.json.JsonObject
import dev.pocketspec.text.TextFixtures
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File

/** Every conversation is rendered as in Python, or refused as there. */
class TemplateParityTest {
    @Test
    fun everyTemplateIsRenderedAsInPython() {
        val differences = TextFixtures.files("template").flatMap(::differences)
        assertTrue(differences.take(12).joinToString("\n"), differences.isEmpty())
    }

    private fun differences(file: File): List<String> {
        val cases = TextFixtures.lines(file)
        val head = cases.first()
        val special = head.child("special").values.mapValues { it.value as String }
        val template = try {
            JinjaTemplate(head.text("source"), special, head.text("name"))
        } catch (error: ChatTemplateException) {
            return listOf("${file.name}: ${error.message}")
        }
        return cases.drop(1).mapNotNull { case -> difference(template, case)?.let { "${file.name}: $it" } }.take(2).toList()
    }

    private fun difference(template: JinjaTemplate, case: JsonObject): String? {
        @Suppress("UNCHECKED_CAST")
        val messages = case.list("messages") as List<Map<String, Any?>>
        val rendered = try {
            template.renderData(messages, case.boolean("add"), case.child("arguments").values)
        } catch (error: ChatTemplateException) {
            return if (case.has("error")) null else "refuses ${Json.write(case.values)}: ${error.message}"
        }
        if (rendered == case.values["text"]) return null
        return "renders ${Json.write(rendered)} of ${Json.write(case.values)}"
    }
}
