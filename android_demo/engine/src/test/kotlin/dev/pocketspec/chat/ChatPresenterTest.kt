package dev.pocketspec.chat

import dev.pocketspec.bundle.PocketspecException
import org.junit.Test
import java.io.File
import java.util.concurrent.Semaphore
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue

class ChatPresenterTest : PresenterTestBase() {
    @Test
    fun `an answer streams and ends up among the messages`() {
        val presenter = started()
        val state = presenter.ask("Hello")
        assertEquals(listOf("user", "assistant"), state.messages.map { it.role })
        assertEquals("drafted0 word0 drafted1 word1 drafted2 word2 ", state.messages[1].text)
        assertEquals(listOf("drafter", "target"), state.messages[1].pieces.take(2).map { it.source })
        assertEquals("eos", state.messages[1].finish)
        assertEquals(1.0, state.statistics?.acceptanceRate)
        assertNull(state.streaming)
        assertEquals(10_000, state.plan?.parts?.sumOf { it.bytes })
    }

    @Test
    fun `the conversation is sent whole, with the answers so far`() {
        val presenter = started()
        presenter.ask("One")
        presenter.ask("Two")
        val last = world.calls.last { it.startsWith("answer user") }
        assertTrue(last.startsWith("answer user:One|assistant:drafted0 "), last)
        assertTrue(last.endsWith("|user:Two true"), last)
    }

    @Test
    fun `nothing is sent while it answers, and blank text never`() {
        val presenter = started()
        world.steps.drainPermits()
        presenter.send("One")
        presenter.send("Two")
        presenter.send("  \n")
        assertEquals(1, presenter.state.messages.size)
        world.steps.release(10)
        presenter.until { it.phase == Phase.READY }
        presenter.send(" ")
        assertEquals(2, presenter.state.messages.size)
    }

    @Test
    fun `stop ends the answer after its step, and keeps what there is`() {
        val presenter = started()
        world.steps.drainPermits()
        world.answerSteps = 1_000
        presenter.send("Hello")
        world.steps.release(2)
        presenter.until { it.statistics?.steps == 2 }
        presenter.stop()
        world.steps.release(1)
        val state = presenter.until { it.phase == Phase.READY }
        assertEquals("cancelled", state.messages.last().finish)
        assertEquals(3, state.statistics?.steps)
        assertTrue("answer closed" in world.calls)
    }

    @Test
    fun `stop before the first step ends it, too`() {
        val presenter = started()
        world.answerSteps = 1_000_000
        presenter.send("Hello")
        presenter.stop()
        assertEquals(Phase.READY, presenter.until { it.phase == Phase.READY }.phase)
    }

    @Test
    fun `without speculation nothing is drafted from the next answer on`() {
        val presenter = started()
        presenter.setSpeculation(false)
        val state = presenter.ask("Hello")
        assertEquals(setOf("target"), state.messages[1].pieces.map { it.source }.toSet())
        assertEquals(0, state.statistics?.drafted)
    }

    @Test
    fun `an error is a sentence, the question stays, and retry answers it`() {
        val presenter = started()
        world.failures.add(PocketspecException("The context is full; begin a new conversation."))
        val failed = presenter.ask("Hello")
        assertEquals("The context is full; begin a new conversation.", failed.error)
        assertEquals(listOf("user"), failed.messages.map { it.role })
        assertTrue(failed.canRetry)
        presenter.retry()
        val state = presenter.until { it.phase == Phase.READY }
        assertNull(state.error)
        assertEquals(listOf("user", "assistant"), state.messages.map { it.role })
    }

    @Test
    fun `a fault of the engine is a sentence, too, and what was said by then stays`() {
        val presenter = started()
        world.beforeStep = { world.failures.add(IllegalStateException("bad")) }
        val state = presenter.ask("Hello")
        assertTrue(assertNotNull(state.error).contains("IllegalStateException: bad"))
        assertEquals("drafted0 word0 ", state.messages[1].text)
        assertEquals("failed", state.messages[1].finish)
    }

    @Test
    fun `retry replaces the last answer`() {
        val presenter = started()
        presenter.ask("One")
        presenter.ask("Two")
        presenter.retry()
        val state = presenter.until { it.phase == Phase.READY }
        assertEquals(listOf("user", "assistant", "user", "assistant"), state.messages.map { it.role })
    }

    @Test
    fun `a bundle that cannot be opened can be tried again`() {
        world.openFailures.add(PocketspecException("The budget is too small; allow 5 MiB."))
        val presenter = presenter()
        stored = bundle
        presenter.start(10_000)
        val state = presenter.until { it.error != null && it.canRetry }
        assertEquals(Phase.NO_BUNDLE, state.phase)
        presenter.send("Nobody is there")
        assertTrue(presenter.state.messages.isEmpty())
        presenter.retry()
        assertNull(presenter.until { it.phase == Phase.READY }.error)
    }

    @Test
    fun `an import opens what it brought, closes what was open, and shows how far it is`() {
        val presenter = started()
        val seen = ArrayList<ProgressView?>()
        val go = Semaphore(0)
        presenter.attach { seen.add(it.progress) }
        presenter.import { progress ->
            progress.report("Copying files", 1, 2)
            go.acquire()
            folder.newFolder("other")
        }
        presenter.until { it.progress != null && ProgressView("Copying files", 1, 2) in seen }
        assertEquals(Phase.IMPORTING, presenter.state.phase)
        go.release()
        val state = presenter.until { it.phase == Phase.READY }
        assertEquals(File(folder.root, "other").path, state.bundle)
        assertEquals(listOf("open bundle 10000", "close", "open other 10000"), world.calls.toList())
        assertNull(state.progress)
    }

    @Test
    fun `an import that fails or is stopped leaves the open bundle as it is`() {
        val presenter = started()
        presenter.import { throw PocketspecException("There is no space for the bundle: free 12 MiB.") }
        val failed = presenter.until { it.phase == Phase.READY }
        assertEquals("There is no space for the bundle: free 12 MiB.", failed.error)
        presenter.import { progress ->
            while (true) {
                progress.report("Copying files", 1, 2)
                Thread.sleep(1)
            }
            @Suppress("UNREACHABLE_CODE")
            bundle
        }
        presenter.until { it.progress != null }
        presenter.stop()
        val stopped = presenter.until { it.phase == Phase.READY }
        assertNull(stopped.error)
        assertEquals(bundle.path, stopped.bundle)
        assertFalse("close" in world.calls)
        assertEquals(2, presenter.ask("Still there?").messages.size)
    }

    @Test
    fun `a cleared conversation is gone, also from the file`() {
        val presenter = started()
        presenter.ask("Hello")
        presenter.clear()
        presenter.ask("Again")
        assertEquals(2, presenter.state.messages.size)
        assertEquals(2, ConversationFile(file).load().messages.size)
    }
}
