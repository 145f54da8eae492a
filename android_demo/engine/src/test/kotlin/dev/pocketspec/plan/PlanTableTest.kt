package dev.pocketspec.plan

import dev.pocketspec.bundle.Bundle
import dev.pocketspec.bundle.FileEntry
import dev.pocketspec.bundle.PocketspecException
import dev.pocketspec.json.Json
import dev.pocketspec.json.JsonException
import dev.pocketspec.json.JsonObject
import dev.pocketspec.models.ModelFixtures
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

class PlanTableTest {
    private val text = ModelFixtures.file("plans.json").readText()
    private val key = Json.parseObject(text).text("key")
    private val table = PlanTableReader.read(text, key)

    @Test
    fun `the plan chosen is the one that the planner makes`() {
        val choices = Json.parseObject(ModelFixtures.file("choices.json").readText()).children("choices")
        assertTrue(choices.any { it.has("needed") } && choices.any { it.has("smallest") })
        for (choice in choices) compare(choice)
    }

    private fun compare(choice: JsonObject) {
        val request = PlanRequest(
            choice.long("budget", Long.MIN_VALUE..Long.MAX_VALUE),
            choice.text("kernels"),
            ProcessBytes(choice.long("modules"), choice.long("files")),
            choice.int("context"),
            choice.textOrNull("kv_type"),
        )
        if (choice.has("smallest")) {
            val refused = assertFailsWith<OverBudgetException> { table.choose(request) }
            assertEquals(choice.long("smallest"), refused.smallestBytes)
            return
        }
        val plan = table.choose(request)
        assertEquals(choice.long("needed"), plan.neededBytes)
        assertEquals(choice.int("prefill_chunk"), plan.prefillChunk)
        assertEquals(DraftPlan(choice.text("shape") == "tree", choice.int("nodes")), plan.draft)
        val levels = plan.levels.map { listOf<Any>(it.name, it.kvType, it.capacity.toLong(), it.maxRows.toLong()) }
        assertEquals(choice.list("levels"), levels)
        assertEquals(choice.list("given_up"), plan.givenUp.map { listOf<Any>(it.step, it.change, it.savedBytes) })
        assertEquals(plan.neededBytes, plan.parts().sumOf { it.bytes })
    }

    @Test
    fun `without a context the longest that fits is taken`() {
        val table = PlanTableReader.read(Bundle.read(ModelFixtures.file("demo")))
        val process = ProcessBytes(10_000_000, 20_000_000)
        val contexts = HashSet<Int>()
        val least = table.smallestBytes(PlanRequest(0, "native", process))
        for (budget in least..least + 40_000_000 step 1_000_000) {
            val plan = table.choose(PlanRequest(budget, "native", process))
            assertTrue(plan.neededBytes <= budget)
            contexts.add(plan.context)
            val longer = table.contexts.filter { it > plan.context }
            for (context in longer) {
                assertFailsWith<OverBudgetException> { table.choose(PlanRequest(budget, "native", process, context)) }
            }
        }
        assertTrue(contexts.size > 1)
        assertFailsWith<OverBudgetException> { table.choose(PlanRequest(least - 1, "native", process)) }
    }

    @Test
    fun `a refusal names the missing bytes and the least budget`() {
        val request = PlanRequest(1_000_000, "native", ProcessBytes(0, 0), 512)
        val refused = assertFailsWith<OverBudgetException> { table.choose(request) }
        assertTrue(PlanTable.show(refused.smallestBytes) in refused.message)
        assertTrue(PlanTable.show(refused.smallestBytes - 1_000_000) in refused.message)
        assertEquals(512, table.choose(request.copy(budgetBytes = refused.smallestBytes)).context)
    }

    @Test
    fun `contexts and types without plans are refused with those that there are`() {
        for (request in listOf(request(700, null), request(512, "fp64"))) {
            assertTrue("512" in assertFailsWith<PocketspecException> { table.choose(request) }.message)
        }
    }

    @Test
    fun `tables of other bundles and newer versions are refused`() {
        val (older, newer) = listOf(1, 3).map { text.replace("\"schema\": 2", "\"schema\": $it") }
        assertTrue("memory plans" in assertFailsWith<PocketspecException> { PlanTableReader.read(older, key) }.message)
        assertTrue("update" in assertFailsWith<PocketspecException> { PlanTableReader.read(newer, key) }.message)
        assertTrue("memory plans" in assertFailsWith<PocketspecException> { PlanTableReader.read(text, "0") }.message)
    }

    @Test
    fun `a buffer that leaves its block is refused`() {
        val broken = text.replaceFirst("\"buffers\": [{\"name\": \"kv\", \"offset\": 0", "\"buffers\": [{\"name\": \"kv\", \"offset\": 64")
        assertTrue(broken != text)
        assertFailsWith<JsonException> { PlanTableReader.read(broken, key) }
    }

    @Test
    fun `the key is over all files but the table`() {
        val files = mapOf("b" to FileEntry(1, "2"), "a" to FileEntry(1, "1"))
        val key = PlanTableReader.keyOf(files)
        assertEquals(key, PlanTableReader.keyOf(files + (PlanTable.FILE_NAME to FileEntry(1, "3"))))
        assertTrue(key != PlanTableReader.keyOf(files + ("c" to FileEntry(1, "3"))))
    }

    private fun request(context: Int, kvType: String?) = PlanRequest(1, "native", ProcessBytes(0, 0), context, kvType)
}
