package dev.pocketspec.chat

import org.junit.Test
import java.util.concurrent.Semaphore
import kotlin.test.assertEquals
import kotlin.test.assertNotNull
import kotlin.test.assertTrue

/** Turning the screen, leaving the app, and the end of the process in the middle of an answer. */
class LifecycleTest : PresenterTestBase() {
    @Test
    fun `no action waits for an engine that is stuck`() {
        val presenter = started()
        world.steps.drainPermits()
        presenter.send("Hello")
        presenter.until { state -> world.calls.any { it.startsWith("answer") } && state.phase == Phase.ANSWERING }
        val waits = waitsOfThisThread()
        presenter.stop()
        presenter.send("More")
        presenter.setBudget(5_000)
        presenter.setSpeculation(false)
        presenter.trimMemory(BudgetKeeper.COMPLETE)
        presenter.retry()
        presenter.clear()
        presenter.import { error("never runs") }
        presenter.save()
        presenter.resume()
        presenter.attach { }
        presenter.attach(null)
        presenter.close()
        assertEquals(waits, waitsOfThisThread(), "the screen's thread waited")
        assertEquals(Phase.ANSWERING, presenter.state.phase)
    }

    private fun waitsOfThisThread(): Long =
        java.lang.management.ManagementFactory.getThreadMXBean().getThreadInfo(Thread.currentThread().id).waitedCount

    @Test
    fun `a turned screen sees the answer that went on without it`() {
        val presenter = started()
        world.steps.drainPermits()
        presenter.attach { }
        presenter.send("Hello")
        world.steps.release(1)
        presenter.until { it.statistics?.steps == 1 }
        presenter.attach(null)
        world.steps.release(1)
        presenter.until { it.statistics?.steps == 2 }
        var seen: ChatState? = null
        presenter.attach { seen = it }
        assertEquals("drafted0 word0 drafted1 word1 ", seen?.streaming?.text)
        world.steps.release(1)
        presenter.until { it.phase == Phase.READY }
        posted.forEach { it() }
        assertEquals(2, seen?.messages?.size)
    }

    @Test
    fun `states come in order, and the last one always comes`() {
        val presenter = started()
        world.answerSteps = 500
        val lengths = ArrayList<Int>()
        presenter.attach { state -> state.streaming?.let { lengths.add(it.text.length) } }
        presenter.ask("Hello")
        while (true) (posted.poll() ?: break)()
        assertEquals(lengths.sorted(), lengths)
    }

    @Test
    fun `an answer is saved as it grows, and comes back as interrupted`() {
        val first = started()
        world.answerSteps = 1_000
        world.steps.drainPermits()
        first.send("Hello")
        world.steps.release(3)
        first.until { it.statistics?.steps == 3 }
        now += 1_500
        for (step in 4..6) {
            world.steps.release(1)
            first.until { it.statistics?.steps == step }
        }

        val second = presenter() // the process ended, and another begins
        stored = null
        second.start(77)
        val state = second.until { it.phase == Phase.READY }
        val (question, answer) = state.messages.map { it.text }
        assertEquals("Hello", question)
        assertTrue("word2" in answer && first.state.streaming?.text.orEmpty().startsWith(answer), answer)
        assertEquals("interrupted", state.messages[1].finish)
        assertEquals(10_000, state.budgetBytes)
        assertEquals(bundle.path, state.bundle)
        assertTrue(state.canRetry)
    }

    @Test
    fun `settings and messages survive the process`() {
        val first = started()
        first.setSpeculation(false)
        first.setBudget(7_000)
        first.ask("Hello")
        first.close()
        waitForClose()
        val second = presenter()
        stored = null
        second.start(77)
        val state = second.until { it.phase == Phase.READY }
        assertEquals(first.state.messages, state.messages)
        assertEquals(false, state.speculation)
        assertEquals(7_000, state.budgetBytes)
    }

    @Test
    fun `closing in the middle ends the answer, saves it and closes the engine`() {
        val presenter = started()
        world.answerSteps = 1_000
        world.steps.drainPermits()
        presenter.send("Hello")
        world.steps.release(2)
        presenter.until { it.statistics?.steps == 2 }
        presenter.close()
        world.steps.release(1)
        waitForClose()
        assertEquals("cancelled", ConversationFile(file).load().messages[1].finish)
    }

    @Test
    fun `what is kept and cannot be read is set aside, and said`() {
        file.writeText("{\"schema\": 1, \"messages\": [7")
        val presenter = presenter()
        stored = bundle
        presenter.start(10_000)
        val state = presenter.until { it.phase == Phase.READY && it.error != null }
        assertTrue(assertNotNull(state.error).contains("conversation.json.unread"))
        assertEquals(2, presenter.ask("Hello").messages.size)
    }

    private fun waitForClose() {
        val done = Semaphore(0)
        Thread {
            while ("close" !in world.calls) Thread.sleep(2)
            done.release()
        }.start()
        assertTrue(done.tryAcquire(20, java.util.concurrent.TimeUnit.SECONDS))
    }
}
