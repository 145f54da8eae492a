package dev.pocketspec.scheduler

import dev.pocketspec.bundle.CancelledException
import dev.pocketspec.bundle.Progress
import dev.pocketspec.decoding.Context
import dev.pocketspec.decoding.Logits
import dev.pocketspec.decoding.Model
import dev.pocketspec.decoding.SamplingParams
import dev.pocketspec.decoding.TableModel
import dev.pocketspec.json.JsonException
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

class CalibrationTest {
    @get:Rule
    val folder = TemporaryFolder()

    private var now = 0.0

    /** A forward of it takes a fixed time and some more for every row; every third is held up. */
    private inner class Timed(private val inner: TableModel, private val first: Double, private val more: Double) :
        Model by inner {
        private var count = 0

        override fun forward(tokens: IntArray, parents: IntArray?, logitsFrom: Int): Logits {
            now += first + more * tokens.size + if (count++ % 3 == 0) 0.03 else 0.0
            return inner.forward(tokens, parents, logitsFrom)
        }
    }

    private val levels = mapOf<String, Model>(
        "target" to Timed(TableModel.of(3, 1, maxRows = 12), 0.010, 0.002),
        "small" to Timed(TableModel.of(3, 2, maxRows = 12, paddingStep = 4), 0.001, 0.001),
    )

    @Test
    fun rowsAreTimedWithoutWhatHeldThemUp() {
        val reports = ArrayList<Long>()
        val costs = Calibration(levels, "target") { now }.measure(Progress { _, done, _ -> reports.add(done) })
        assertArrayEquals(intArrayOf(1, 2, 4, 8), costs.levels.getValue("target").rows)
        assertArrayEquals(intArrayOf(4, 8), costs.levels.getValue("small").rows)
        assertEquals(0.012, costs.levels.getValue("target").of(1), 1e-9)
        assertEquals(0.022, costs.levels.getValue("target").of(6), 1e-9)
        assertEquals(0.034, costs.levels.getValue("target").of(12), 1e-9)
        assertEquals(0.005, costs.levels.getValue("small").of(1), 1e-9)
        assertTrue(costs.stepSeconds >= 0 && costs.suffixSeconds >= 0)
        assertTrue(reports.isNotEmpty())
        assertTrue(levels.values.all { it.cache.length == 0 })
    }

    @Test
    fun aCalibrationThatIsStoppedLeavesEmptyCaches() {
        val calibration = Calibration(levels, "target") { now }
        assertThrows(CancelledException::class.java) { calibration.measure { _, _, _ -> throw CancelledException() } }
        assertTrue(levels.values.all { it.cache.length == 0 })
    }

    @Test
    fun costsAreKeptByWhatTheyDependOn() {
        val costs = CostTable(mapOf("target" to RowCosts(intArrayOf(1, 4), doubleArrayOf(0.1, 0.3))), 1e-4, 2e-5)
        val store = CostStore(folder.root, listOf("bundle", "device"))
        assertNull(store.load())
        store.save(costs)
        val loaded = store.load()!!
        assertEquals(costs.toJson(), loaded.toJson())
        assertEquals(0.2, loaded.levels.getValue("target").of(2) + loaded.levels.getValue("target").of(1) / 3, 1e-9)
        assertNull(CostStore(folder.root, listOf("bundle", "other device")).load())
        folder.root.listFiles()!!.single().writeText("{\"schema\": 1")
        assertNull(store.load())
    }

    @Test
    fun tablesThatNoMeasurementGivesAreRefused() {
        val text = CostTable(mapOf("a" to RowCosts(intArrayOf(1, 4), doubleArrayOf(0.5, 0.25))), 0.0, 0.0).toJson()
        assertTrue("more rows cost no less", text.contains("[0.5,0.5]"))
        for (bad in listOf(text.replace("[1,4]", "[4,1]"), text.replace("0.5,", "-0.5,"), text.replace(":1,", ":2,"))) {
            assertThrows(bad, JsonException::class.java) { CostTable.parse(bad) }
        }
    }

    @Test
    fun aLevelIsBehindByWhatItHasNotRead() {
        val context = Context(40, SamplingParams()).apply { hold(intArrayOf(1, 2, 3, 4, 5)) }
        val open = HashMap(levels)
        val situation = LevelSituation(context, levels.getValue("target"), { open }) { LevelSituation.Room(7, true) }
        levels.getValue("small").prefill(intArrayOf(1, 2, 9))
        assertEquals(3, situation.behind("small"))
        open.remove("small")
        assertNull(situation.behind("small"))
        assertEquals(7, situation.nodes)
        assertTrue(situation.trees)
    }

    @Test
    fun budgetsNeverOweAndRatiosFollowWhatLasts() {
        val budget = LossBudget(0.01, 2.0)
        budget.settle(-5.0, 1.0)
        assertEquals(0.0, budget.balance, 0.0)
        budget.settle(0.5, 0.0)
        assertEquals(0.25, budget.affordable, 1e-12)
        budget.settle(9.0, 0.0)
        assertEquals(2.0, budget.affordable, 1e-12)
        val ratio = RunningRatio(0.3, 4.0)
        ratio.observe(9.0)
        assertEquals("a single hiccup", 1.0, ratio.value, 0.0)
        repeat(40) { ratio.observe(2.0) }
        assertEquals(2.0, ratio.value, 0.01)
        val slope = RowSlope()
        repeat(60) { slope.observe(1.0, 0.4) }
        assertEquals(0.4, slope.value, 0.02)
        slope.observe(1.0, 60.0)
        assertEquals("a forward that was held up", 0.4, slope.value, 0.05)
    }
}
