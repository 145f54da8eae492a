package dev.pocketspec

import dev.pocketspec.bundle.Bundle
import dev.pocketspec.bundle.PocketspecException
import dev.pocketspec.chat.AnswerChunk
import dev.pocketspec.chat.AnswerSettings
import dev.pocketspec.json.Json
import dev.pocketspec.models.ModelFixtures
import dev.pocketspec.plan.OverBudgetException
import dev.pocketspec.text.Message
import org.junit.Assume.assumeTrue
import org.junit.experimental.categories.Category
import java.io.File
import java.util.concurrent.CountDownLatch
import kotlin.concurrent.thread
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

class EngineTest {
    private val folder = ModelFixtures.file("demo")
    private val parts = EngineParts(library = TestPlaces.kernels(), context = 512)
    private val messages = listOf(Message("user", "Tell me a story about a cat and a dog who live by the sea."))
    private val settings = AnswerSettings(maxNewTokens = 60)

    @Test
    fun `text is the same with speculation, without, and with a budget that changes all the time`() {
        open().use { engine ->
            val expected = read(engine, settings.copy(speculation = false))
            val fast = read(engine, settings)
            assertEquals(text(expected), text(fast))
            assertEquals(60, fast.last().statistics.tokens)
            assertTrue(fast.size < expected.size)
            val sizes = HashSet<Long>()
            var turn = 0
            val changing = read(engine, settings) {
                val view = engine.plan
                val budgets = listOf(view.smallestBytes, view.smallestBytes + 4_000_000, PLENTY)
                engine.setBudget(budgets[turn++ % 3])
                assertTrue(engine.plan.plannedBytes <= engine.plan.budgetBytes)
                assertEquals(engine.plan.plannedBytes, engine.plan.parts.sumOf { it.bytes })
                sizes.add(engine.plan.plannedBytes)
            }
            assertEquals(text(expected), text(changing))
            assertTrue(sizes.size > 1)
        }
    }

    @Test
    fun `a seeded answer above temperature 0 is the same with and without drafts`() {
        open().use { engine ->
            val warm = settings.copy(temperature = 0.8, seed = 5)
            assertEquals(text(read(engine, warm.copy(speculation = false))), text(read(engine, warm)))
            assertTrue(text(read(engine, warm)) != text(read(engine, warm.copy(seed = 6))))
        }
    }

    @Test
    fun `what the cache holds is not read again`() {
        open().use { engine ->
            val first = read(engine, settings)
            val again = messages + Message("assistant", text(first)) + Message("user", "And then?")
            val second = read(engine, settings, with = again)
            assertEquals(0, first.last().statistics.cachedTokens)
            assertTrue(second.last().statistics.cachedTokens >= first.last().statistics.promptTokens)
        }
    }

    @Test
    fun `a bundle that does not fit is refused before anything is loaded`() {
        val refused = assertFailsWith<OverBudgetException> { Engine.open(folder, 1_000_000, parts) }
        assertTrue("allow at least" in refused.message)
        open().use { engine ->
            val before = engine.plan
            assertFailsWith<OverBudgetException> { engine.setBudget(before.smallestBytes - 1) }
            assertEquals(before, engine.plan)
        }
    }

    @Test
    fun `a bundle without plans names the command`() {
        val bare = File.createTempFile("bare", "").apply { delete() }
        try {
            TestPlaces.demoBundle().copyRecursively(bare)
            val refused = assertFailsWith<PocketspecException> { Engine.open(bare, PLENTY, parts) }
            assertTrue("python -m memory plans" in refused.message)
        } finally {
            bare.deleteRecursively()
        }
    }

    @Test
    fun `a cancelled answer ends with the step that runs, and the next one is whole`() {
        open().use { engine ->
            val expected = text(read(engine, settings))
            engine.answer(messages, settings).use { answer ->
                answer.next()
                answer.cancel()
                assertEquals("cancelled", answer.next().statistics.finish)
                assertTrue(!answer.hasNext())
            }
            engine.answer(messages, settings).use { answer ->
                answer.cancel()
                assertEquals("cancelled", answer.next().statistics.finish)
            }
            assertEquals(expected, text(read(engine, settings)))
        }
    }

    @Test
    fun `closing from another thread ends the answer, waits for its forward, and leaves nothing`() {
        val engine = open()
        val begun = CountDownLatch(1)
        var failure: Throwable? = null
        val reader = thread {
            try {
                engine.answer(messages, settings.copy(maxNewTokens = 400)).use { answer ->
                    while (answer.hasNext()) {
                        answer.next()
                        begun.countDown()
                    }
                }
            } catch (error: Throwable) {
                failure = error
            }
        }
        begun.await()
        engine.close()
        reader.join()
        assertTrue(failure == null || failure is PocketspecException, "$failure")
        assertFailsWith<PocketspecException> { engine.answer(messages, settings) }
        engine.close()
    }

    @Test
    fun `while one thread has an answer others are refused`() {
        open().use { engine ->
            engine.answer(messages, settings).use { answer ->
                answer.next()
                var refused: Throwable? = null
                thread { refused = runCatching { engine.answer(messages, settings) }.exceptionOrNull() }.join()
                assertTrue(refused is PocketspecException)
                answer.next()
            }
        }
    }

    @Test
    fun `a prompt longer than the context is refused, and the engine goes on`() {
        open().use { engine ->
            val long = listOf(Message("user", "word ".repeat(2000)))
            assertFailsWith<PocketspecException> { read(engine, settings, with = long) }
            assertEquals(60, read(engine, settings).last().statistics.tokens)
        }
    }

    @Test
    fun `the operators of ONNX Runtime run a bundle without ours`() {
        Engine.open(folder, PLENTY, EngineParts(context = 512)).use { engine ->
            assertEquals("portable", engine.wholePlan.kernels)
            assertEquals(60, read(engine, settings).last().statistics.tokens)
        }
        assertTrue(Bundle.read(folder).manifest.target.native != null)
    }

    @Test
    @Category(Slow::class)
    fun `other bundles answer the same with and without drafts`() {
        val golden = TestPlaces.fixture("golden").listFiles().orEmpty()
        val bundles = golden.map { File(Json.parseObject(it.readText()).text("bundle")) }.filter { File(it, "plans.json").isFile }
        assumeTrue("no bundle has golden steps and plans", bundles.isNotEmpty())
        for (bundle in bundles) Engine.open(bundle, PLENTY, EngineParts(library = TestPlaces.kernels())).use { engine ->
            for (temperature in listOf(0.0, 0.8)) {
                val asked = settings.copy(temperature = temperature, seed = 3)
                val plain = read(engine, asked.copy(speculation = false))
                // Whether they are drafted, the costs of this machine decide.
                repeat(4) { assertEquals(text(plain), text(read(engine, asked)), bundle.name) }
            }
        }
    }

    private fun open(): Engine = Engine.open(folder, PLENTY, parts)

    private fun read(
        engine: Engine,
        settings: AnswerSettings,
        with: List<Message> = messages,
        between: () -> Unit = {},
    ): List<AnswerChunk> = engine.answer(with, settings).use { answer ->
        val chunks = ArrayList<AnswerChunk>()
        while (answer.hasNext()) {
            between()
            chunks.add(answer.next())
        }
        chunks
    }

    private fun text(chunks: List<AnswerChunk>): String = chunks.joinToString("") { chunk -> chunk.pieces.joinToString("") { it.text } }

    private companion object {
        const val PLENTY = 4_000_000_000L
    }
}
