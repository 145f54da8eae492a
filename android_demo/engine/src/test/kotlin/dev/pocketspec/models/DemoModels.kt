package dev.pocketspec.models

import dev.pocketspec.TestPlaces
import dev.pocketspec.bundle.Bundle
import dev.pocketspec.plan.Plan
import dev.pocketspec.plan.PlanRequest
import dev.pocketspec.plan.PlanTableReader
import dev.pocketspec.plan.ProcessBytes
import org.junit.Assume.assumeTrue
import java.io.File

/** What `python -m tests.android_demo.model_fixtures` writes; a test is skipped without it. */
object ModelFixtures {
    /** The file or folder called [name]. */
    fun file(name: String): File {
        val file = File(TestPlaces.root, "android_demo/build/fixtures/models/$name")
        assumeTrue("no ${file.name}: python -m tests.android_demo.model_fixtures", file.exists())
        return file
    }
}

/** The demo bundle with plans of trees of 15 nodes, and its levels, opened as planned. */
class DemoModels(kernels: String = Kernels.NATIVE) {
    val bundle: Bundle = Bundle.read(ModelFixtures.file("demo"))
    val kernels = if (kernels == Kernels.NATIVE) Kernels(TestPlaces.kernels()) else Kernels.ofOnnxRuntime
    val arena = Arena(DirectAllocator())
    val levels = Levels(bundle, this.kernels, arena)
    private val table = PlanTableReader.read(bundle)

    private fun request(budget: Long, context: Int, kvType: String?) =
        PlanRequest(budget, kernels.name, ProcessBytes(0, 0), context, kvType)

    /** The least budget for such a plan. */
    fun smallest(context: Int, kvType: String?): Long = table.smallestBytes(request(0, context, kvType))

    /** The plan for [context] tokens, with a KV cache of [kvType] (null: planned), that fits [budget]. */
    fun plan(context: Int, kvType: String? = null, budget: Long = Long.MAX_VALUE): Plan =
        table.choose(request(budget, context, kvType))
}
