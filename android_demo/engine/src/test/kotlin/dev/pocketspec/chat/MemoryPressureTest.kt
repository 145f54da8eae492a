package dev.pocketspec.chat

import org.junit.Test
import java.util.Random
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue

class MemoryPressureTest : PresenterTestBase() {
    @Test
    fun `pressure shrinks the plan between two steps, and calm lets it grow back`() {
        val presenter = started()
        world.steps.drainPermits()
        world.answerSteps = 100
        presenter.send("Hello")
        world.steps.release(1)
        presenter.until { it.statistics?.steps == 1 }
        presenter.trimMemory(BudgetKeeper.RUNNING_LOW)
        world.steps.release(2)
        val half = presenter.until { it.isShrunk }
        assertEquals(5_500, half.plan?.budgetBytes)
        assertEquals(10_000, half.budgetBytes)
        presenter.trimMemory(BudgetKeeper.RUNNING_CRITICAL)
        world.steps.release(2)
        presenter.until { it.plan?.budgetBytes == FakeEngine.SMALLEST }
        for (budget in listOf(5_500L, 10_000L)) {
            now += BudgetKeeper.CALM_MILLISECONDS
            world.steps.release(2)
            presenter.until { it.plan?.budgetBytes == budget }
        }
        world.steps.release(1_000)
        assertEquals(100, presenter.until { it.phase == Phase.READY }.statistics?.steps)
        assertFalse(presenter.state.isShrunk)
    }

    @Test
    fun `harmless levels change nothing`() {
        val presenter = started()
        presenter.trimMemory(5) // running, memory is only beginning to be short
        presenter.trimMemory(20) // the screen is hidden
        presenter.ask("Hello")
        assertTrue(world.calls.none { it.startsWith("budget") }, world.calls.toString())
    }

    @Test
    fun `without an answer the plan shrinks as well, and grows when the screen is back`() {
        val presenter = started()
        presenter.trimMemory(BudgetKeeper.COMPLETE)
        presenter.until { it.plan?.budgetBytes == FakeEngine.SMALLEST }
        now += 3 * BudgetKeeper.CALM_MILLISECONDS
        presenter.resume()
        presenter.until { it.plan?.budgetBytes == 10_000L }
    }

    @Test
    fun `a device that says it is short of memory is believed without a call`() {
        val presenter = started()
        isLow = true
        now += 2_000
        presenter.ask("Hello")
        assertEquals(5_500, presenter.state.plan?.budgetBytes)
        now += 2_000
        presenter.ask("Hello")
        assertEquals(FakeEngine.SMALLEST, presenter.state.plan?.budgetBytes)
    }

    @Test
    fun `a budget below the bound is refused with a sentence, and the old one stays`() {
        val presenter = started()
        presenter.setBudget(10)
        val state = presenter.until { it.error != null && it.budgetBytes == 10_000L }
        assertTrue(assertNotNull(state.error).contains("below 1000"))
        assertEquals(10_000, state.plan?.budgetBytes)
        presenter.setBudget(2_000)
        assertNull(presenter.until { it.plan?.budgetBytes == 2_000L }.error)
    }

    @Test
    fun `only the newest of many budgets is planned`() {
        val presenter = started()
        world.steps.drainPermits()
        presenter.send("Hello")
        world.steps.release(1)
        presenter.until { it.statistics?.steps == 1 }
        for (bytes in 2_000L..3_000L) presenter.setBudget(bytes)
        world.steps.release(10)
        presenter.until { it.phase == Phase.READY && it.plan?.budgetBytes == 3_000L }
        assertTrue(world.calls.count { it.startsWith("budget") } <= 2, world.calls.toString())
    }

    @Test
    fun `memory that runs out in a step is a sentence, and the smallest plan answers the next question`() {
        val presenter = started()
        world.failures.add(OutOfMemoryError("fake"))
        val failed = presenter.ask("Hello")
        assertTrue(assertNotNull(failed.error).startsWith("Memory ran out"))
        assertEquals(FakeEngine.SMALLEST, presenter.state.plan?.budgetBytes)
        presenter.retry()
        assertEquals(2, presenter.until { it.phase == Phase.READY }.messages.size)
    }

    /** A device whose other apps take and give memory at random: the app is told as Android tells, and must follow. */
    @Test
    fun `in a device whose memory comes and goes no step ever needs more than there is`() {
        for (seed in 0L until 3L) {
            val presenter = started()
            simulate(presenter, Random(seed))
            assertNull(presenter.state.error, "seed $seed")
            presenter.close()
        }
    }

    private fun simulate(presenter: ChatPresenter, random: Random) {
        var free = 20_000L
        world.answerSteps = 30
        world.beforeStep = { plan ->
            if (plan.plannedBytes > free) throw OutOfMemoryError("$plan with $free")
            // What others take is announced first, and comes with the next step.
            val next = FakeEngine.SMALLEST + random.nextInt(20_000)
            now += 10_000
            if (next < 10_000) presenter.trimMemory(if (next < 5_500) 15 else 10)
            free = if (next < 5_500) maxOf(next, FakeEngine.SMALLEST) else maxOf(next, 5_500L)
        }
        repeat(3) { presenter.ask("Hello") }
        world.beforeStep = {}
    }
}
