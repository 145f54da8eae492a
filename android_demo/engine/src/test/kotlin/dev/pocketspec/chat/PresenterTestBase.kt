package dev.pocketspec.chat

import org.junit.After
import org.junit.Rule
import org.junit.rules.TemporaryFolder
import java.io.File
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit
import kotlin.test.fail

/** A presenter with a fake engine; the test's thread is the screen's, and the clock is the test's. */
abstract class PresenterTestBase {
    @get:Rule
    val folder = TemporaryFolder()

    protected val world = FakeWorld()
    protected val posted = LinkedBlockingQueue<() -> Unit>()
    protected val presenters = ArrayList<ChatPresenter>()
    protected val bundle: File by lazy { folder.newFolder("bundle") }
    protected val file: File by lazy { File(folder.root, "conversation.json") }

    @Volatile
    protected var stored: File? = null

    @Volatile
    protected var now = 0L

    @Volatile
    protected var isLow = false

    protected fun presenter(): ChatPresenter {
        val parts = ChatParts(world, ConversationFile(file), { posted.add(it) }, { isLow }, { now }, { stored })
        return ChatPresenter(parts).also(presenters::add)
    }

    protected fun started(budget: Long = 10_000): ChatPresenter = presenter().also {
        stored = bundle
        it.start(budget)
        it.until { state -> state.phase == Phase.READY }
    }

    /** Runs the screen's thread until [condition] holds. */
    protected fun ChatPresenter.until(condition: (ChatState) -> Boolean): ChatState {
        val end = System.nanoTime() + TimeUnit.SECONDS.toNanos(20)
        while (!condition(state)) {
            if (System.nanoTime() > end) fail("the state stayed $state after ${world.calls}")
            posted.poll(5, TimeUnit.MILLISECONDS)?.invoke()
        }
        return state
    }

    protected fun ChatPresenter.ask(text: String): ChatState {
        send(text)
        return until { it.phase == Phase.READY }
    }

    @After
    fun closeAll() {
        world.steps.release(1_000)
        presenters.forEach { it.close() }
    }
}
