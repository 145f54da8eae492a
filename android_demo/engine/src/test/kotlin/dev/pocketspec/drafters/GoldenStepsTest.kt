package dev.pocketspec.drafters

import dev.pocketspec.Slow
import dev.pocketspec.TestPlaces
import dev.pocketspec.bundle.Bundle
import dev.pocketspec.decoding.GoldenAnswer
import dev.pocketspec.json.Json
import dev.pocketspec.json.JsonObject
import dev.pocketspec.models.Arena
import dev.pocketspec.models.DirectAllocator
import dev.pocketspec.models.Kernels
import dev.pocketspec.models.Levels
import dev.pocketspec.plan.Plan
import dev.pocketspec.plan.PlanRequest
import dev.pocketspec.plan.PlanTableReader
import dev.pocketspec.plan.ProcessBytes
import java.io.File
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Assume.assumeTrue
import org.junit.Test
import org.junit.experimental.categories.Category

/** Drafts, accepted counts and tokens of real bundles, as `python -m tests.android_demo.golden` wrote them. */
class GoldenStepsTest {
    @Test
    fun everyStepOfATinyBundleIsPythons() = repeatAnswers(TestPlaces.fixture("golden/tiny.json"))

    @Test
    @Category(Slow::class)
    fun everyStepOfRealBundlesIsPythons() {
        val files = TestPlaces.fixture("golden").listFiles().orEmpty().filter { it.name != "tiny.json" }
        assumeTrue("no bundle has golden steps: python -m tests.android_demo.golden BUNDLE", files.isNotEmpty())
        for (file in files) repeatAnswers(file)
    }

    private fun repeatAnswers(file: File) {
        val golden = Json.parseObject(file.readText(), file.name)
        val folder = File(golden.text("bundle"))
        assumeTrue("$folder is not here", folder.isDirectory)
        val bundle = Bundle.read(folder)
        val arena = Arena(DirectAllocator())
        val isNative = golden.text("kernels") == Kernels.NATIVE
        val kernels = if (isNative) Kernels(TestPlaces.kernels()) else Kernels.ofOnnxRuntime
        val levels = Levels(bundle, kernels, arena)
        val plan = plan(golden, bundle)
        levels.openTarget(plan).use { target ->
            val drafters = levels.openDrafters(plan)
            try {
                val answers = golden.list("answers")
                assertTrue(answers.isNotEmpty())
                val registry = DrafterRegistry(drafters, target.vocabSize)
                for (answer in answers) GoldenAnswer(answer as Map<*, *>).assertRepeated(target, registry, plan.context)
            } finally {
                drafters.values.forEach { it.close() }
            }
        }
        assertEquals(0L, arena.bytes)
    }

    /** The plan that Python took: of the largest budget. */
    private fun plan(golden: JsonObject, bundle: Bundle): Plan {
        val table = PlanTableReader.read(golden.text("plans"), PlanTableReader.keyOf(bundle.manifest.files))
        val process = ProcessBytes(0, 0)
        val request = PlanRequest(Long.MAX_VALUE, golden.text("kernels"), process, golden.int("context"))
        val plan = table.choose(request)
        val chosen = plan.levels.map { listOf(it.name, it.kvType, it.capacity.toLong(), it.maxRows.toLong()) }
        assertEquals("levels of the plan", golden.list("levels"), chosen)
        return plan
    }
}
